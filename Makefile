PYTHON ?= python
WHEEL_TREE := build/typecheck

.DEFAULT_GOAL := help
.PHONY: help install lint format typecheck test test-all test-gpu demo

help:  ## show what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## install the package, editable, with all that the checks need
	$(PYTHON) -m pip install -e '.[dev]'

lint:  ## check the style
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:  ## mend the style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# focus.kernels lies in kernels/ and exists under its name only once installed, so the type checker
# looks at an installed copy, with the programs beside it.
typecheck:  ## check the types
	rm -rf build
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --target $(WHEEL_TREE) .
	cp -r train.py evaluate.py bench $(WHEEL_TREE)
	cd $(WHEEL_TREE) && $(PYTHON) -m mypy --config-file ../../pyproject.toml \
		-p focus -p bench -m train -m evaluate

test:  ## run the tests that take minutes
	$(PYTHON) -m pytest

test-all:  ## run all tests, also those that launch several processes or download packages
	$(PYTHON) -m pytest --run-slow

test-gpu:  ## run the tests that need a CUDA or ROCm device
	$(PYTHON) -m pytest -m gpu

demo:  ## train on the embedded demo faces
	accelerate launch train.py
