# The only list of commands; `make` prints it. Needs Python 3.11 and make, nothing else:
# everything is installed into .venv from constraints.txt, once.
#   CXX        the C++ compiler for the native kernels; without one torch and numpy serve instead
#   PIP_ARGS   more arguments for pip, for example --index-url URL
#   PYTHON     the interpreter to make .venv from
#   DATA       a CSV or Parquet log of behaviours for `make demo` and `make up`
#   ARGS       more arguments for `make demo`, `make up` and the benchmarks

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
SOURCES := relaygr services trainer console demo bench sim scripts examples ops/docker tests setup.py
PROTOS := $(wildcard protos/relaygr/v1/*.proto)

INSTALLED := $(VENV)/.installed
WHEELS := .cache/wheels/.downloaded
BACKENDS := .cache/wheels/.backends
STUBS := relaygr/v1/__init__.py
NAMES := relaygr/telemetry/names.py
NATIVE := relaygr/native/.built

##@ First
help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(WHEELS) generated ## build .venv, fetch the demo's data, generate code; once
	@echo "ready: .venv ($$($(BIN)/python --version))"

##@ Run
demo: $(INSTALLED) $(WHEELS) generated ## train, start a cluster, replay real histories, report; DATA=file.csv for your own
	@$(BIN)/python -m demo $(if $(DATA),--data '$(DATA)') $(ARGS)

up: $(INSTALLED) $(WHEELS) generated ## start the same cluster and stay up; Ctrl-C ends it
	@$(BIN)/python -m demo --keep $(if $(DATA),--data '$(DATA)') $(ARGS)

##@ Check
test: $(INSTALLED) generated ## everything below but what needs docker or a browser, quickest first; ends with a count by kind
	@rm -rf $(RESULTS)
	@$(MAKE) lint imports unit types property sim-test contract model system
	@$(BIN)/python scripts/count_tests.py $(RESULTS)

lint: $(INSTALLED) generated ## ruff, buf, clang-format, and generated files against their sources
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/buf lint protos
	$(BIN)/clang-format --dry-run -Werror relaygr/native/src/*
	$(BIN)/python scripts/gen_telemetry.py --check
	$(BIN)/python scripts/gen_config_tables.py --check
	$(BIN)/python scripts/gen_design_map.py --check

imports: $(INSTALLED) generated ## who may import whom
	$(BIN)/lint-imports

types: $(INSTALLED) generated ## mypy, strict
	$(BIN)/mypy

unit: $(INSTALLED) generated $(BACKENDS) ## cores, their scenarios, and pure code: no sockets, no sleeps; style and architecture rules
	$(call pytest,unit,tests/unit tests/scenarios tests/design tests/ops tests/test_tidy.py tests/test_architecture.py \
	  --ignore tests/ops/test_healthcheck.py)

property: $(INSTALLED) generated ## random histories against the cores' invariants
	$(call pytest,property,tests/property)

tiers-exact: $(INSTALLED) generated ## both tiers at length: thirty times the worlds of `make property`, and bugs that are rarely met
	$(call pytest,tiers-exact,tests/property/test_tiers.py tests/property/test_tiers_can_fail.py --hypothesis-profile tiers-exact)

contract: $(INSTALLED) generated ## each service behind real gRPC, and what stands in for its peers
	$(call pytest,contract,tests/contract tests/ops/test_healthcheck.py)

model: $(INSTALLED) generated ## exactness: cached equals full
	$(call pytest,model,tests/model)

exact: $(INSTALLED) generated ## exactness at length: ten times the examples and seeds of `make model`
	$(call pytest,exact,tests/model --hypothesis-profile exact --timeout 1800)

sim-test: $(INSTALLED) generated ## the simulator: seeds with faults, seeds that once failed, and bugs it must find
	$(call pytest,sim,tests/sim)

system: $(INSTALLED) generated ## the real services, a real etcd, and kill -9
	$(call pytest,system,tests/system -m "not docker")

compose-smoke: $(INSTALLED) $(WHEELS) generated ## build the images, bring up docker-compose.yml, send a request through; needs docker
	$(call pytest,compose,tests/system/test_compose_smoke.py -m docker --timeout 1800)

compose-test: $(INSTALLED) $(WHEELS) generated ## the same, timed, with 200 requests and each one's trace; needs docker; ends with one JSON line
	@$(BIN)/python -m scripts.compose_test $(ARGS)

tier-history: $(INSTALLED) generated ## the DRAM tier with its entries damaged and its processes killed; minutes, ends with one JSON line
	@$(BIN)/python -m tests.system.tier_history $(ARGS)

fuzz: $(INSTALLED) generated ## a million wrong inputs for everything that reads from outside; minutes, ends with one JSON line; ARGS="--target ranker --seed 7"
	@$(BIN)/python -m tests.fuzz $(ARGS)

audit: $(INSTALLED) ## licences and an SBOM of what the lock file names, and installed files against their hashes, into run/audit
	@$(BIN)/python scripts/gen_sbom.py --files $(ARGS)

chaos: $(INSTALLED) generated ## faults of every kind on the real processes, under load; ARGS="--only 'cut_*'" for some; ends with one JSON line
	@$(BIN)/python -m tests.chaos $(ARGS)

console-test: $(INSTALLED) generated ## the console's page in a browser; needs chromium; ends with one JSON line
	@$(BIN)/python scripts/console_test.py $(ARGS)

##@ Simulate
sim: $(INSTALLED) generated ## the cores under virtual time, with faults; SEED=7 ARGS="--instances 4 --seconds 30"; ends with one JSON line
	@$(BIN)/python -m sim --seed $(or $(SEED),1) --faults $(ARGS)

sim-many: $(INSTALLED) generated ## many small clusters with faults, fresh seeds; one that fails is printed and kept
	@$(BIN)/python -m sim.many $(ARGS)

sim-report: $(INSTALLED) generated ## sizes, losses and ablations under virtual time; ends with one JSON line
	@$(BIN)/python -m sim.report $(ARGS)

sim-large: $(INSTALLED) generated ## a thousand instances, two million requests, compiled; minutes, ends with one JSON line; ARGS="--requests 10000000"
	@$(BIN)/python -m sim.compiled sim.large $(ARGS)

##@ Measure
bench: $(INSTALLED) generated ## the cluster under an SLO, full inference against the relay; 20 to 28 minutes, ends with one JSON line
	@$(BIN)/python -m bench.load $(ARGS)

bench-full: $(INSTALLED) generated ## the same for every mode, with sweeps; an hour
	@$(BIN)/python -m bench.load --full $(ARGS)

bench-load-report: $(INSTALLED) generated ## tables and pictures of the last run of either, into bench/reports
	@$(BIN)/python -m bench.load.report run/bench/load

bench-engine: $(INSTALLED) generated ## the engine against this machine's own limits, on random data; ends with one JSON line
	@$(BIN)/python -m bench.engine $(ARGS)

bench-engine-quick: $(INSTALLED) generated ## the same at 4096 tokens and one thread, about two minutes
	@$(BIN)/python -m bench.engine --quick $(ARGS)

bench-report: $(INSTALLED) generated ## tables and pictures of the last run of the engine's, into bench/reports
	@$(BIN)/python -m bench.engine.report run/bench/engine.json

tier-bench: $(INSTALLED) generated ## reloads, stores and appends against copies and recomputing, eviction policies on traces; ends with one JSON line
	@$(BIN)/python -m bench.tiers $(ARGS)

tier-soak: $(INSTALLED) generated ## both tiers at full tables: 2 hours of virtual time, then 10 minutes of load with kills; ends with one JSON line
	@$(BIN)/python -m bench.tiers.soak $(ARGS)

bench-trigger: $(INSTALLED) generated ## what a decision of the trigger costs against a pre-infer; ends with one JSON line
	@$(BIN)/python -m bench.trigger

bench-router: $(INSTALLED) generated ## the router among 1,000 instances and under a million users, beside an empty hop; ends with one JSON line
	@$(BIN)/python -m bench.router --real $(ARGS)

bench-tracing: $(INSTALLED) generated ## what tracing costs, with the console killed and stopped, too; 10 minutes, ends with one JSON line
	@$(BIN)/python -m bench.load.tracing $(ARGS)

##@ Work
protos: $(INSTALLED) ## generate relaygr/v1 from protos/
	$(BIN)/python scripts/gen_protos.py

telemetry: $(INSTALLED) ## generate relaygr/telemetry/names.py from ops/telemetry.yaml
	$(BIN)/python scripts/gen_telemetry.py

native: $(INSTALLED) ## compile the native kernels again; ranking works without them, slower
	$(BIN)/python -m relaygr.native.build --force
	@touch $(NATIVE)

fmt: $(INSTALLED) ## format and sort imports
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i relaygr/native/src/*

docs: $(INSTALLED) generated ## write the settings tables of the services' README files and docs/design-map.md
	$(BIN)/python scripts/gen_config_tables.py
	$(BIN)/python scripts/gen_design_map.py

clean: ## remove what was generated and run; .venv and .cache stay
	rm -rf run build relaygr/v1 $(NAMES) $(NATIVE) relaygr/native/_kernels*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find relaygr services trainer console demo bench scripts examples tests -name __pycache__ -type d -prune -exec rm -rf {} +

generated: $(STUBS) $(NAMES) $(NATIVE)

$(INSTALLED): constraints.txt pyproject.toml setup.py
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 was not found; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
	  -e '.[ranker,parquet,local,console,dev]'
	@touch $@

# MovieLens-100k is read out of this wheel; it is never installed and never committed.
$(WHEELS): | $(INSTALLED)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps recbole==1.2.1 -d $(@D)
	@touch $@

# Read as archives by tests/design/test_backend_names.py; never installed and never imported.
$(BACKENDS): pyproject.toml | $(INSTALLED)
	@if $(BIN)/python -m pip download --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --only-binary :all: \
	  torch-npu==2.13.0 fbgemm-ascend==1.5.0 -d $(@D); then touch $@; \
	elif [ -n "$${CI:-}" ]; then exit 1; \
	else echo "torch-npu's wheel cannot be fetched; the names used of it are not checked"; fi

$(STUBS): $(PROTOS) scripts/gen_protos.py | $(INSTALLED)
	$(BIN)/python scripts/gen_protos.py

$(NAMES): ops/telemetry.yaml scripts/gen_telemetry.py | $(INSTALLED)
	$(BIN)/python scripts/gen_telemetry.py

# Made also where there is no compiler: that is said once, and `make native` tries again.
$(NATIVE): $(wildcard relaygr/native/src/*) relaygr/native/build.py | $(INSTALLED)
	$(BIN)/python -m relaygr.native.build
	@touch $@

# One kind of tests; its closing line goes to the terminal, its counts to $(RESULTS).
define pytest
@echo "--- $(1)"
@mkdir -p $(RESULTS)
@$(PYTEST) --junitxml=$(RESULTS)/$(1).xml $(2)
endef

.PHONY: help setup demo up bench bench-full bench-load-report bench-engine bench-engine-quick bench-report test lint \
  bench-router bench-trigger bench-tracing tier-bench tier-soak tier-history imports types unit property tiers-exact \
  contract model exact system compose-smoke compose-test chaos fuzz audit console-test protos telemetry native fmt docs clean generated
.PHONY: sim sim-large sim-many sim-report sim-test
