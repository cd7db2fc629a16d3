# Two commands for a fresh machine with Python 3.11 or 3.12, make and a C compiler: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
# A user's own settings must not decide what the tests see; one thread a process, two processes.
CLEAN := env -u SSBENCH_DATA -u SSBENCH_RUNS -u SSBENCH_RESULTS OMP_NUM_THREADS=1

.PHONY: demo test lint bench clean

demo: $(STAMP)
	$(CLEAN) $(BIN)/ssbench demo --out demo

test: lint
	$(CLEAN) $(BIN)/pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	for script in tests/bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache demo

$(STAMP): pyproject.toml
	@echo "installing into .venv (PyTorch takes minutes and some gigabytes)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
