#!/usr/bin/env bash
# Takes damaged event files out of MinIO's queue directory: one of them (a disk was full, the power went) stops its
# target, and every event behind it waits. MinIO goes on by itself; what the lost events told of, reconcile finds.
set -euo pipefail

usage() {
  cat <<EOF
Usage: ${0##*/} QUEUE_DIR           a directory of this machine (the local stack's: .lookingglass/data/events)
       ${0##*/} --docker CONTAINER  the one in a MinIO container of \`make up\`
EOF
}

fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# An event is one JSON object in a file of its own, so what was cut short does not end as one.
whole() { [[ $(tail -c 16 "$1" | tr -d '\0[:space:]') == *\} && $(head -c 1 "$1" | tr -d '\0') == \{ ]]; }

mend() {
  local directory=$1 file looked=0 damaged=0
  [[ -d $directory ]] || fail "There is no directory $directory."
  while IFS= read -r -d '' file; do
    looked=$((looked + 1))
    if [[ -e $file ]] && ! whole "$file" && [[ -e $file ]]; then # MinIO removes what it has sent meanwhile
      damaged=$((damaged + 1))
      printf 'Removed %s (%s bytes).\n' "$file" "$(wc -c <"$file")"
      rm -f "$file"
    fi
  done < <(find "$directory" -type f -name '*.event*' -mmin +0.05 -print0)
  printf 'Of %d events that waited, %d were damaged.\n' "$looked" "$damaged"
  ((damaged == 0)) || printf 'Now run: python -m app.worker reconcile\n'
}

case ${1:-} in
  --docker)
    [[ -n ${2:-} ]] || { usage >&2; exit 2; }
    # In the container's own words, since its directory is a volume.
    exec docker exec --interactive "$2" bash -s -- /events <"${BASH_SOURCE[0]}"
    ;;
  -h | --help | help) usage ;;
  '' | -*)
    usage >&2
    exit 2
    ;;
  *) mend "$1" ;;
esac
