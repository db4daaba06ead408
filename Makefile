# Two commands do everything: `make train` and `make test`. Each creates .venv from constraints.txt when missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup train test lint docs test-slow test-gpu

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[agents,dev]"
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
