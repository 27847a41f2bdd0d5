# Bartizan's tasks. `make help` lists them; CI (.ci/run) calls the same ones.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
export PYTHON
BIN := .venv/bin
OPA_VERSION := v1.22.2
OPA := build/bin/opa
# How many pytest workers, which wait much; `make test WORKERS=0 ARGS='-k guard -x'` runs in one process.
WORKERS ?= 4
# Which tests `make slow` runs, and which have commands of their own.
SLOW := e2e or slow
APART := conformance or perf
ARGS ?=

.PHONY: help setup run tour test slow attack fuzz lint fix types coverage conformance bench opa lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv and install the locked dependencies, hashes checked
	@requirements/install.sh

run: setup ## start the firewall in the foreground, in front of real demonstration upstreams
	@exec $(BIN)/bartizan up $(ARGS)

tour: setup ## drive a running firewall as an agent would (second terminal)
	@exec $(BIN)/bartizan tour $(ARGS)

test: setup ## run the tests (about four minutes); what takes longer: make slow
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not ($(SLOW)) and not ($(APART))" $(ARGS)

# Whole processes have clocks of their own: two at a time.
slow: WORKERS := 2
slow: setup ## run the tests of whole processes and of every combination (a few minutes more)
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "($(SLOW)) and not ($(APART))" $(ARGS)

attack: setup ## run the attack cases only; each names the control and OWASP ids it proves
	@exec $(BIN)/python -m pytest tests/attack $(ARGS)

fuzz: setup ## feed hostile bytes to every parser for a bounded time
	@exec $(BIN)/python -m tests.fuzz.run $(ARGS)

lint: setup ## ruff, import contracts; opa fmt, check and test where opa is built
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@if [ -x $(OPA) ]; then \
	  $(OPA) fmt --fail --diff policies && $(OPA) check --strict --bundle policies && $(OPA) test --bundle policies && echo "opa: fmt, check and test clean"; \
	else echo "SKIPPED: opa fmt, check and test. Go builds it: make opa"; fi

fix: setup ## let ruff (and opa) mend what they can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@if [ -x $(OPA) ]; then $(OPA) fmt --write policies; fi

types: setup ## mypy, strict, on our packages
	@$(BIN)/mypy

coverage: setup ## run the tests and report what they reach (build/coverage/html)
	@mkdir -p build/coverage
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not ($(APART))" --cov --cov-report=term --cov-report=html $(ARGS)

conformance: setup ## run the official MCP suites, other people's servers and clients, and kill loaded nodes; installs Node from PyPI
	@requirements/install.sh conformance
	@$(BIN)/python -m tests.conformance.run $(ARGS)
	@exec $(BIN)/python -m pytest -m conformance tests/e2e tests/front_door

bench: setup ## measure cost per request beside direct and nginx; writes benchmarks/results/latest.json
	@exec $(BIN)/python -m benchmarks.run $(ARGS)

opa: ## build the reference policy engine with Go into build/bin/opa (minutes)
	@command -v go >/dev/null || { echo "opa: Go is not installed; the embedded engine works without it. Building needs a current Go, newer than the one of Debian 12" >&2; exit 1; }
	@if $(OPA) version 2>/dev/null | grep -qx 'Version: $(OPA_VERSION:v%=%)'; then echo "$(OPA) $(OPA_VERSION) is there"; else \
	  echo "building opa $(OPA_VERSION), a few minutes"; mkdir -p build/bin; \
	  GOBIN="$(CURDIR)/build/bin" go install github.com/open-policy-agent/opa@$(OPA_VERSION); fi

lock: ## resolve all groups together and rewrite requirements/*.txt (UPGRADE=1 moves every version)
	@requirements/lock.sh

clean: ## remove what was made: caches, build/, dist/, .venv (never .bartizan, your state)
	@rm -rf build dist .venv .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
