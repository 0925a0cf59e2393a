#!/usr/bin/env bash
# Sets up, shows and removes the bucket notification by hand, with MinIO's client.
# The local stack and the Pulumi program do this themselves; this is for a MinIO that stands already.
set -euo pipefail

readonly TARGET=lookingglass
readonly EVENTS=put,delete

WEBHOOK_ENDPOINT=${WEBHOOK_ENDPOINT:-http://localhost:5002/webhook/minio}
IMAGE_BUCKET=${IMAGE_BUCKET:-images}
VIDEO_BUCKET=${VIDEO_BUCKET:-videos}
MINIO_ENDPOINT=${MINIO_ENDPOINT:-http://localhost:9000}
MINIO_USER=${MINIO_USER:-minioadmin}
MINIO_PASSWORD=${MINIO_PASSWORD:-minioadmin}
MINIO_ALIAS=${MINIO_ALIAS:-}
QUEUE_DIR=${QUEUE_DIR:-/tmp/lookingglass-events}
QUEUE_LIMIT=${QUEUE_LIMIT:-1000000}
MC=${MC:-mc}
WAIT_SECONDS=${WAIT_SECONDS:-60}

usage() {
  cat <<EOF
Usage: ${0##*/} [setup | show | clean | help]

  setup  configure MinIO's target notify_webhook:$TARGET and send it the events of both buckets (the default)
  show   print the target and both buckets' notifications
  clean  remove the target and our entry, and nothing else, from both buckets' notifications

Environment (value now):
  WEBHOOK_ENDPOINT  where MinIO posts events ($WEBHOOK_ENDPOINT)
  WEBHOOK_TOKEN     bearer token MinIO sends ($([[ -n ${WEBHOOK_TOKEN:-} ]] && echo set || echo not set))
  IMAGE_BUCKET      ($IMAGE_BUCKET)
  VIDEO_BUCKET      ($VIDEO_BUCKET)
  MINIO_ENDPOINT    ($MINIO_ENDPOINT)
  MINIO_USER        ($MINIO_USER)
  MINIO_PASSWORD    (not shown)
  MINIO_ALIAS       an alias mc has already, instead of the three above (${MINIO_ALIAS:-none})
  QUEUE_DIR         where MinIO, on its host, keeps events while the webhook is away; absolute ($QUEUE_DIR)
  QUEUE_LIMIT       most events kept there ($QUEUE_LIMIT)
  MC                MinIO's client ($MC)
EOF
}

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The keys go to mc on its standard input, so that they stand on no process list.
connect() {
  command -v "$MC" >/dev/null || fail "$MC is not on PATH: install MinIO's client, or set MC to where it is."
  [[ $("$MC" --version 2>/dev/null) == *[Mm]in[Ii][Oo]* ]] || fail "$MC is not MinIO's client: set MC to where that is."
  local error
  if [[ -z $MINIO_ALIAS ]]; then
    MINIO_ALIAS=lookingglass
    MC_CONFIG_DIR=$(mktemp -d)
    export MC_CONFIG_DIR
    trap 'rm -rf "$MC_CONFIG_DIR"' EXIT
    [[ $MINIO_ENDPOINT == *://* ]] || MINIO_ENDPOINT=http://$MINIO_ENDPOINT
    error=$(printf '%s\n%s\n' "$MINIO_USER" "$MINIO_PASSWORD" \
      | "$MC" alias set "$MINIO_ALIAS" "$MINIO_ENDPOINT" 2>&1 >/dev/null) \
      || fail "MinIO at $MINIO_ENDPOINT does not let us in: $error"
  fi
  error=$("$MC" ls "$MINIO_ALIAS" 2>&1 >/dev/null) || fail "MinIO at $MINIO_ENDPOINT does not let us in: $error"
}

# The region, where one is set, is part of the name, so it is MinIO that is asked for it.
target_arn() {
  "$MC" admin info --json "$MINIO_ALIAS" | grep -o "arn:minio:sqs:[^\"]*:$TARGET:webhook" | head -n 1 || true
}

setup() {
  [[ $QUEUE_DIR == /* ]] || fail "QUEUE_DIR=$QUEUE_DIR must be an absolute path on MinIO's host."
  if target_from_environment; then
    say "It is set by MinIO's environment, which is left as it is."
  else
    configure_target
  fi
  local arn bucket
  arn=$(target_arn)
  [[ -n $arn ]] || fail "MinIO does not list the target notify_webhook:$TARGET; see \"$MC admin info $MINIO_ALIAS\"."
  for bucket in "$IMAGE_BUCKET" "$VIDEO_BUCKET"; do
    "$MC" mb --ignore-existing "$MINIO_ALIAS/$bucket" >/dev/null
    "$MC" event add --ignore-existing --event "$EVENTS" "$MINIO_ALIAS/$bucket" "$arn" >/dev/null
    say "Bucket $bucket sends its events to $arn."
  done
}

configure_target() {
  local settings=(endpoint="$WEBHOOK_ENDPOINT" queue_dir="$QUEUE_DIR" queue_limit="$QUEUE_LIMIT" enable=on)
  if [[ "$(current_config) " == *" endpoint=$WEBHOOK_ENDPOINT "*" queue_dir=$QUEUE_DIR "* && -z ${WEBHOOK_TOKEN:-} ]]; then
    return # MinIO does not show the token, so with one it is set again
  fi
  [[ -z ${WEBHOOK_TOKEN:-} ]] || settings+=(auth_token="Bearer $WEBHOOK_TOKEN")
  say "Configuring notify_webhook:$TARGET for $WEBHOOK_ENDPOINT …"
  # From standard input, because the token must not stand on a process list.
  local error
  error=$("$MC" admin config import "$MINIO_ALIAS" <<<"$(config_line "${settings[@]}")" 2>&1 >/dev/null) \
    || fail "MinIO does not take the target: $error"
  restart
}

config_line() {
  printf 'notify_webhook:%s' "$TARGET"
  local setting
  for setting in "$@"; do
    printf ' %s="%s"' "${setting%%=*}" "${setting#*=}"
  done
  printf '\n'
}

current_config() { "$MC" admin config get "$MINIO_ALIAS" "notify_webhook:$TARGET" 2>/dev/null || true; }

target_from_environment() { [[ $(current_config) == *"MINIO_NOTIFY_WEBHOOK_ENABLE_$TARGET"* ]]; }

restart() {
  say "Restarting MinIO, which the change needs …"
  "$MC" admin service restart --json "$MINIO_ALIAS" >/dev/null || fail "MinIO would not restart."
  local second
  for ((second = 0; second < WAIT_SECONDS; second++)); do
    if "$MC" ready "$MINIO_ALIAS" >/dev/null 2>&1 && "$MC" ls "$MINIO_ALIAS" >/dev/null 2>&1; then
      return
    fi
    sleep 1
  done
  fail "MinIO is not back after $WAIT_SECONDS s."
}

show() {
  say "Target:"
  current_config | sed -E 's/(auth_token=)("[^"]*"|[^ ]+)/\1(set)/; s/^/  /'
  local bucket
  for bucket in "$IMAGE_BUCKET" "$VIDEO_BUCKET"; do
    say "Bucket $bucket:"
    "$MC" event list "$MINIO_ALIAS/$bucket" 2>&1 | sed 's/^/  /'
  done
}

clean() {
  local arn bucket
  arn=$(target_arn)
  for bucket in "$IMAGE_BUCKET" "$VIDEO_BUCKET"; do
    if [[ -n $arn && $("$MC" event list "$MINIO_ALIAS/$bucket" "$arn" 2>/dev/null) == *"$arn"* ]]; then
      "$MC" event remove --event "$EVENTS" "$MINIO_ALIAS/$bucket" "$arn" >/dev/null
      say "Bucket $bucket no longer sends its events to $arn."
    fi
  done
  if target_from_environment; then
    say "The target is set by MinIO's environment; take it away there."
  elif [[ -n $arn ]]; then
    "$MC" admin config reset "$MINIO_ALIAS" "notify_webhook:$TARGET" >/dev/null
    restart
    say "Removed the target notify_webhook:$TARGET."
  else
    say "There is no target notify_webhook:$TARGET."
  fi
}

case ${1:-setup} in
  setup | show | clean)
    connect
    "${1:-setup}"
    ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
