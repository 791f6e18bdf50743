# Two commands do all the setup: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The demo's options: DATASET=folder/of/videos SEEDS="0 1 2" OUTPUT=demo
DATASET ?= motion
SEEDS ?= 0
OUTPUT ?= demo

.PHONY: demo test test-all test-hf lint format docs clean

# Rebuilt whenever the dependencies change.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/installed
	$(BIN)/python scripts/demo.py --dataset $(DATASET) --seeds $(SEEDS) --output_dir $(OUTPUT)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"

test-all: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# The common tests of transformers, which pip downloads. Arguments: K="s3d or ProcessorTest"
test-hf: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python scripts/test_hf.py -n 2 $(if $(K),-k "$(K)")

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/mkdocs build --quiet

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist site src/*.egg-info
