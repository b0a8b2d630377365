# make run    set up, run the quick profile on every framework, show where they agree with C and C.T
# make test   set up, run the tests
# make lint   set up, check style, types, the architecture and the workflow
# make bench  set up, measure the oracle and the harness against their peers

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test lint bench clean

# Status 1 means that frameworks disagree with the mathematics, which is news and not a failure of make.
run: $(VENV)/run.stamp
	@$(BIN)/conformance run || [ $$? -eq 1 ]

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the frameworks into $(VENV); the first time takes a few minutes ..."
	@$(PIP) -e '.[all]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	@$(PIP) -e '.[all,test]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/test.stamp
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
