# Two commands do everything: `make quickstart` and `make test`. Both make the environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install test test-slow test-wheel quickstart docs lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: install
	@$(BIN)/python run.py suite configs/suites/quickstart.yaml
	@$(BIN)/python run.py leaderboard runs/quickstart --out runs/quickstart/leaderboard

# Two processes; the tests of a file stay together, as they share what they set up.
test: install lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

# A wheel, installed into an empty environment and used from an empty folder.
test-wheel: install
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

# The site, in site/; a link that leads nowhere is an error.
docs: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/test_site.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
