# Everything runs in a virtual environment that make builds from pyproject.toml and constraints.txt.
SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := $(VENV)/$(SCRIPTS)
INSTALLED := $(VENV)/.installed
CONSTRAINTS ?= constraints.txt
OLDEST := $(VENV)-oldest
DEVICE ?= cuda
CUDA_INDEX ?= https://download.pytorch.org/whl/cu130
GPU_BIN = $(or $(GPU_PYTHON),.venv-gpu/$(SCRIPTS)/python)
DEVICE_TESTS = $$(grep -rl --include='test_*.py' 'device: torch.device' proofs_tests)
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)

# One thread for each process' linear algebra: the tests run in parallel processes, and small operators lose more to
# threads than they gain. Training in `demo` takes all cores.
test fast thorough oldest bench bench-quick docs: export OMP_NUM_THREADS := 1

.PHONY: help demo test fast thorough oldest gpu lint format docs bench bench-quick mutation

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## a guided tour: trains, samples and shows what the algebra does
	$(BIN)/induced tour

test: $(INSTALLED) ## all tests and doctests (WORKERS=2 processes)
	$(BIN)/python -m pytest -n $(WORKERS)

fast: $(INSTALLED) ## in a minute: the laws of each class once, each error, each application
	HYPOTHESIS_PROFILE=dev $(BIN)/python -m pytest -n $(WORKERS) -m fast $$(grep -rl --include='test_*.py' '@pytest.mark.fast' proofs_tests)

thorough: $(INSTALLED) ## all tests, each property on a thousand examples
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n $(WORKERS)

# The library's tests with the lower bounds of pyproject.toml. Torch is the pinned one there, too, unless TORCH=2.6.0 is given:
# from PyPI that is a download of gigabytes. An old package may use what a newer one of its own dependencies deprecates.
oldest: $(OLDEST)/.installed ## the tests of the library with the oldest versions that pyproject.toml allows
	$(OLDEST)/$(SCRIPTS)/python -m pytest -n $(WORKERS) -W ignore::DeprecationWarning induced \
		proofs_tests/counterexamples proofs_tests/laws proofs_tests/proofs proofs_tests/units

# An environment of its own, with a CUDA build of torch; or, with GPU_PYTHON=python3, one that is there.
gpu: $(if $(GPU_PYTHON),,.venv-gpu/.installed) ## on a machine with a GPU, 8 minutes: device tests, bits, laws, speed; to runs/gpu/
	OMP_NUM_THREADS=1 timeout 180 $(GPU_BIN) -m pytest -q -n 8 --device $(DEVICE) $(DEVICE_TESTS); status=$$?; \
	$(GPU_BIN) -m experiments.measure_gpu --device $(DEVICE) && exit $$status

lint: $(INSTALLED) ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## the documentation in docs/_build/html; warnings and broken links are errors
	rm -rf docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

bench: $(INSTALLED) ## side by side with other libraries: measures for 20 minutes, writes docs/benchmarks.md
	$(call measured,full,runs/benchmarks.json,docs/benchmarks.md)

bench-quick: $(INSTALLED) ## the same once at small sizes, to runs/benchmarks/: that it works
	$(call measured,quick,runs/benchmarks-quick.json,runs/benchmarks/benchmarks.md)

# The page is written of whatever was measured, even where a row was wrong; then the target fails.
measured = mkdir -p runs; BENCHMARKS=$(1) $(BIN)/python -m pytest benchmarks --benchmark-json=$(2); status=$$?; \
	$(BIN)/python -m benchmarks.report $(2) --out $(3) && exit $$status

mutation: $(INSTALLED) ## 200 seeded mutants of checks, linearizer and operators (or ONLY="files"): which do the tests miss?
	test -d $(VENV)/mutation || $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --target $(VENV)/mutation cosmic-ray==8.7.0
	PYTHONPATH=$(VENV)/mutation $(BIN)/python tools/mutate.py --workers $(WORKERS) $(if $(ONLY),--only $(ONLY))

# torch goes first and by its pinned version: any other would be a download of gigabytes.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[adapters,apps,bench,docs,hub,onnx,test]'
	touch $@

.venv-gpu/.installed: pyproject.toml constraints.txt
	test -x .venv-gpu/$(SCRIPTS)/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/$(SCRIPTS)/python -m pip install --quiet --index-url $(CUDA_INDEX) torch==$(TORCH)
	grep -v '^torch==' constraints.txt > .venv-gpu/constraints.txt
	.venv-gpu/$(SCRIPTS)/python -m pip install --quiet -c .venv-gpu/constraints.txt -e '.[apps,test]'
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints.txt
	test -x $(OLDEST)/$(SCRIPTS)/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/$(SCRIPTS)/python -m pip install --quiet torch==$(TORCH) $$(grep '^uv==' constraints.txt)
	$(OLDEST)/$(SCRIPTS)/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct -e '.[adapters,bench,hub,onnx,plot,test]'
	touch $@
