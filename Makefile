.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench

help: ## what can be made (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## SQL Server tables, by Kerberos, into two warehouses; KEEP=1 leaves the lab up to look around
	@scripts/demo $(ARGS)

test: ## every test that takes seconds; ARGS="-k name" goes to pytest
	@scripts/test $(ARGS)

test-slow: ## every test that takes minutes
	@scripts/test --slow $(ARGS)

lint: ## style, types and layers
	@scripts/lint

bench: ## the measurements of benchmarks/README.md
	@scripts/bench $(ARGS)
