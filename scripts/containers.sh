#!/usr/bin/env bash
# The containers of a stack of `make up`, on whatever engine it is:
#   scripts/containers.sh <stack> ps
#   scripts/containers.sh <stack> logs [service] [options of docker logs …]
#   scripts/containers.sh <stack> restart [service]
# A service is webhook, worker, gpu-worker, console, redis, minio or qdrant, or one of several: worker-2.
set -euo pipefail

if (($# < 2)); then
  sed -n '2,6s/^# *//p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
stack=$1 what=$2
shift 2

# The stack's own engine, where its configuration names one.
host=$(sed -n 's/^ *lookingglass:dockerHost: *//p' "Pulumi.$stack.yaml" 2>/dev/null | tr -d "\"'" || true)
[[ -z $host ]] || export DOCKER_HOST=$host

label="label=org.lookingglass.stack=$stack"
# Not those that only put files into a volume and are never started.
states=(--filter status=running --filter status=restarting --filter status=exited --filter status=paused)

names() {
  local found
  found=$(docker ps --all --filter "$label" "${states[@]}" --format '{{.Names}}' | sort)
  if [[ -n ${1:-} ]]; then
    local wanted
    wanted=$(grep -E "^lookingglass-$stack-$1(-[0-9]+)?$" <<<"$found" || true)
    [[ -n $wanted ]] || {
      echo "There is no container of $1 in the stack $stack; there are: ${found//$'\n'/ }" >&2
      exit 1
    }
    found=$wanted
  fi
  [[ -n $found ]] || {
    echo "There is no container of the stack $stack on this engine: make up STACK=$stack." >&2
    exit 1
  }
  echo "$found"
}

service=
if [[ $what != ps && -n ${1:-} && ${1:-} != -* ]]; then
  service=$1
  shift
fi

case $what in
  ps)
    exec docker ps --all --filter "$label" "${states[@]}" --format 'table {{.Names}}\t{{.Status}}\t{{.Ports}}'
    ;;
  logs)
    wanted=$(names "$service")
    if [[ $wanted != *$'\n'* ]]; then
      exec docker logs "$@" "$wanted"
    fi
    for name in $wanted; do
      docker logs "$@" "$name" 2>&1 | sed -u "s/^/${name#"lookingglass-$stack-"} | /" &
    done
    wait
    ;;
  restart)
    wanted=$(names "$service")
    # shellcheck disable=SC2086 # a name each; each gets the time to stop that its service takes
    exec docker restart $wanted
    ;;
  *)
    echo "scripts/containers.sh knows ps, logs and restart, not $what." >&2
    exit 2
    ;;
esac
