# Every target makes .venv on first use and shows what it does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint gpu-test clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "numba_fa needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

# A stamp a set of packages: made again when pyproject.toml changes.
$(VENV)/demo.stamp: $(BIN)/python pyproject.toml
	$(BIN)/pip install --progress-bar off -e '.[demo]'
	touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml
	$(BIN)/pip install --progress-bar off -e '.[demo,test,dev,torch]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/python -m numba_fa.demo

lint: $(VENV)/test.stamp
	$(BIN)/ruff check numba_fa reference tests asv_bench
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes: kernels compile in one while NumPy checks in the other.
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m tests.gpu.record --check

# On a machine with an NVIDIA GPU, with the Python that has torch; writes tests/gpu_record.json.
gpu-test:
	$(PYTHON) -m tests.gpu.record

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
