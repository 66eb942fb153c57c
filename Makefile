# What a developer runs. Everything is installed into .venv and .services here; nothing else on the machine changes, but for
# Debian packages that the servers need where there is no Docker (scripts/services.py says which).

PYTHON3 ?= python3
PYTHON  := .venv/bin/python
SHELL   := /bin/bash

.PHONY: help environment services services-stop test check lint format clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

environment: ## the Python environment (.venv), made or brought up to date
	@$(PYTHON3) scripts/environment.py

services: ## start real Kafka, Redis and MySQL (FEATUREFLOW_{KAFKA,REDIS,MYSQL}_PORT, FEATUREFLOW_SERVICES_DIR)
	@$(PYTHON3) scripts/services.py start

services-stop: ## stop them
	@$(PYTHON3) scripts/services.py stop

test: environment lint ## every check and every test, on servers of its own that are gone afterwards
	@mkdir -p .services
	@export FEATUREFLOW_SERVICES_DIR=$$(mktemp -d "$(CURDIR)/.services/test.XXXXXX") \
	        FEATUREFLOW_KAFKA_PORT=0 FEATUREFLOW_REDIS_PORT=0 FEATUREFLOW_MYSQL_PORT=0; \
	trap '$(PYTHON3) scripts/services.py stop --wipe' EXIT; \
	trap 'exit 130' INT TERM HUP; \
	$(PYTHON3) scripts/services.py start && $(PYTHON) -m pytest $(PYTEST_ARGS)

check: environment lint ## the checks and the tests, on the servers of 'make services'
	@$(PYTHON3) scripts/services.py start
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

lint: environment ## ruff, mypy strict, import-linter
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@tail -1 .venv/lint-imports.log

format: environment ## let ruff lay the code out
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

clean: services-stop ## remove what was made here (the downloads in ~/.cache/featureflow stay)
	@rm -rf .services .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
