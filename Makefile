# `make help` lists the commands.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVICE := services/user-service
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --use-pep517 --require-hashes
REQUIRE_PIP = $(BIN)/python -c 'import pip' 2>/dev/null || { echo "$(VENV) has no pip: remove it and try again" >&2; exit 1; }
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help run cluster seed test test-unit faults soak bench calls screenshot sessions rules lint lint-openapi client format sbom migrate lock release clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# A virtual environment without pip, which Debian makes without python3-venv, is not kept.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/run.stamp: requirements-run.txt | $(BIN)/python
	@$(REQUIRE_PIP)
	@echo "installing the service (once, about 20 s)"
	@$(PIP) -r $<
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt | $(BIN)/python
	@$(REQUIRE_PIP)
	@echo "installing the tools of development and tests (once, about 40 s)"
	@$(PIP) -r $<
	@touch $@

run: $(VENV)/run.stamp ## Serve on http://127.0.0.1:5000 with its own PostgreSQL and Redis (PORT=, DATA_DIR=)
	@exec $(BIN)/python -m dev.run

cluster: $(VENV)/dev.stamp ## Run three PostgreSQL nodes that fail over, with etcd and HAProxy (DATA_DIR=)
	@exec $(BIN)/python -m dev.cluster

# The database that the environment names, or else that of a running `make run`; the Redis of the latter.
IN_SERVICE = addresses="$${DATA_DIR:-.data}/addresses"; \
  [[ -n "$$DATABASE_URL$$DATABASE_URL_FILE$$DB_HOST" ]] && others='^export DATABASE_' || others='^$$'; \
  [[ ! -f $$addresses ]] || eval "$$(grep -v "$$others" "$$addresses")"; cd $(SERVICE) && exec

migrate: $(VENV)/run.stamp ## Apply the migrations to the database of `make run`, or to DATABASE_URL
	@$(IN_SERVICE) "$(CURDIR)/$(BIN)/flask" --app app migrate

seed: $(VENV)/run.stamp ## Add example users to the database of `make run`, or to DATABASE_URL (NUMBER=1000000)
	@$(IN_SERVICE) "$(CURDIR)/$(BIN)/flask" --app app users seed $(or $(NUMBER),100000)

test: $(VENV)/dev.stamp ## Run every test on real servers, and in containers if Docker answers
	@$(BIN)/python -m tests

test-unit: $(VENV)/dev.stamp ## Run the tests that need no server
	@$(BIN)/python -m pytest tests/unit

faults: $(VENV)/dev.stamp ## Provoke every fault on real servers and print the table (SECONDS=60, SEED=, AUTH=on)
	@FAULT_AUTHENTICATION=$(AUTH) FAULT_SECONDS=$(or $(SECONDS),60) FAULT_SEED=$(SEED) $(BIN)/python -m pytest tests/faults -m "" -v
	@$(BIN)/python -m pytest tests/e2e tests/integration -m slow -v

soak: $(VENV)/dev.stamp ## Serve mixed load (MINUTES=10); memory, files, threads and pool must stay flat
	@$(BIN)/python -m tests.faults.soak $(or $(MINUTES),10)

bench: $(VENV)/dev.stamp ## Measure the performance in some minutes (FULL=1: an hour; ONLY=growth: one section)
	@$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SHOW),--show) $(if $(ONLY),--only $(ONLY))

calls: $(VENV)/dev.stamp ## Count the project functions called for each kind of request (WRITE=1: into docs/design.md)
	@$(BIN)/python -m benchmarks.calls $(if $(WRITE),--write)

screenshot: $(VENV)/dev.stamp ## Retake docs/swagger-ui.png (needs chromium)
	@SCREENSHOT="$(CURDIR)/docs/swagger-ui.png" $(BIN)/python -m pytest tests/e2e/test_docs.py -k creates_a_user

sessions: $(VENV)/dev.stamp ## Write the output of the documents' sessions with curl again
	@WRITE_SESSIONS=1 $(BIN)/python -m pytest --quiet tests/e2e/test_sessions.py

lint: $(VENV)/dev.stamp ## ruff, mypy, bandit, hadolint, compose-lint, yamllint, kubernetes-validate, and lint-openapi
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(SERVICE)
	@$(BIN)/hadolint $(SERVICE)/Dockerfile deploy/gateway/Dockerfile
	@report=$$($(BIN)/compose-lint docker-compose.yml docker-compose.scale.yml docker-compose.edge.yml docker-compose.auth.yml 2>&1) || { echo "$$report"; exit 1; }
	@$(BIN)/yamllint --strict .
	@set -o pipefail; for overlay in deploy/kubernetes/overlays/*; do \
	  $(BIN)/kubectl kustomize $$overlay | $(BIN)/kubernetes-validate --strict --quiet --no-warn /dev/stdin || exit 1; done

	@if command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
	  $(MAKE) --no-print-directory lint-openapi; else echo "no Node.js 20 and npm: lint-openapi is left out"; fi

# The tools of OpenAPI in JavaScript. npm writes this file at the end.
CLIENTS := tests/e2e/clients
$(CLIENTS)/node_modules/.package-lock.json: $(CLIENTS)/package-lock.json
	@echo "installing the tools of OpenAPI (once, about 20 s)"
	@cd $(CLIENTS) && npm ci --ignore-scripts --silent
	@touch $@

OPENAPI := $(CURDIR)/$(VENV)/openapi.json
WRITE_OPENAPI := PYTHONPATH=$(SERVICE) $(BIN)/python -m dev.openapi >"$(OPENAPI)"

lint-openapi: $(VENV)/dev.stamp $(CLIENTS)/node_modules/.package-lock.json ## Spectral and Redocly on the OpenAPI document (needs Node.js 20)
	@$(WRITE_OPENAPI)
	@cd $(CLIENTS) && node_modules/.bin/spectral lint --quiet --fail-severity hint --ruleset spectral.yaml "$(OPENAPI)"
	@cd $(CLIENTS) && report=$$(REDOCLY_TELEMETRY=off node_modules/.bin/redocly lint "$(OPENAPI)" 2>&1) || { echo "$$report"; exit 1; }

client: $(VENV)/dev.stamp ## Generate a Python client from the OpenAPI document (TARGET=client)
	@$(WRITE_OPENAPI)
	@$(BIN)/openapi-python-client generate --path "$(OPENAPI)" --output-path "$(or $(TARGET),client)" --overwrite \
	  --meta=uv --fail-on-warning

RULES := deploy/kubernetes/components/monitoring/rules.yaml
rules: ## Copy the rules of Prometheus into the manifests of Kubernetes
	@{ sed '/^  groups:$$/q' $(RULES); grep -hv -e '^#' -e '^groups:' -e '^$$' deploy/prometheus/rules/*.yml | sed 's/^/  /'; } >$(RULES).new
	@mv $(RULES).new $(RULES)

format: $(VENV)/dev.stamp ## Format the code and fix simple findings with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Its warning is about dependencies between the packages, of which a lock file tells nothing.
sbom: $(VENV)/dev.stamp ## Write the CycloneDX bill of materials of the image's packages (TARGET=sbom.json)
	@PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file $(or $(TARGET),sbom.json) $(SERVICE)/requirements.txt

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --custom-compile-command 'make lock'
lock: $(BIN)/python ## Upgrade requirements*.txt to the newest versions
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet uv
	@$(BIN)/$(LOCK) --upgrade requirements-dev.in -o requirements-dev.txt
	@$(BIN)/$(LOCK) requirements-run.in -c requirements-dev.txt -o requirements-run.txt
	@$(BIN)/$(LOCK) $(SERVICE)/requirements.in -c requirements-dev.txt -o $(SERVICE)/requirements.txt
	@$(BIN)/$(LOCK) $(SERVICE)/requirements-tracing.in -c requirements-dev.txt -o $(SERVICE)/requirements-tracing.txt
	@for folder in benchmarks/before benchmarks/peers/{fastapi,django,flask-sqlalchemy}; do \
	  $(BIN)/$(LOCK) --upgrade $$folder/requirements.in -o $$folder/requirements.txt; done
	@cd benchmarks/peers/fastify && npm install --package-lock-only --save-exact --no-audit --no-fund \
	  $(addsuffix @latest,ajv ajv-formats fastify ioredis pg pino prom-client)

release: lint test-unit ## Tag this commit with the version of the package and its notes in CHANGELOG.md
	@[[ -z "$$(git status --porcelain)" ]] || { echo "make release: commit the changes first"; exit 1; }
	@version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' $(SERVICE)/user_service/__init__.py); \
	  notes=$$(sed -n "/^## $$version /,/^## /{/^## /d;p;}" CHANGELOG.md); \
	  git tag --annotate --cleanup=whitespace --message "Release $$version" --message "$$notes" "v$$version" && \
	  echo "publish it with: git push origin v$$version"

clean: ## Remove the virtual environment and caches; users under .data stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
