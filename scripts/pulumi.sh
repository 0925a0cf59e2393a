#!/usr/bin/env bash
# Pulumi with a state on this machine, for people without a Pulumi account:
#   scripts/pulumi.sh <state directory> <stack> <pulumi command …>
# With PULUMI_BACKEND_URL set, that backend is used instead; with REPORT set to a report of infra/ansible, the stack takes
# the Docker engine, the cards and the models that the report names.
set -euo pipefail

if (($# < 3)); then
  sed -n '2,5s/^# *//p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
state=$1 stack=$2
shift 2

if ! command -v pulumi >/dev/null; then
  echo "pulumi is not on PATH: install the Pulumi CLI, version 3.259 or newer." >&2
  exit 1
fi

if [[ -z ${PULUMI_BACKEND_URL:-} ]]; then
  mkdir -p "$state"
  PULUMI_BACKEND_URL="file://$(cd "$state" && pwd)"
  export PULUMI_BACKEND_URL
  if [[ -z ${PULUMI_CONFIG_PASSPHRASE+set} && -z ${PULUMI_CONFIG_PASSPHRASE_FILE:-} ]]; then
    # It encrypts the secrets in the state; lost, they are lost.
    export PULUMI_CONFIG_PASSPHRASE_FILE=$PWD/$state/passphrase
    if [[ ! -s $PULUMI_CONFIG_PASSPHRASE_FILE ]]; then
      (umask 077 && head -c 32 /dev/urandom | base64 >"$PULUMI_CONFIG_PASSPHRASE_FILE")
    fi
  fi
fi

pulumi stack select "$stack" >/dev/null 2>&1 || pulumi stack init "$stack"
if [[ -n ${REPORT:-} ]]; then
  config=$(.venv/bin/python -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))["pulumi"]))' "$REPORT")
  pulumi config set-all --stack "$stack" --json "$config"
fi
exec pulumi "$@"
