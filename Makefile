# Two commands do everything: `make demo` and `make test`. The rest is for people who work on the code.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Where Python may not keep what it has compiled, each of the many processes that the demo and the tests start compiles
# all of it anew, which takes longer than everything else that it does at its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

# Only wheels: no code of a dependency runs while it is installed. uv installs ten times faster than pip; where it cannot
# (pip.conf names a private index, say), pip does the same.
install = $(BIN)/uv pip install --quiet --python $(2) --require-hashes --only-binary :all: -r $(1) 2>/dev/null \
	|| $(BIN)/python -m pip --python $(2) install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r $(1)

$(VENV)/.runtime: requirements.lock requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("AAE Pipelines needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	@echo "Setting up the environment (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-uv.lock
	@$(call install,requirements.lock,$(BIN)/python)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Setting up the test environment (once) ..."
	@$(call install,requirements-dev.lock,$(BIN)/python)
	@touch $@

# The platforms' own clients, in an environment of their own: what they depend on never bounds the product.
CLIENTS := $(VENV)/clients

$(VENV)/.clients: requirements-clients.lock $(VENV)/.runtime
	@echo "Setting up the platforms' own clients (once) ..."
	@test -x $(CLIENTS)/bin/python || $(BIN)/python -m venv --without-pip $(CLIENTS)
	@$(call install,requirements-clients.lock,$(CLIENTS)/bin/python) || { echo "The platforms' own clients cannot be had."; exit 1; }
	@touch $@

.PHONY: clients
clients: $(VENV)/.clients ## The platforms' own clients, which the sandbox is held against

# What the benchmark of fetching runs beside us. One that cannot be had costs no other, and is left out there, and said.
PEERS := dlt singer

$(VENV)/.peer-%: benchmarks/peers/%.lock $(VENV)/.runtime
	@echo "Setting up the peer $* (once) ..."
	@test -x $(VENV)/peers/$*/bin/python || $(BIN)/python -m venv --without-pip $(VENV)/peers/$*
	@$(call install,benchmarks/peers/$*.lock,$(VENV)/peers/$*/bin/python) \
		|| { rm -rf $(VENV)/peers/$*; echo "The peer $* cannot be had."; exit 1; }
	@touch $@

.PHONY: peers
peers: ## What people would use instead, for benchmarks/fetch.py
	@$(MAKE) --no-print-directory --keep-going $(PEERS:%=$(VENV)/.peer-%)

# A cluster's own packages, beside the product's in its environment: they are locked to leave everything there as it is.
$(VENV)/.dask: requirements-dask.lock $(VENV)/.runtime
	@echo "Setting up Dask (once) ..."
	@$(call install,$<,$(BIN)/python) || { echo "Dask's packages cannot be had."; exit 1; }
	@touch $@

.PHONY: dask
dask: $(VENV)/.dask ## What a fetch over a Dask cluster needs

.PHONY: demo
demo: $(VENV)/.runtime ## Run the whole product once, on this machine, with nothing to install
	@$(BIN)/aae demo

.PHONY: up
up: $(VENV)/.runtime ## The same, but stay up with schedules active and the Prefect UI open, until Ctrl-C
	@$(BIN)/aae up

# Side by side they take half as long: the one half waits for servers and processes, the other one computes.
.PHONY: test
test: $(VENV)/.dev ## Run every test
	@$(MAKE) --no-print-directory --keep-going clients dask || echo "The tests that need it will skip, and say so."
	@sync  # what was just installed keeps no database waiting for the disk
	@echo "The end-to-end tests run beside the others; what they say follows at the end."
	@$(BIN)/python -m pytest tests/e2e >.e2e.log 2>&1 & e2e=$$!; \
		$(BIN)/python -m pytest tests/unit tests/integration; rest=$$?; \
		wait $$e2e; ends=$$?; cat .e2e.log; exit $$((rest | ends))

.PHONY: image
image: $(VENV)/.dev ## Carry out the container image's steps in a clean root, without a container engine (minutes; as root)
	@AAE_TEST_IMAGE=1 $(BIN)/python -m pytest tests/e2e/test_image.py

ROUNDS ?= 20
SEED   ?= 1

.PHONY: chaos
chaos: $(VENV)/.dev ## Kill and break everything at random: make chaos ROUNDS=200 SEED=1
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

DATABASE ?= sqlite

.PHONY: matrix
matrix: $(VENV)/.dev ## Every fault on every platform: what a fetch makes of it (make matrix DATABASE=mariadb); writes docs/faults.md
	@$(BIN)/python -m tests.proof --database $(DATABASE) --write

EXAMPLES ?= 200

.PHONY: proof
proof: $(VENV)/.dev ## Random worlds, faults and restarts against the sandbox's ledger: make proof EXAMPLES=1000 SEED=1
	@PROOF_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/integration/test_proof.py -q -o timeout=0 --hypothesis-seed=$(SEED)

.PHONY: check
check: $(VENV)/.dev ## Lint, format, types, architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: audit
audit: $(VENV)/.dev ## Dependencies: hashes, no addresses, wheels only, as locked, licences; offline
	@$(BIN)/python -m tests.audit

.PHONY: audit-online
audit-online: audit ## The same, and known vulnerabilities: needs a network that reaches an advisory database
	$(BIN)/uv tool run pip-audit --disable-pip --require-hashes -r requirements.lock

.PHONY: lock
lock: $(VENV)/.runtime ## Resolve the dependencies anew
	$(compile) --group build --group dev -o requirements-dev.lock
	$(compile) --group build -c requirements-dev.lock -o requirements.lock
	$(BIN)/uv pip compile -q --group clients $(LOCK) -c requirements-dev.lock -o requirements-clients.lock
	for peer in $(PEERS); do \
		$(BIN)/uv pip compile -q --group peer-$$peer $(LOCK) -o benchmarks/peers/$$peer.lock || exit; done
	$(BIN)/uv pip compile -q --group dask $(LOCK) -c requirements-dev.lock -o requirements-dask.lock
	echo uv | $(BIN)/uv pip compile -q - $(LOCK) -o requirements-uv.lock
compile = $(BIN)/uv pip compile -q pyproject.toml $(LOCK)
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

.PHONY: clean
clean: ## Remove everything this project made on this machine
	rm -rf $(VENV) .e2e.log .aae .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
