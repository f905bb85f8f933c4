# Setup and checks. Start with `make run` and `make test`; see docs/how-to/install.md.
.DEFAULT_GOAL := help
.PHONY: help run remote-demo install install-test test test-slow chaos lint clean

BIN := .venv/bin
PROFILE ?= demo
ARGS ?=
ifndef SEED
SEED := $(shell awk 'BEGIN { srand(); print int(rand() * 1000000) }')
endif

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: install ## create .venv/ and run the demo, from books to report (PROFILE=..., ARGS="--set stage.key=value")
	@$(BIN)/gpt1 run --profile $(PROFILE) $(ARGS)

remote-demo: install-test ## submit the demo to a cluster on this machine: PostgreSQL, S3, MLflow, Ray (ARGS="--file FILE")
	@$(BIN)/python -m tests.servers.demo $(ARGS)

install: ## create .venv/ only (PYTHON=..., TORCH_INDEX=...)
	@infra/install.sh run

install-test:
	@infra/install.sh test

test: install-test ## run the quick tests (about 4 minutes); skipped tests are listed with the reason
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not chaos" $(ARGS)

test-slow: install-test ## run the slow tests, as .ci/run does
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not chaos" $(ARGS)

chaos: install-test ## run the chaos tests: kills and faults at random moments; prints its seed (SEED=... repeats it)
	@echo "SEED=$(SEED)"
	@SEED=$(SEED) $(BIN)/python -m pytest -m chaos $(ARGS)

lint: install-test ## run ruff, mypy, and import-linter
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean: ## remove .venv/, caches, and build files; keeps ./store
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name store -prune -o -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
