# PYTHON=python3.12 chooses the Python that .venv is made with.

BIN = .venv/bin
STAMP = .venv/.installed
TESTED = .venv/.installed-for-tests
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: help run test coverage soak lint format bench lock
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: $(STAMP)  ## install polyjob into .venv and start the server
	@exec $(BIN)/python -m polyjob serve

test: $(TESTED)  ## install the test dependencies and run all tests: ARGS="-k jobs"
	@echo "Running all tests. On two cores this takes about 10 minutes, or 25 with Docker, Podman and Chromium."
	$(BIN)/python -m pytest -n 3 -rs $(ARGS)

coverage: $(TESTED)  ## run all tests and measure coverage, which takes about twice as long
	$(BIN)/python -m pytest -n 3 -rs --cov --cov-report=term $(ARGS)

soak: $(TESTED)  ## kill parts of a server while jobs run: SECONDS=1200 RUNNER=process SEED=7
	@$(BIN)/python -m tests.crash.soak --seconds $(or $(SECONDS),1200) --runner $(or $(RUNNER),process) $(and $(SEED),--seed $(SEED))

lint: $(TESTED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TESTED)  ## format the code and apply the safe fixes of the linter
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(TESTED)  ## measure polyjob: QUICK=1 ONLY="lists idle" BASELINE=../older-checkout
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(BASELINE),--baseline $(BASELINE))

lock:  ## write the newest versions into requirements.lock
	@PYTHON=$$(tools/python) && export PYTHON && tools/lock

# The lock lists the dependencies of polyjob first, and then those of the tests and linters.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(tools/python) && echo "Installing into .venv ..." && "$$python" -m venv --clear .venv
	@sed '/^# Dependencies of the tests/,$$d' requirements.lock > .venv/runs.lock
	@$(PIP) --require-hashes -r .venv/runs.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(TESTED): $(STAMP)
	@echo "Installing the test dependencies ..."
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@
