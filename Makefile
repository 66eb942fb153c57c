# What a developer runs. Everything is installed into .venv and .services here; nothing else on the machine changes, but for
# Debian packages that the servers need where there is no Docker (scripts/services.py says which).

PYTHON3 ?= python3
PYTHON  := .venv/bin/python
SHELL   := /bin/bash

KILLS ?= 200
SEED    ?= 1

# Tests run in several processes at once, a file's in one of them and in their order; many wait for servers, so there are more
# processes than processors. PROCESSES=0 runs all in one, as 'pytest' alone does.
PROCESSES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 4 ? 2 * n : 8 )))
PYTEST = $(PYTHON) -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
unexport PYTHONDONTWRITEBYTECODE           # or each of them would compile every test anew

.PHONY: help demo environment services services-stop test check simulate faults fuzz lint mend bench-ingest bench-score bench-together \
        bench-online bench-overload bench-coldstart bench-rank bench-release gpu-check clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: environment ## a year of real flights to served scores (ONCE=1: check itself and stop; SABOTAGE=state: must fail; PORT=8080)
	@$(PYTHON) examples/flights/demo.py --port $(or $(PORT),8080) $(if $(ONCE),--once) $(if $(SABOTAGE),--sabotage $(SABOTAGE))

environment: ## the Python environment (.venv), made or brought up to date
	@$(PYTHON3) scripts/environment.py

services: ## start real Kafka, Redis and MySQL (FEATUREFLOW_{KAFKA,REDIS,MYSQL}_PORT, FEATUREFLOW_SERVICES_DIR)
	@$(PYTHON3) scripts/services.py start

services-stop: ## stop them
	@$(PYTHON3) scripts/services.py stop

test: environment lint ## every check and every test, on servers of its own that are gone afterwards
	@mkdir -p .services
	@export FEATUREFLOW_SERVICES_DIR=$$(mktemp -d "$(CURDIR)/.services/test.XXXXXX") \
	        FEATUREFLOW_KAFKA_PORT=0 FEATUREFLOW_REDIS_PORT=0 FEATUREFLOW_MYSQL_PORT=0 FEATUREFLOW_SERVICES_UNSYNCED=1; \
	trap '$(PYTHON3) scripts/services.py stop --wipe' EXIT; \
	trap 'exit 130' INT TERM HUP; \
	$(PYTHON3) scripts/services.py start && $(PYTEST) $(PYTEST_ARGS)

check: environment lint ## the checks and the tests, on the servers of 'make services'
	@$(PYTHON3) scripts/services.py start
	@$(PYTEST) $(PYTEST_ARGS)

simulate: environment ## the worker in made-up worlds of crashes, lost replies, zombies and rollbacks, against the oracle (RUNS=1000 SEED=1)
	@PYTHONPATH=tests PYTHONHASHSEED=0 $(PYTHON) -m simulate --runs $(or $(RUNS),1000) --seed $(or $(SEED),1)

faults: environment ## break real servers and consumers at random (KILLS=200 SEED=1), then compare everything with a naive replay
	@cd tests && PYTHONPATH=. ../$(PYTHON) -m storm --kills $(KILLS) --seed $(SEED)

fuzz: environment ## requests made up from the OpenAPI document, at a real scorer (REQUESTS=100000 SEED=1)
	@cd tests && PYTHONPATH=. ../$(PYTHON) -m fuzz --requests $(or $(REQUESTS),100000) --seed $(SEED)

lint: environment ## ruff, mypy strict, import-linter
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@tail -1 .venv/lint-imports.log

mend: environment ## let ruff mend what it can (it does not lay the code out: tables stay as they were written)
	@$(PYTHON) -m ruff check --fix .

bench-ingest: environment services ## events to exactly-once features on real Kafka and Redis, beside a worker written by hand (PEERS=1: and Flink, Bytewax, Quix)
	@$(PYTHON) benchmarks/ingest.py $(if $(PEERS),--peers $(PEERS)) $(BENCH_ARGS)

bench-score: environment services ## scores over HTTP, beside bare aiohttp (PEERS=1: and Ray Serve, LitServe, MLServer, BentoML)
	@$(PYTHON) benchmarks/score.py $(if $(PEERS),--peers $(PEERS)) $(BENCH_ARGS)

bench-together: environment services ## scores while 50,000 events/s are folded into the same Redis, beside scores while none are
	@$(PYTHON) benchmarks/together.py $(BENCH_ARGS)

bench-online: environment services ## 15 features of 1 and of 100 entities over HTTP (PEERS=1: and Feast's feature server)
	@$(PYTHON) benchmarks/online.py $(if $(PEERS),--peers $(PEERS)) $(BENCH_ARGS)

bench-rank: environment services ## 500 candidates of three recalls, ranked over HTTP
	@$(PYTHON) benchmarks/rank.py $(BENCH_ARGS)

bench-release: environment services ## releases, canaries and rollbacks each second at half load: failed requests, p99 with and without
	@$(PYTHON) benchmarks/release.py $(BENCH_ARGS)

bench-overload: environment services ## scores at 0.5 to 10 times what can be had: latency, goodput, refusals
	@$(PYTHON) benchmarks/overload.py $(BENCH_ARGS)

bench-coldstart: environment ## the first answer of a 100 MB model: from its file, from its optimized graph, held ready; and the loop's longest stall
	@$(PYTHON) benchmarks/coldstart.py $(BENCH_ARGS)

gpu-check: environment ## the contract of models and a profile on this machine's GPU; without one it says that it did not run
	@$(PYTHON) benchmarks/gpu_check.py $(BENCH_ARGS)

clean: services-stop ## remove what was made here (the downloads in ~/.cache/featureflow stay)
	@rm -rf .services .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
