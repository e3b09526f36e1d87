# The two commands that matter: `make run` and `make test`. Both set up .venv by themselves.
# Needs: Python 3.11+ (PYTHON=... to choose one) and make. No root, no compiler, no Node.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTED := $(VENV)/.examples

.PHONY: help setup run test check interop bench natlab contracts wasm clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv from the pinned lock

# The lock is complete, so nothing is resolved; that is also what lets fastecdsa be a wheel (README).
$(STAMP): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: $(STAMP) ## a whole market on this machine: computes a picture and pays for it
	@$(BIN)/golem-p2p demo

test: $(TESTED) ## all tests
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

# The example is a distribution of its own, installed as a stranger's would be.
$(TESTED): $(STAMP) $(wildcard examples/hello_protocol/src/golem_hello/*.py) examples/hello_protocol/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./examples/hello_protocol
	@touch $@

check: $(STAMP) ## lint, format, types, dependency rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

interop: $(STAMP) ## talk with js-, go- and rust-libp2p, each where its toolchain is (needs npm, Go, Cargo and their registries)
	@$(BIN)/python -m tests.interop.prepare
	@$(BIN)/python -m pytest tests/interop

natlab: $(STAMP) ## the NAT matrix with real packets; as root (Debian: apt-get install iproute2 nftables)
	@GOLEM_P2P_NATLAB=strict $(BIN)/python -m pytest -q tests/p2p/reach/test_nat_matrix.py

contracts: ## compile the embedded chain's contracts again (the JSON files are committed)
	@test -x .venv-contracts/bin/vyper || { $(PYTHON) -m venv .venv-contracts && .venv-contracts/bin/python -m pip install --quiet vyper==0.4.3; }
	@.venv-contracts/bin/python node/devnet/contracts/compile.py

wasm: ## build the demo's WASM program again (it is committed)
	@test -x .venv-wasm/bin/python || { $(PYTHON) -m venv .venv-wasm && .venv-wasm/bin/python -m pip install --quiet ziglang==0.17.1; }
	@.venv-wasm/bin/python -m ziglang cc -target wasm32-wasi -O3 -ffast-math -fno-math-errno -Wall -Wextra -s \
		-o node/requestor/demo/pathtracer.wasm examples/pathtracer/pathtracer.c

bench: $(STAMP) ## every benchmark, one JSON object each
	@for f in tests/bench/[a-z]*.py; do $(BIN)/python -m tests.bench.$$(basename $$f .py) --json || exit 1; done

clean: ## remove what setup, run and the builds made
	rm -rf $(VENV) .venv-* .run .interop
