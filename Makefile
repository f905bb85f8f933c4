# The whole set-up in one word. `make run` and `make test` are all a newcomer needs; docs/how-to/install.md says the rest.
.DEFAULT_GOAL := help
.PHONY: help run remote-demo install install-test test test-slow chaos lint clean

BIN := .venv/bin
PROFILE ?= demo
ARGS ?=
ifndef SEED
SEED := $(shell awk 'BEGIN { srand(); print int(rand() * 1000000) }')
endif

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: install ## environment in .venv/, then the demo: books to report (PROFILE=..., ARGS="--set stage.key=value")
	@$(BIN)/gpt1 run --profile $(PROFILE) $(ARGS)

remote-demo: install-test ## the demo submitted to a cluster on this machine: PostgreSQL, S3, MLflow, Ray (ARGS="--file FILE")
	@$(BIN)/python -m tests.servers.demo $(ARGS)

install: ## the environment alone (PYTHON=..., TORCH_INDEX=...)
	@infra/install.sh run

install-test:
	@infra/install.sh test

test: install-test ## the quick tests, about three minutes; what is skipped is printed with its reason
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not chaos" $(ARGS)

test-slow: install-test ## the slow tests, as .ci/run runs them
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "slow and not chaos" $(ARGS)

chaos: install-test ## kills and faults at random moments, long; prints its seed (SEED=... repeats it)
	@echo "SEED=$(SEED)"
	@SEED=$(SEED) $(BIN)/python -m pytest -m chaos $(ARGS)
	@$(BIN)/python -m tests.mutants

lint: install-test ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean: ## removes the environment, caches and build files; never ./store
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name store -prune -o -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
