# Every target makes .venv by itself, once, from a Python >= 3.11 with pip (or uv, when it is on PATH).
.PHONY: help demo test check coverage sim soak mutants bench bench-check lock venv
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin

help:   ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: venv   ## transcode a video on a three-node Ray cluster (VIDEO=path KILL=1 ADDRESS=auto)
	$(BIN)/python -m examples.transcoding $(ARGS)

test: venv   ## run every test (ARGS="tests/placement -k ring" for some)
	$(BIN)/python -m pytest $(ARGS)

check: venv   ## format, lint, types, layers, lock in step with pyproject
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/lock.py --check
	$(BIN)/python scripts/diagrams.py --check

coverage: venv   ## branches of the Exec core that its own tests take: at least 95 %
	$(BIN)/coverage run --branch --source=jido_cluster/exec -m pytest -q tests/exec
	$(BIN)/coverage report --skip-covered --fail-under=95

soak: venv   ## play fault scenarios on five Ray nodes, as root (ARGS="split kill_node --seconds 90 --keep histories")
	$(BIN)/python -m tests.faults $(ARGS)

mutants: venv   ## change the code that decides about retries and chains; list what no test notices
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

sim: venv   ## run the simulator (SEEDS=2000 JOBS=2, or SEED=42 HISTORY=42.jsonl, or MUTANT=word SEEDS=500)
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(FIRST),--first $(FIRST)) $(if $(HISTORY),--history $(HISTORY)) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(MUTANT),--mutant "$(MUTANT)")

bench: venv   ## measure everything quickly, beside what one would take instead, in under 6 minutes; one table
	$(BIN)/python -m benchmarks all --quick $(ARGS)

bench-check: venv   ## a short run that fails when a promised ratio falls below its bar
	$(BIN)/python -m benchmarks check

lock: venv   ## resolve pyproject.toml into requirements.lock again
	$(BIN)/python scripts/lock.py

venv: .venv/.installed

# pip reads nothing but the lock, hashes and all; the project itself is a .pth, built by the locked hatchling.
.venv/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: set PYTHON=/path/to/python3"; exit 1; }
ifneq ($(UV),)
	test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) .venv
	uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
else
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $@
