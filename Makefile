# PYTHON=python3.12 chooses the Python that .venv is made with.

BIN = .venv/bin
STAMP = .venv/.installed
KUBERNETES = .venv/.installed-kubernetes
TESTED = .venv/.installed-for-tests
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: help run test coverage soak lint format bench lock
.DELETE_ON_ERROR:
# Without compiled modules, each process that the tests start would compile polyjob again.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

# The client of the Kubernetes runner is large. An upgrade keeps it, because jobs of another runner may still run.
USES_KUBERNETES = $(findstring kubernetes,$(POLYJOB_RUNNER) $(POLYJOB_RUNNERS))
run: $(STAMP) $(if $(USES_KUBERNETES),$(KUBERNETES),$(wildcard $(KUBERNETES)))  ## install polyjob into .venv and start the server
	@exec $(BIN)/python -m polyjob serve

test: $(TESTED)  ## install the test dependencies and run the tests: ARGS="-k jobs"
	@if [ "$$POLYJOB_TEST_LONG" = 1 ]; then \
		echo "Running all tests in their long form. On two cores this takes about 20 minutes."; \
	else \
		echo "Running the tests in their short form: with samples of the crash points, of the Docker runner's tests and of"; \
		echo "generated values. On two cores this takes about 6 minutes, or 9 with Docker, Podman and Chromium."; \
	fi
	$(BIN)/python -m pytest -n auto $(ARGS)

coverage: $(TESTED)  ## run all tests and measure coverage, which takes about twice as long
	$(BIN)/python -m pytest -n auto --cov --cov-report=term $(ARGS)

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

# Each section of the lock lists the packages that the sections above do not have.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(tools/python) && echo "Creating the virtualenv .venv ..." && "$$python" -m venv --clear .venv
	@echo "Downloading and installing polyjob's packages (9 MB). This takes 10 to 40 seconds ..."
	@sed '/^# Dependencies of the Kubernetes runner/,$$d' requirements.lock > .venv/base.lock
	@$(PIP) --require-hashes --requirement .venv/base.lock
	@echo "Installing polyjob ..."
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(KUBERNETES): $(STAMP)
	@echo "Downloading and installing the Kubernetes client (14 MB). This takes 20 to 90 seconds ..."
	@sed '/^# Dependencies of the tests/,$$d' requirements.lock > .venv/kubernetes.lock
	@$(PIP) --require-hashes --requirement .venv/kubernetes.lock
	@touch $@

$(TESTED): $(KUBERNETES)
	@echo "Downloading and installing the test dependencies (130 MB). This takes 1 to 3 minutes ..."
	@$(PIP) --require-hashes --requirement requirements.lock
	@touch $@
