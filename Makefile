# Two commands on a fresh machine: `make demo`, `make test`. Everything is left in .venv, .cache and build.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-native test-peers accept lint fmt native bench parts load fuzz proto lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(STAMP)  ## .venv with everything; the command is .venv/bin/flui

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v git >/dev/null || { echo "missing: git"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "missing: Python 3.11 or newer (set PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: the venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "setting up .venv (a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## the shop topology from nothing, and a narrated tour of it
	@$(BIN)/flui up compose/shop.yaml -- $(BIN)/python examples/tour.py

test: setup  ## every test that needs nothing but Python
	@$(BIN)/pytest -m "not peers and not acceptance" -n 2 --dist loadfile

test-peers: setup  ## tests that need real engines or other toolchains; what is missing is said
	@$(BIN)/pytest -rs -m "peers and not acceptance"

accept: setup  ## what takes minutes: overload, kills, slow peers, faults, each with its figures
	@$(BIN)/pytest -m acceptance -s

native: setup  ## build/native: the same package, floors 0-2 compiled by mypyc (needs a C compiler)
	@$(BIN)/python tools/native.py

test-native: native  ## the tests again, on the compiled form
	@PYTHONPATH=build/native FLUI_CASES=20000 $(BIN)/python -m pytest -m "not peers and not acceptance" -n 2 --dist loadfile

lint: setup  ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy -p load.peers
	@$(BIN)/mypy -m load.parts

fmt: setup  ## formats
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

bench: setup  ## us beside Envoy and HAProxy, in one run (needs wrk, haproxy, cc; about 13 minutes)
	@test -d build/native || $(MAKE) --no-print-directory native || true
	@$(BIN)/python -m load.peers.bench $(ARGS)

parts: setup  ## what each part of a sidecar adds to the CPU time of a request, on the form at hand and the compiled one
	@$(BIN)/python -m load.parts
	@test ! -d build/native || PYTHONPATH=build/native $(BIN)/python -m load.parts

load: setup  ## locust against the shop topology, with thresholds
	@test -x .cache/locust/bin/locust || { $(PYTHON) -m venv .cache/locust && .cache/locust/bin/pip install -q --disable-pip-version-check -r requirements/load.txt; }
	@$(BIN)/flui up compose/shop.yaml -- .cache/locust/bin/locust -f load/locustfile.py --headless -u 20 -r 20 -t 20s --only-summary

fuzz: setup  ## 100,000 mutated requests through codec, validator and splice
	@$(BIN)/python tools/fuzz.py $(ARGS)

proto: setup  ## examples/proto: what protoc makes of shop.proto
	@$(BIN)/python tools/proto.py

lock:  ## writes requirements/*.txt anew (needs uv)
	@uv pip compile -q --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements/core.txt
	@uv pip compile -q --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml --group test --group lint --group native --group build -o requirements/dev.txt
	@uv pip compile -q --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group load -o requirements/load.txt

clean:  ## removes what the other commands made
	@rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .hypothesis
