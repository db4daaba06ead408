# Two commands do everything: `make train` and `make test`. Each creates .venv from constraints.txt when missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LIBRARIES := .venv-libraries

.PHONY: setup train test lint docs test-slow test-gpu test-libraries

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[agents,text,dev]"
	$(BIN)/python -m esper_env.engine.kernels
	touch $(INSTALLED)

train: $(INSTALLED)
	$(BIN)/python scripts/train_agent.py --algo recurrent_ppo --env EsperMicro-v0 --total-steps 1920

test: lint
	$(BIN)/pytest --numprocesses 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow --timeout 1800

test-gpu: $(INSTALLED)
	$(BIN)/pytest -m gpu

# The other RL libraries pin versions of their own (gymnasium 1.2.2), so they have an environment of their own.
test-libraries: $(LIBRARIES)/.installed
	$(LIBRARIES)/bin/pytest -m "not slow and not gpu" tests/examples tests/env/test_gymnasium.py \
		tests/env/test_wrappers.py tests/env/test_checking.py tests/env/test_stepping.py tests/agents/test_adapter.py

$(LIBRARIES)/.installed: pyproject.toml constraints-libraries.txt
	$(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/pip install --quiet --constraint constraints-libraries.txt \
		--editable ".[rllib,torchrl,agents,text,dev]"
	touch $@
