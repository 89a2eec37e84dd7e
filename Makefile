# `make help` lists the commands. They make .venv first, with the pins of constraints.txt; `make test-trainers` makes .venvs.
PYTHON ?= python3
VENV ?= .venv
VENVS ?= .venvs
BIN := $(VENV)/bin
RUN ?= runs/demo
SEED ?= 0
CASES ?= 1000
CORES := $(shell nproc 2>/dev/null || echo 2)
export TOKENIZERS_PARALLELISM = false

.PHONY: demo check test test-trainers faults fuzz lint help
help:
	@echo "make demo   learn a mixture from text on this machine and score some of its documents (a few minutes), into $(RUN)"
	@echo "make check  style and the quick tests, while you edit: no training, no child processes, no browser"
	@echo "make test   the test suite"
	@echo "make faults [SEED=1]  kill commands, fill disks, start two at once, damage files: every kind, and a table of what came of it"
	@echo "make lint   style, types, import contracts"
	@echo "make test-trainers [TRAINERS='hf megatron']   our files in the trainers' own code, in virtual environments under $(VENVS)"
	@echo "make fuzz   damaged inputs for all commands, SEED=$(SEED) CASES=$(CASES) (about five minutes)"

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; say which to use: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@if [ -e $(RUN)/config.yaml ]; then \
		echo "$(RUN) already holds a run. Look at it:  $(BIN)/mixtures show $(RUN)/mixture.json"; \
		echo "finish it if it was interrupted:  $(BIN)/accelerate launch --config_file launch/accelerate/cpu1.yaml -m proxies.train launch/demo.yaml --resume"; \
		echo "or begin again:  rm -r $(RUN) && make demo"; exit 2; fi
	$(BIN)/accelerate launch --quiet --config_file launch/accelerate/cpu1.yaml --num_cpu_threads_per_process $(CORES) \
		-m proxies.train launch/demo.yaml --run_dir $(RUN)
	$(BIN)/accelerate launch --quiet --config_file launch/accelerate/cpu1.yaml --num_cpu_threads_per_process $(CORES) \
		-m proxies.score $(RUN) --max-rows 400

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m "not slow"

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(CORES)

faults: $(VENV)/.installed
	ALL_FAULTS=1 SEED=$(or $(SEED),0) $(BIN)/python -m pytest tests/faults

test-trainers:
	$(PYTHON) tests/trainers/run.py --venvs $(VENVS) $(TRAINERS)

fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz.run --seed $(SEED) --cases $(CASES) $(ONLY:%=--only %)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
