# Everything starts from a fresh clone: each target first makes .venv and installs into it what it needs.
# `make help` lists the targets; .ci/run calls `make test` and nothing else.

# Hundreds of short processes are started, each of which would compile all of troth and its tests for itself.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
DEV := .venv/.installed-dev
BENCH := .venv/.installed-bench
DATABASES := .venv/.installed-databases
BROWSER := .venv/.installed-browser
SETUP := scripts/setup.sh scripts/packages.sh scripts/constraints.txt scripts/debian-packages.txt pyproject.toml
SOURCES := src tests benchmarks examples scripts

INPUT ?=
NODES ?= 3
DATA ?= troth-data
SEED ?=
ARGS ?=
# Behind the assignments: `export` sets a variable that is not set yet, to nothing, and `?=` then leaves it so.
export TROTH_REWRITE SEED INPUT DATA

.DEFAULT_GOAL := help
.PHONY: help databases browser dev check test test-pure test-integration campaign demo up bench bench-verify bench-hashing bench-2pc bench-engines bench-paxos bench-simulation rewrite sim mutants docs constraints clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'

$(DEV): $(SETUP)
	@scripts/setup.sh dev
	@touch $@

$(BENCH): $(SETUP)
	@scripts/setup.sh dev,bench
	@touch $@ $(DEV)

$(DATABASES): $(SETUP) scripts/debian-databases.txt
	@scripts/setup.sh dev,databases
	@touch $@ $(DEV)

databases: $(DATABASES) ## Install PostgreSQL, MariaDB and their drivers, which some tests and benchmarks start for themselves

$(BROWSER): scripts/packages.sh scripts/debian-browser.txt | $(DEV)
	@scripts/packages.sh scripts/debian-browser.txt
	@touch $@

browser: $(BROWSER) ## Install Chromium, in which some tests open the pages that troth draws

dev: $(DEV) ## Make .venv with everything that development needs

check: $(DEV) ## The fast loop (< 60 s): format, lint, types, layers, pure tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 -m "not integration and not slow and not campaign" $(ARGS)

# Tests that kill processes and time fail-overs run one at a time: two at once on two cores would disturb each other.
# Without the database servers or the browser (no root, say) all other tests run, and the result says that these did not.
# A recipe line that names $(MAKE) is run even by `make -n`, so nothing else may stand in it.
test: $(DEV) ## All tests
	@$(MAKE) --no-print-directory --keep-going -j1 $(DATABASES) $(BROWSER) test-pure test-integration

test-pure: $(DEV)
	@echo "== pure tests"
	@$(BIN)/pytest -n 2 -m "not integration and not campaign" $(ARGS)

test-integration: $(DEV)
	@echo "== tests with real processes, sockets and disks"
	@$(BIN)/pytest -m "integration and not campaign" $(ARGS)

campaign: $(DATABASES) ## The large random comparisons, and property tests on new examples: an hour and more
	$(BIN)/pytest -m hypothesis --hypothesis-profile=explore $(ARGS)
	$(BIN)/pytest -m campaign $(ARGS)

demo: $(DEV) ## Load an inventory of /usr (or INPUT=file.csv, file.jsonl) into three servers, kill the leader, check everything
	@$(BIN)/troth demo $(if $(INPUT),--input "$$INPUT") $(ARGS)

up: $(DEV) ## A cluster on this machine that stays until Ctrl-C (NODES=3 DATA=troth-data)
	@$(BIN)/troth up --nodes $(NODES) --data "$$DATA" $(ARGS)

bench: $(BENCH) ## Speed, fail-over, memory and start beside etcd and PySyncObj; ARGS=--quick takes a minute
	$(BIN)/python benchmarks/bench_cluster.py $(ARGS)

bench-verify: $(BENCH) ## Speed of the consistency checkers
	$(BIN)/python benchmarks/bench_verify.py --json benchmarks/results/verify.json \
		--plot benchmarks/results/verify-growth.html $(ARGS)

bench-hashing: $(BENCH) ## Speed and balance of the hash rings
	$(BIN)/python benchmarks/bench_hashing.py $(ARGS)

bench-engines: $(BENCH) ## Raft beside Multi-Paxos, same workload and faults; writes docs/raft-or-paxos.md (five minutes)
	$(BIN)/python benchmarks/bench_engines.py $(ARGS)

bench-paxos: $(DEV) ## Leaderless registers beside Raft: latency of a put, and the gap when a server dies (two minutes)
	$(BIN)/python benchmarks/bench_paxos.py $(ARGS)

bench-2pc: $(DATABASES) ## Two-phase commit over two PostgreSQL servers, on this disk and on a slow one (six minutes)
	$(BIN)/python benchmarks/bench_2pc.py $(ARGS)

bench-simulation: $(DEV) ## How fast whole servers are simulated (two minutes)
	$(BIN)/python benchmarks/bench_simulation.py $(ARGS)

rewrite: $(DEV) ## Write the expected traces of tests/scenarios anew; then read the diff
	TROTH_REWRITE=1 $(BIN)/pytest tests/scenarios $(ARGS)
	git diff --stat -- tests/scenarios

sim: $(DEV) ## Simulate clusters under faults (SEED=n replays one run; ARGS="--level core" for bare cores)
	$(BIN)/troth simulate $(if $(SEED),replay $(SEED)) $(ARGS)

mutants: $(DEV) ## Put every known bug back: who catches it stands in docs/verification.md then (an hour and more)
	$(BIN)/python tests/mutants/table.py --write $(ARGS)

docs: $(DEV) ## Write docs/cli.md from the commands themselves, and the figures of docs/choosing.md from benchmarks/results
	$(BIN)/python -m troth.cli.reference >docs/cli.md
	$(BIN)/python benchmarks/choices.py

constraints: $(BENCH) $(DATABASES) ## Renew scripts/constraints.txt from what .venv holds
	@{ echo "# Versions that a clean clone installs (pip install -c). Renew with: make constraints"; \
	   $(BIN)/pip freeze --all --exclude-editable | grep -v -e '^pip==' -e '^#' | LC_ALL=C sort -f; } >scripts/constraints.new
	@mv scripts/constraints.new scripts/constraints.txt

clean: ## Remove .venv and all that the tools leave behind
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
