#!/usr/bin/env bash
# What `make up` and its sisters add to Pulumi:
#   scripts/pulumi.sh <stack> <pulumi command …>
#   scripts/pulumi.sh <stack> rotate <credential>
# The passphrase of a state on this machine is made once and kept beside it; the stack is created where there is none;
# without a terminal, nobody is asked. With REPORT set to a report of infra/ansible, the stack takes the Docker engine,
# the cards and the models that the report names.
set -euo pipefail

if (($# < 2)); then
  sed -n '2,7s/^# *//p' "$0" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
stack=$1
shift

if ! command -v pulumi >/dev/null; then
  echo "pulumi is not on PATH: install the Pulumi CLI, version 3.259 or newer." >&2
  exit 1
fi

# It encrypts the secrets in the state; lost, they are lost.
passphrase=.pulumi-state/passphrase
if [[ -z ${PULUMI_BACKEND_URL:-}${PULUMI_CONFIG_PASSPHRASE+set}${PULUMI_CONFIG_PASSPHRASE_FILE:-} ]]; then
  # With stacks of somebody who chose a passphrase of their own, Pulumi asks for it.
  if [[ ! -s $passphrase && ! -e .pulumi-state/.pulumi/stacks ]]; then
    (umask 077 && head -c 32 /dev/urandom | base64 >"$passphrase")
    echo "The state's secrets are encrypted with $passphrase. For \`pulumi\` itself:" >&2
    echo "  export PULUMI_CONFIG_PASSPHRASE_FILE=$PWD/$passphrase" >&2
  fi
  if [[ -s $passphrase ]]; then
    export PULUMI_CONFIG_PASSPHRASE_FILE=$PWD/$passphrase
  fi
fi

pulumi stack select "$stack" >/dev/null 2>&1 || pulumi stack init "$stack"
if [[ -n ${REPORT:-} ]]; then
  config=$(.venv/bin/python -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))["pulumi"]))' "$REPORT")
  pulumi config set-all --stack "$stack" --json "$config"
fi

urn_of() {
  # shellcheck disable=SC2016 # the $ is Python's text
  pulumi stack export | .venv/bin/python -c '
import json, sys
urns = [resource["urn"] for resource in json.load(sys.stdin)["deployment"].get("resources", ())]
credentials = {urn.rpartition("::")[2]: urn for urn in urns if "infra:Credentials$pulumi-python:" in urn}
if sys.argv[1] not in credentials:
    sys.exit(f"there is no credential {sys.argv[1]!r}; there are: {chr(32).join(sorted(credentials)) or None}")
print(credentials[sys.argv[1]])' "$1"
}

if [[ $1 == rotate ]]; then
  urn=$(urn_of "${2:-}")
  set -- up --replace "$urn"
fi
if [[ $1 == up || $1 == destroy ]] && [[ ! -t 0 || ! -t 1 ]]; then
  set -- "$@" --yes
fi
exec pulumi "$@"
