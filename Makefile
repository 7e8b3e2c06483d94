PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Real data that some tests and most benchmarks need, where they are.
ifneq ($(wildcard ../shared/data),)
export TAUT_DATA ?= $(abspath ../shared/data)
endif
export MPLBACKEND = Agg

.PHONY: demo test lint bench clean

# A stamp for each set of dependencies, so that a second call installs nothing.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'taut needs Python 3.11 or later; name one: make demo PYTHON=python3.12' >&2; exit 1; }
	rm -f $(BIN)/python*  # venv keeps the interpreter that is there, which may be an older one
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

# A process for each core, each with one thread: networks this small are hardly faster with more.
test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) runs/demo build
