# Two commands for a fresh machine with Python 3.11 or 3.12, make and a C compiler: make demo, make test.
BIN := .venv/bin
STAMP := .venv/.installed
OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first of these that runs: a name on the path may be a shim for a version that is not there.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '$(OLD_ENOUGH)' 2>/dev/null && echo $$p && break; done)
# A person's own settings must not decide what is seen here; one thread a process, as many processes as JOBS.
JOBS ?= 2
CLEAN := env -u SSBENCH_DATA -u SSBENCH_RUNS -u SSBENCH_RESULTS OMP_NUM_THREADS=1

.PHONY: demo test coverage lint bench soak gpu tracks nightly clean

demo: $(STAMP)
	$(CLEAN) $(BIN)/ssbench demo --out demo

# Files stay whole (loadfile): what a module prepares once is prepared once. No test depends on another's.
test: lint
	$(CLEAN) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

coverage: $(STAMP)
	$(CLEAN) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-report=term

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The long form of the tests that draw at random: kills, signals, two processes on one run, bad inputs. Hours.
SOAKED = $(shell grep -rl SSBENCH_SOAK tests --include='test_*.py')

soak: $(STAMP)
	SSBENCH_SOAK=1 $(CLEAN) $(BIN)/python -m pytest -n $(JOBS) --timeout 3600 $(SOAKED)

bench: $(STAMP)
	set -e; for script in tests/bench/bench_*.py; do echo "$$script"; $(CLEAN) $(BIN)/python $$script; done

# Everything that needs a GPU, in stages that may be cut off. Records and a summary: results/bench/gpu.
gpu: $(STAMP)
	$(BIN)/python tests/bench/gpu.py $(GPU)

# Whether fast is the same method as exact: hours of a CPU; may be stopped and started. make tracks TRACKS="--sets acdc"
tracks: $(STAMP)
	$(CLEAN) $(BIN)/ssbench prepare toy --data-root tracks/data
	$(CLEAN) $(BIN)/python tests/bench/fast_tracks.py --data-root tracks/data --work tracks $(TRACKS)

# The toy tables run afresh into nightly/ and are gated against what is stored: scores within what seeds scatter, then
# images/s. Failed runs (exit code 6) are the gates' to report. make nightly GATE=--exact fails any other number, too.
TABLES ?= $(sort $(patsubst recipes/%.yaml,%,$(wildcard recipes/toy/table*.yaml)))
SEEDS ?= 0 1 2
STORED ?= results
GATE ?=
SLOWER ?= 0.5
NIGHTLY := --results nightly/results

nightly: $(STAMP)
	rm -rf nightly
	$(CLEAN) $(BIN)/ssbench prepare toy --data-root nightly/data
	$(CLEAN) $(BIN)/ssbench run $(TABLES) $(SEEDS:%=--seed %) --jobs $(JOBS) --device cpu --data-root nightly/data \
	  --runs nightly/runs $(NIGHTLY) || test $$? -eq 6
	code=0; \
	$(CLEAN) $(BIN)/ssbench gate $(TABLES) --against $(STORED) $(NIGHTLY) --junit nightly/scores.xml $(GATE) || code=$$?; \
	$(CLEAN) $(BIN)/ssbench gate $(TABLES) --against $(STORED) $(NIGHTLY) --junit nightly/throughput.xml \
	  --throughput --slower $(SLOWER) || code=$$?; \
	exit $$code

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo nightly

# Written last, so that an installation that was cut short is begun again.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "installing into .venv with $(PYTHON): PyTorch is some gigabytes, so the first time takes minutes"
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
