.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-ad test-airflow test-docker test-slow lint bench soak

help: ## what can be made (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## SQL Server tables, by Kerberos and Airflow, into two warehouses; KEEP=1, RUNTIME=docker or process
	@scripts/demo

demo-down: ## end what a demo with KEEP=1 left running
	@scripts/demo down

test: ## every test that takes seconds; ARGS="-k name" goes to pytest
	@scripts/test $(ARGS)

test-ad: ## the tests against a real Active Directory, which is Samba's
	@scripts/test-ad $(ARGS)

test-airflow: ## the tests of the Airflow provider, in a venv of its own
	@scripts/test-airflow $(ARGS)

test-docker: ## the tests of the images and the Kubernetes double, on a Docker engine
	@scripts/test-docker $(ARGS)

test-slow: ## every test that takes minutes
	@scripts/test --slow $(ARGS)

lint: ## style, types and layers
	@scripts/lint

soak: ## ten minutes of a sidecar whose KDC and vault fail at random; ARGS="--minutes 2 --seed 7"
	@scripts/soak $(ARGS)

bench: ## the measurements of benchmarks/README.md
	@scripts/bench $(ARGS)
