# Two commands: `make demo` and `make test`. Both make .venv first, with the pins of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
CORES := $(shell nproc 2>/dev/null || echo 2)
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint help
help:
	@echo "make demo   learn a mixture from text on this machine and score some of its documents (a few minutes), into $(RUN)"
	@echo "make test   the test suite"
	@echo "make lint   style, types, import contracts"

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

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(CORES)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
