# make run    start the server          make test   the tests, with coverage
# make soak   kill parts of a server for SECONDS while jobs of every kind run on it: RUNNER=process SEED=7
# make lint   style and types           make bench  measure      make lock   newest versions into requirements.lock
# PYTHON=python3.12 chooses what .venv is made with.

BIN = .venv/bin
STAMP = .venv/.installed

.PHONY: run test soak lint bench lock
.DELETE_ON_ERROR:

run: $(STAMP)
	@exec $(BIN)/python -m polyjob serve

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

soak: $(STAMP)
	@$(BIN)/python -m tests.lives.fire --seconds $(or $(SECONDS),1200) --runner $(or $(RUNNER),process) $(and $(SEED),--seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/containers.py
	$(BIN)/python bench/pods.py

lock:
	@PYTHON=$$(tools/python) && export PYTHON && tools/lock

$(STAMP): requirements.lock pyproject.toml
	@python=$$(tools/python) && echo "Installing into .venv ..." && "$$python" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
