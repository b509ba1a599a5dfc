# make demo         a chat to try, on http://127.0.0.1:8000
# make test         every test but those of the next two lines
# make django-tests Django's own tests, on its handler and on ours
# make django-soak  50,000 requests to Django's views, and nothing is left of them
# make lint         ruff and mypy
# make docs         the documentation, into docs/_build/html
# make conformance  the Autobahn test suite, where a Python 2.7 exists
# make fuzz         hostile input found by atheris, SECONDS=60 for each target
# make soak         mixed traffic for MINUTES=30, with flat memory and an empty log
# make bench        measurements beside other servers
#
# PYTHON=python3.13 chooses the interpreter, VENV=elsewhere the environment,
# ADDRESS=127.0.0.1:8001 where the demo is, LABELS=tests.test_binds what is tested, JOBS=1
# how many modules of tests run at a time, TARGETS=chunked what is fuzzed. Each extra is
# installed once: a stamp in the environment says for which pyproject.toml.

PYTHON ?= python3
VENV ?= .venv
ADDRESS ?= 127.0.0.1:8000
JOBS ?= 3
SECONDS ?= 60
MINUTES ?= 30
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test django-tests django-soak lint docs conformance fuzz soak bench
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys' 2>/dev/null || { \
	    echo "$(PYTHON) does not run here: name one with 'make PYTHON=...'." >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version 2>&1)," \
	        "but 3.11 or newer is needed: name one with 'make PYTHON=...'." >&2; \
	    exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# $(BIN)/.installed-test has the extra "test", $(BIN)/.installed-run none.
$(BIN)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) install --editable '.$(patsubst [run],,[$*])'
	@touch $@

demo: $(BIN)/.installed-run
	@$(BIN)/python example_project/manage.py seed_demo --url http://$(ADDRESS)
	@exec $(BIN)/python example_project/manage.py runserver $(ADDRESS)

test: $(BIN)/.installed-test
	@$(BIN)/python runtests.py --jobs $(JOBS) --exclude tests.test_handler_soak $(LABELS)

django-tests: $(BIN)/.installed-test
	@$(BIN)/python -m tests.django_suite

django-soak: $(BIN)/.installed-test
	@$(BIN)/python runtests.py tests.test_handler_soak

lint: $(BIN)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(BIN)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

conformance: $(BIN)/.installed-test
	PYTHON=$(BIN)/python tests/conformance/run.sh

fuzz: $(BIN)/.installed-test $(BIN)/.installed-fuzz
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

soak: $(BIN)/.installed-test
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

bench: $(BIN)/python
	$(BIN)/python benchmarks/run.py
