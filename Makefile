# `make help` lists what there is. ARGS passes options on: make test ARGS="-k demo".

# The first of these that is Python 3.11 or 3.12 makes the environment; PYTHON=… names another.
PYTHON ?= python3.11 python3.12 python3
PORT ?= 5000
# Tests side by side. Half of their time they wait for processes, servers and leases: four keep two
# cores busy. Each takes up to 1.7 GB.
JOBS ?= 4

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
.PHONY: help install demo test test-docker check format ui lock audit clean
.PHONY: secrets up down logs user backup backups restore rehearse serve stop pin

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 19

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
	@echo "installing what requirements.lock names into $(VENV): 3.5 GB, 2 to 3 minutes"
	@# Compiled here once: where Python may not keep what it compiles (PYTHONDONTWRITEBYTECODE),
	@# each import of TensorFlow would cost 24 seconds instead of 8.
	@$(ENV) uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(ENV) uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation \
	  --editable .
	@touch $@

demo test: export TF_CPP_MIN_LOG_LEVEL := 2

# A test holds it to what it tells a newcomer to see (tests/run/test_command.py).
DEMO := model=mobilenetv3small data=demo weights=none epochs_finetune=8

demo: $(STAMP)  ## train on generated images with `mlflow run`: no download, no GPU, a few minutes
	@MLFLOW_TRACKING_URI=$(STORE) MLFLOW_EXPERIMENT_NAME=skinml-demo $(ENV) \
	  mlflow run . --env-manager local --experiment-name skinml-demo $(DEMO:%=-P %)
	@echo
	@echo "What to see: from random weights, the network has learned to tell three kinds of generated"
	@echo "pictures apart. Expected is a macro AUC (auc_macro) above 0.9, where guessing gives 0.5. It knows"
	@echo "nothing about skin."
	@echo
	@echo "The run is in mlflow.db, all it made in runs/. The commands above want its environment:"
	@echo "  source $(VENV)/bin/activate && export MLFLOW_TRACKING_URI=$(STORE)"
	@echo "Where to look next:"
	@echo "  make ui        shows it, and prints the address of its results: macro AUC rises with the"
	@echo "                 epochs; most pictures are on the diagonal of the confusion matrix"
	@echo "  ask the model about a melanoma, a nevus and a seborrheic keratosis that it has not seen"
	@echo "  (generated ones: it refuses a photo):"
	@echo "    MLFLOW_TRACKING_URI=$(STORE) $(VENV)/bin/python -m skinml.predict \\"
	@$(ENV) python -c 'from pathlib import Path; \
	  from skinml.data import demo, prepare; \
	  table = max(Path("runs").glob("*-mobilenetv3small-*/predictions_test.csv")); \
	  pictures = map(str, demo.examples(prepare.data_folder("demo"), table)); \
	  print("     ", " \\\n      ".join(["models:/skinml-demo-mobilenetv3small@champion", *pictures]))'

# A file's tests stay together: some start a service, a server or a browser for all of them.
test: $(STAMP)  ## run the tests (ARGS="-m 'not slow'" for the quick ones)
	@$(ENV) python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# SKINML_STANDINS=1 makes, from Debian's packages, what is missing: an engine, the base images.
test-docker: $(STAMP)  ## test the service in containers (docs/service.md says what that needs)
	@SKINML_TEST_DOCKER=1 SKINML_TEST_DOCKER_OUT=$(OUT) $(ENV) tests/docker/with_engine.sh \
	  $(BIN)/python -m pytest -q -x tests/docker $(ARGS)

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
	@$(ENV) python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
	  echo "make: port $(PORT) is taken: make ui PORT=5001" >&2; exit 1; }
	@echo "serving mlflow.db at http://127.0.0.1:$(PORT) (stop with Ctrl-C)"
	@MLFLOW_TRACKING_URI=$(STORE) $(ENV) \
	  python -m skinml.store.views --server http://127.0.0.1:$(PORT)
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(ENV) \
	  mlflow server --app-name skinml --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri $(STORE)

# The images' locks hold no more than what runs in them; the service's has no TensorFlow.
lock: $(STAMP)  ## write the locks from pyproject.toml (ARGS=--upgrade for newer versions)
	$(LOCK) --extra cpu --extra jax --extra export --extra heif --extra dicom --extra service --extra ray --extra slurm --extra dev \
	  --universal --output-file requirements.lock $(ARGS)
	$(LOCK) --extra service --excludes deploy/mlflow/unused.txt $(IMAGE) \
	  --output-file deploy/mlflow/requirements.lock $(ARGS)
	$(LOCK) --extra gpu $(IMAGE) --output-file deploy/train/requirements.lock $(ARGS)
	sed -n '/^uv==/,/^ *# via/p' requirements.lock > deploy/uv.lock

# --strict: a package that the vulnerability service does not know is a failure. Without it an index
# that is not asked in the end passes for one that knows of nothing bad.
audit: $(STAMP)  ## ask for known vulnerabilities of every pinned package (ARGS="-s osv" asks OSV)
	@for lock in requirements.lock deploy/mlflow/requirements.lock deploy/train/requirements.lock; do \
	  echo "$$lock"; \
	  $(ENV) uv tool run pip-audit==2.10.1 --strict --require-hashes --disable-pip \
	    --progress-spinner off --requirement $$lock $(ARGS) || failed=1; \
	done; test -z "$$failed"

LOCK = $(ENV) uv pip compile pyproject.toml --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command "make lock" --quiet
IMAGE = --python-platform x86_64-manylinux_2_28 --only-binary :all:

# --- The tracking service (docs/service.md): in Docker where Compose is, else natively ------------

SERVICE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker || echo native)
NATIVE = $(ENV) python -m skinml.service.native
SAY = @echo "the service: $(SERVICE)"
UP = docker compose up --detach --build --wait

secrets: $(STAMP)  ## make .env with random secrets, readable by you only
	@$(ENV) python -m skinml.service.compose

up: secrets  ## start the service in Docker (https://localhost:8443)
	@$(ENV) python -m skinml.service.docker
	$(UP)

down:  ## stop the service; its data stays
	$(SAY)
ifeq ($(SERVICE),docker)
	@# Of the profiles and of `docker compose run` as well: what is on its networks keeps them.
	docker compose --profile '*' down --remove-orphans
else
	@$(NATIVE) stop
endif

logs:  ## follow the service's logs (ARGS=mlflow for one)
	$(SAY)
ifeq ($(SERVICE),docker)
	docker compose logs --follow --tail 100 $(ARGS)
else
	@ls $(LOGS) >/dev/null && tail -n 20 -F $(LOGS)
endif

LOGS = $${SKINML_SERVICE_DIR:-service-data}/logs/$(or $(ARGS),*).log

user: $(STAMP)  ## make a user: NAME=…, RESET=1 for a new password, CAN=READ|EDIT on all runs
	$(SAY)
ifeq ($(SERVICE),docker)
	@docker compose exec -T mlflow python -m skinml.service.user $(USER_OPTIONS)
else
	@$(ENV) python -m skinml.service.user $(USER_OPTIONS)
endif

USER_OPTIONS = '$(NAME)' $(if $(RESET),--reset) $(if $(CAN),--can '$(CAN)')

backup: $(STAMP)  ## back the service up now
	$(SAY)
ifeq ($(SERVICE),docker)
	@docker compose exec -T backup python -m skinml.service.backup create
else
	@$(NATIVE) backup
endif

backups: $(STAMP)  ## list the backups
	$(SAY)
ifeq ($(SERVICE),docker)
	@docker compose exec -T backup python -m skinml.service.backup list
else
	@$(NATIVE) backups
endif

restore: $(STAMP)  ## restore a backup: FROM=its name, REPLACE=1 if the service is not empty
	$(SAY)
ifeq ($(SERVICE),docker)
	@# What would be refused is refused before the service stops.
	$(RESTORE) --check
	@# PgBouncer, where it runs, keeps connections to the database that is exchanged.
	docker compose stop proxy mlflow backup pgbouncer
	@# A restore that fails leaves the service as it was: running.
	$(RESTORE); status=$$?; $(UP) && exit $$status
else
	@$(NATIVE) restore '$(FROM)' $(if $(REPLACE),--replace)
endif

RESTORE = docker compose run --rm restore python -m skinml.service.backup restore '$(FROM)' \
  $(if $(REPLACE),--replace)

rehearse: $(STAMP)  ## try the migration of an upgrade on a copy of the database
	$(SAY)
ifeq ($(SERVICE),docker)
	docker compose build migrate
	docker compose run --rm restore python -m skinml.service.migrate --rehearse
else
	@$(NATIVE) rehearse
endif

serve: $(STAMP)  ## run the service on this machine without Docker (PORT=5000), until Ctrl-C
	@$(NATIVE) serve --port $(PORT)

stop: $(STAMP)  ## stop what `make serve` started elsewhere
	@$(NATIVE) stop

pin: $(STAMP)  ## write the images' digests into the files (needs docker and a registry)
	@$(ENV) python -m skinml.service.pin

clean:  ## remove the environment and caches; mlflow.db and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find skinml tests -name __pycache__ -prune -exec rm -rf {} +
