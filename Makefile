PYTHON ?= python
WHEEL_TREE := build/typecheck
# An environment of its own for the oldest triton that is supported, kept between runs.
OLDEST := .venv/triton-3.6

.DEFAULT_GOAL := help
.PHONY: help install lint format typecheck test test-all test-gpu test-versions docs bench demo

help:  ## show what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## install the package, editable, with all that the checks need
	$(PYTHON) -m pip install -e '.[dev]'

lint:  ## check the style
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:  ## mend the style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# focus.kernels lies in kernels/ and exists under its name only once installed, so the type checker
# and the contract of imports look at an installed copy, with the programs beside it.
typecheck:  ## check the types, and that imports point one way
	rm -rf build
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --target $(WHEEL_TREE) .
	cp -r train.py evaluate.py bench $(WHEEL_TREE)
	cd $(WHEEL_TREE) && $(PYTHON) -m mypy --config-file ../../pyproject.toml \
		-p focus -p bench -m train -m evaluate
	cd $(WHEEL_TREE) && PYTHONPATH=. lint-imports ../../pyproject.toml

test:  ## run the tests that take minutes
	$(PYTHON) -m pytest

test-all:  ## run all tests, also those that take long, launch several processes or download packages
	$(PYTHON) -m pytest --run-slow

test-gpu:  ## on a CUDA or ROCm device: times, and tests of the kernels, in at most 8 minutes; then tests of whole runs
	$(PYTHON) -m bench.gpu
	$(PYTHON) -m pytest -m gpu tests/test_gpu.py

# The interpreter of triton 3.6 needs numpy < 2.4.
OLDEST_PACKAGES := torch triton==3.6.0 'numpy<2.4'

# In two steps: .ci/run takes this one while it installs the project elsewhere.
$(OLDEST)/packages: Makefile pyproject.toml
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 15) else \
		'error: triton 3.6.0 has wheels for Python 3.11 to 3.14, PYTHON is %d.%d: name another.' % v)"
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $(OLDEST_PACKAGES)
	touch $@

$(OLDEST)/ready: $(OLDEST)/packages
	$(OLDEST)/bin/python -m pip install --quiet -e '.[test]' $(OLDEST_PACKAGES)
	touch $@

test-versions: $(OLDEST)/ready  ## run the tests of the kernels with triton 3.6, the oldest supported
	$(OLDEST)/bin/python -m pytest tests/kernels

# README, CONTRIBUTING and CHANGELOG are pages of the site, too; copies in docs/ have its links.
IN_DOCS := s,\]\(docs/,](./,g; s,\]\(CONTRIBUTING\.md,](./contributing.md,g; s,\]\(CHANGELOG\.md,](./changelog.md,g; s,\]\(([A-Za-z][^:)]*\)),](../\1,g

docs:  ## build the site of docs/ and the docstrings into site/ (needs the extra docs); links are checked
	sed -E '$(IN_DOCS)' README.md > docs/index.md
	sed -E '$(IN_DOCS)' CONTRIBUTING.md > docs/contributing.md
	sed -E '$(IN_DOCS)' CHANGELOG.md > docs/changelog.md
	$(PYTHON) -m zensical build --strict

bench:  ## CPU time of the head against its rivals: a short set, within 5 minutes
	$(PYTHON) -m bench.head --short

demo:  ## train on the embedded demo faces
	focus train
