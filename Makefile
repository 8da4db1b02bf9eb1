# `make help` lists what there is. ARGS passes options on: make test ARGS="-k demo".

# The first of these that is Python 3.11 or 3.12 makes the environment; PYTHON=… names another.
PYTHON ?= python3.11 python3.12 python3
PORT ?= 5000
# Tests side by side: servers and training processes of their own leave little for more.
JOBS ?= 2

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
STORE := sqlite:///mlflow.db
# Nothing here may depend on an activated environment: this one comes first, for children too.
ENV := env -u VIRTUAL_ENV -u PYTHONHOME -u PYTHONPATH PATH="$(BIN):$$PATH"

# uv has its own list of certificate authorities, and so fails where a network has its own authority,
# which the system knows, as pip and curl do.
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test check format ui lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

install: $(STAMP)  ## make the environment .venv; every target that needs it does so by itself

# Done again only when the lock or pyproject.toml changes. The environment is then brought to
# exactly the lock, by the uv that the lock names (and skinml built by its setuptools). A half-made
# one has no uv: it is made anew.
$(STAMP): requirements.lock pyproject.toml
	@if ! $(BIN)/uv --version >/dev/null 2>&1; then \
	  for candidate in $(PYTHON); do \
	    python=$$(command -v $$candidate) && $$python -c \
	      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	      && break; \
	    python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "make: none of '$(PYTHON)' is Python 3.11 or 3.12: install one, or name it with PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$python"; \
	  $$python -m venv --clear $(VENV) \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	      "$$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' requirements.lock)"; \
	fi
	@echo "installing what requirements.lock names into $(VENV)"
	@$(ENV) uv pip sync --quiet --python $(BIN)/python requirements.lock
	@$(ENV) uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation \
	  --editable .
	@touch $@

demo test: export TF_CPP_MIN_LOG_LEVEL := 2

demo: $(STAMP)  ## train on generated images with `mlflow run`: no download, no GPU, a few minutes
	@MLFLOW_TRACKING_URI=$(STORE) MLFLOW_EXPERIMENT_NAME=skinml-demo $(ENV) \
	  mlflow run . --env-manager local --experiment-name skinml-demo \
	    -P model=mobilenetv2 -P data=demo -P weights=none -P epochs_finetune=2 -P batch_size=16
	@echo
	@echo "The run is in mlflow.db, all it made in runs/. Where to look next:"
	@echo "  make ui        then open http://127.0.0.1:$(PORT), experiment skinml-demo, Training runs"
	@echo "  ask the model about one of the generated pictures:"
	@echo "    MLFLOW_TRACKING_URI=$(STORE) $(VENV)/bin/python -m skinml.predict \\"
	@echo "      models:/skinml-demo-mobilenetv2@champion $$($(ENV) python -c \
	  'from skinml.data.prepare import data_folder as f; print(min(f("demo").glob("*Test*/*.jpg")))')"

test: $(STAMP)  ## run the tests (ARGS="-m 'not slow'" for the quick ones)
	@$(ENV) python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

check: $(STAMP)  ## lint, format, types, import order: what CI checks
	$(ENV) ruff check
	$(ENV) ruff format --check
	$(ENV) mypy
	$(ENV) lint-imports --no-logo

format: $(STAMP)  ## format the code and fix what can be fixed
	$(ENV) ruff check --fix-only
	$(ENV) ruff format

# One worker and no job runner: half a gigabyte and 15 seconds instead of 3.3 and 30.
ui: $(STAMP)  ## look at the runs in mlflow.db, on this machine only (PORT=5000)
	@echo "http://127.0.0.1:$(PORT) (stop with Ctrl-C)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(ENV) \
	  mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri $(STORE)

lock: $(STAMP)  ## write requirements.lock from pyproject.toml (ARGS=--upgrade for newer versions)
	$(ENV) uv pip compile pyproject.toml --extra cpu --extra jax --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet --output-file requirements.lock $(ARGS)

clean:  ## remove the environment and caches; mlflow.db and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find skinml tests -name __pycache__ -prune -exec rm -rf {} +
