# make run    start the server          make test   the tests, with coverage
# make soak   kill parts of a server for SECONDS while jobs of every kind run on it: RUNNER=process SEED=7
# make lint   style and types           make bench  measure      make lock   newest versions into requirements.lock
# PYTHON=python3.12 chooses what .venv is made with.

BIN = .venv/bin
STAMP = .venv/.installed
TESTED = .venv/.installed-for-tests
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: run test soak lint bench lock
.DELETE_ON_ERROR:

run: $(STAMP)
	@exec $(BIN)/python -m polyjob serve

test: $(TESTED)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

soak: $(TESTED)
	@$(BIN)/python -m tests.lives.kills --seconds $(or $(SECONDS),1200) --runner $(or $(RUNNER),process) $(and $(SEED),--seed $(SEED))

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TESTED)
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/containers.py
	$(BIN)/python bench/pods.py

lock:
	@PYTHON=$$(tools/python) && export PYTHON && tools/lock

# The lock says first what polyjob runs on, then what its tests need besides.
$(STAMP): requirements.lock pyproject.toml
	@python=$$(tools/python) && echo "Installing into .venv ..." && "$$python" -m venv --clear .venv
	@sed '/^# What the tests/,$$d' requirements.lock > .venv/runs.lock
	@$(PIP) --require-hashes -r .venv/runs.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(TESTED): $(STAMP)
	@echo "Installing what the tests need ..."
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@
