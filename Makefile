# `make up` installs into .venv and serves the app; `make test` runs the whole suite in the same venv.
PYTHON ?= python3
LAB ?= demo
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test install lint clean
.DEFAULT_GOAL := up

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

install: $(VENV)/installed

up: install
	$(BIN)/python -m workbench up $(LAB)

test: install
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
