# Every command that a developer or a build machine needs. `make` lists the targets.

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install -qq --disable-pip-version-check
COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header
STAMP := $(VENV)/installed
PYTEST := $(PYTHON) -m pytest -q
NO_SKIPS = $(if $(filter 0,$(shell id -u)),--no-skips)

.DEFAULT_GOAL := help
.PHONY: help venv setup demo test lint lint-deploy test-image test-vagrant test-apiserver requirements docs test-native test-kernel bench clean
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
# In a guest, compiling what pytest imports takes longer than the tests. Natively compiled, it finds it in the checkout.
unexport PYTHONDONTWRITEBYTECODE

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## make .venv with the project and its tools in it

$(STAMP): pyproject.toml requirements-dev.txt integration/setup.sh
	@sh integration/setup.sh venv $(VENV)
	@$(PIP) --require-hashes -r requirements-dev.txt
	@$(PIP) --no-deps --editable .
	@touch $@

setup: ## install the Debian packages that demo and tests need
	@sh integration/setup.sh

demo: setup venv ## show the proxy at work on a kernel; BACKEND=iptables on one without IPVS, ALL=1 prints everything
	@$(PYTHON) -m integration.demo $(if $(BACKEND),--backend $(BACKEND)) $(if $(ALL),--all)

test: setup venv ## lint, then all tests; those of the kernel in a guest
	@$(MAKE) lint
	@$(MAKE) lint-deploy
	@$(MAKE) test-native
	@$(MAKE) test-kernel

lint: venv ## style, formatting and types
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check . || { $(VENV)/bin/ruff format --check . ; exit 1; }
	@$(VENV)/bin/mypy --strict --no-error-summary ipvsagent integration/guest integration/lab integration/demo integration/bench integration/flows integration/apiserver

test-native: venv ## tests that need no kernel; as root none may be skipped
	$(PYTEST) -m "not kernel" $(NO_SKIPS) --numprocesses auto --maxprocesses 4 --dist worksteal tests

test-kernel: setup venv ## tests on a real kernel, in one guest for each core; none may be skipped
	$(PYTHON) -m integration.kernel_tests

lint-deploy: venv ## manifests against the schemas of Kubernetes; the Vagrantfile, where vagrant is
	@[ -x $(VENV)-manifests/bin/python ] || $(PYTHON) -m venv $(VENV)-manifests
	@$(VENV)-manifests/bin/python -c 'import kubernetes_validate, yaml' 2>/dev/null || \
		$(VENV)-manifests/bin/python -m pip install -qq --disable-pip-version-check 'kubernetes-validate>=1.37,<2' 'PyYAML>=6,<7'
	@$(VENV)-manifests/bin/python -m integration.manifests
	@! command -v vagrant >/dev/null || VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DOTFILE_PATH=$(VENV)-manifests/vagrant vagrant validate >/dev/null

test-image: venv ## build the container image and run it, also with real IPVS; as root, takes minutes
	@sh integration/setup.sh image
	@integration/image/test.sh

test-vagrant: venv ## boot the three machines of the Vagrantfile and query their Services; as root, takes long
	@sh integration/setup.sh vagrant
	@integration/vagrant/test.sh

test-apiserver: venv ## test the API double and a server made from Kubernetes' own library against one contract; as root
	@sh integration/setup.sh apiserver
	@integration/apiserver/real/test.sh

requirements: venv ## rewrite the hashed requirements of the image and of developers
	@$(PIP) uv
	@{ echo '# Every package that the agent runs with, by hash. `make requirements` rewrites it.'; \
		$(COMPILE) --upgrade pyproject.toml; } >requirements.new && mv requirements.new requirements.txt
	@{ echo '# The same, and what tests and tools need. `make requirements` rewrites it.'; \
		$(COMPILE) --extra dev --constraints requirements.txt pyproject.toml; } >requirements.new && \
		mv requirements.new requirements-dev.txt

docs: venv ## draw the pictures of docs/ from their descriptions
	@$(PYTHON) docs/draw.py

bench: setup venv ## speed and size, beside ipvsadm -R and ip -batch; takes minutes and a quiet machine
	@$(PYTHON) -m integration.bench

clean: ## remove what the other targets made
	rm -rf $(VENV) $(VENV)-manifests .vagrant .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
