# Everything a person does here is one command. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "LookingGlass needs Python 3.11 or newer as $(PYTHON); set PYTHON=… to another one." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing: on Debian or Ubuntu, apt-get install python3-venv." >&2; exit 1; }

# The locks name every package with its hash, so pip needs to resolve nothing.
$(VENV)/.local: requirements/local.lock | $(VENV)/bin/python
	@echo "Installing the packages of requirements/local.lock …"
	@$(PIP) install -q --no-deps --require-hashes -r requirements/local.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock | $(VENV)/bin/python
	@echo "Installing the packages of requirements/dev.lock …"
	@$(PIP) install -q --no-deps --require-hashes -r requirements/dev.lock
	@touch $@ $(VENV)/.local $(VENV)/.pulumi $(VENV)/.ansible

$(VENV)/.pulumi: requirements/pulumi.lock | $(VENV)/bin/python
	@echo "Installing the packages of requirements/pulumi.lock …"
	@$(PIP) install -q --no-deps --require-hashes -r requirements/pulumi.lock
	@touch $@

$(VENV)/.ansible: requirements/ansible.lock | $(VENV)/bin/python
	@echo "Installing the packages of requirements/ansible.lock …"
	@$(PIP) install -q --no-deps --require-hashes -r requirements/ansible.lock
	@touch $@

.PHONY: install install-dev install-pulumi
install: $(VENV)/.local ## Install what running needs into .venv
install-dev: $(VENV)/.dev ## Install what developing needs into .venv
install-pulumi: $(VENV)/.pulumi ## Install what `pulumi up` needs into .venv

.PHONY: demo serve
demo: $(VENV)/.local ## Put real photos and a video through the whole pipeline (KEEP=1 leaves it running)
	@$(BIN)/python -m infra.local demo $(if $(KEEP),--keep)
serve: $(VENV)/.local ## Run the whole pipeline on this machine until Ctrl-C
	@exec $(BIN)/python -m infra.local serve

INVENTORY ?= infra/ansible/inventories/example
.PHONY: hosts cluster
hosts: $(VENV)/.ansible ## Prepare the GPU hosts of INVENTORY=… (ARGS="--check --diff" shows what it would do)
	@ANSIBLE_CONFIG=infra/ansible/ansible.cfg $(BIN)/ansible-playbook -i $(INVENTORY) infra/ansible/gpu_hosts.yml $(ARGS)
cluster: $(VENV)/.ansible ## Make the hosts of INVENTORY=… one Docker Swarm, or change it
	@ANSIBLE_CONFIG=infra/ansible/ansible.cfg $(BIN)/ansible-playbook -i $(INVENTORY) infra/ansible/swarm.yml $(ARGS)

# The same state as `pulumi` itself: .pulumi-state, unless PULUMI_BACKEND_URL names another place.
STACK ?= dev
PULUMI := REPORT="$(REPORT)" scripts/pulumi.sh $(STACK)
.PHONY: preview up outputs rotate down ps logs restart scale
preview: $(VENV)/.pulumi ## Show what `make up` would change (STACK=gpu for another stack)
	@$(PULUMI) preview
up: $(VENV)/.pulumi ## Stand the environment up, or change it (REPORT=gpu1.json for a host that `make hosts` prepared)
	@$(PULUMI) up $(ARGS)
outputs: $(VENV)/.pulumi ## Show where everything is, secrets included
	@$(PULUMI) stack output --show-secrets
rotate: $(VENV)/.pulumi ## Make a credential anew, and restart what reads it (CREDENTIAL=api-token)
	@$(PULUMI) rotate $(CREDENTIAL)
down: $(VENV)/.pulumi ## Remove the environment, all but its data
	@$(PULUMI) destroy $(ARGS)

ps: ## List the environment's containers
	@scripts/containers.sh $(STACK) ps
logs: ## Follow the logs of SERVICE=worker, of worker-2, or of all (FOLLOW= shows the end of them and no more)
	@scripts/containers.sh $(STACK) logs $(SERVICE) --tail $(TAIL) $(if $(FOLLOW),--follow)
restart: ## Restart the containers of SERVICE=worker, of worker-2, or all
	@scripts/containers.sh $(STACK) restart $(SERVICE)
scale: $(VENV)/.pulumi ## Run so many workers: WORKERS=4
	@scripts/pulumi.sh $(STACK) config set lookingglass:workers $(or $(WORKERS),$(error say how many: make scale WORKERS=4))
	@$(PULUMI) up $(ARGS)
SERVICE ?=
TAIL ?= 100
FOLLOW ?= 1

.PHONY: test test-unit lint format bench faults screenshots mend-events
test: $(VENV)/.dev ## Run every test, on real servers
	@$(BIN)/python -m infra.local fetch
	$(BIN)/python -m tests.infra $(BIN)/python -m pytest -n 2
test-unit: $(VENV)/.dev ## Run the tests that need no server
	$(BIN)/python -m pytest tests/unit
lint: $(VENV)/.dev ## Check style, types and shell scripts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/shellcheck scripts/*.sh scripts/lookingglass .ci/run tests/ansible/host/machine tests/ansible/host/modprobe \
	  tests/ansible/packages/nvidia-smi tests/ansible/packages/nvidia-ctk tests/ansible/host/rocky/usr/bin/dracut
	cd infra/ansible && PATH=$(CURDIR)/$(BIN):$$PATH ansible-lint --offline --strict --profile production -q
format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format --quiet
bench: $(VENV)/.dev ## Compare speed with the plainest build, side by side (ARGS="--quick", ARGS="events jobs")
	$(BIN)/python -m tests.bench $(ARGS)
faults: $(VENV)/.dev ## Break everything under load at full size, print what became of it (ARGS="--objects 200")
	$(BIN)/python -m tests.faults $(ARGS)
screenshots: $(VENV)/.dev ## Photograph every page of the console in a real Chromium, into docs/screenshots
	SCREENSHOT_DIR=docs/screenshots $(BIN)/python -m pytest -q tests/pipeline/test_browser.py
mend-events: ## Take damaged event files out of the local MinIO's queue directory
	@scripts/mend-event-queue.sh $(or $(LOOKINGGLASS_DIR),.lookingglass)/data/events

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header --no-annotate
.PHONY: lock
lock: ## Write the lock files anew from pyproject.toml (needs uv on PATH)
	$(LOCK) pyproject.toml --extra local -o requirements/local.lock
	$(LOCK) pyproject.toml --extra app -o requirements/app.lock
	$(LOCK) pyproject.toml --extra pulumi -o requirements/pulumi.lock
	$(LOCK) pyproject.toml --extra ansible -o requirements/ansible.lock
	$(LOCK) pyproject.toml --extra dev --override requirements/overrides.txt -o requirements/dev.lock
	$(LOCK) pyproject.toml --extra webhook --extra worker --extra face --extra insightface-gpu \
	  --override requirements/overrides.txt --override requirements/gpu-overrides.txt -o requirements/gpu.lock
	$(LOCK) --no-deps requirements/tools.in -o requirements/tools.lock
	$(LOCK) --no-deps infra/images/minio/go.in -o infra/images/minio/go.lock
	$(LOCK) --no-deps requirements/photos.in -o requirements/photos.lock

.PHONY: clean
clean: ## Remove the virtual environment and the local stack's data
	rm -rf $(VENV) .lookingglass demo.jpg .mypy_cache .pytest_cache .ruff_cache
