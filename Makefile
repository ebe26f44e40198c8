# PYTHON=  the interpreter of .venv, else the first of python3.13, 3.12, 3.11 … that runs
# ARGS=    further arguments of `make run`, `make test`, `make bench`, `make soak` and `make lock`
VENV := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run install test check bench soak lint format lock clean FORCE

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: .venv/run.stamp ## Start the service on 127.0.0.1:8080
	@exec $(VENV)/ticker-actors serve $(ARGS)

install: .venv/all.stamp ## Make .venv with all that run, test and bench need

# More than one at a time, since half of them wait; each worker has a PostgreSQL of its own.
test: .venv/all.stamp ## Run the tests
	@$(VENV)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: lint test ## What CI runs: format, lint, types, import layers, tests

bench: .venv/all.stamp ## Measure everything, beside what a user would take instead (ARGS=--quick)
	@$(VENV)/python -m bench $(ARGS)

MINUTES := 30
soak: .venv/all.stamp ## Keep the service under load for MINUTES=30, and judge
	@$(VENV)/python -m bench soak --minutes $(MINUTES) $(ARGS)

lint: .venv/all.stamp ## Check without the tests
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo

format: .venv/all.stamp ## Format, and fix what ruff can fix
	$(VENV)/ruff check --fix-only .
	$(VENV)/ruff format .

# Keeps the versions that are locked; ARGS=--upgrade takes the newest.
# The small lock is a part of the big one, so that what is tested is what runs.
COMPILE = $(VENV)/uv pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header --group build $(ARGS)
lock: .venv/all.stamp ## Lock the dependencies of pyproject.toml anew
	$(COMPILE) --group dev -o requirements/all.txt
	$(COMPILE) -c requirements/all.txt -o requirements/run.txt

clean: ## Remove .venv and the caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is touched last, so a failed install leaves none. It depends on what
# was installed from: nothing is installed twice.
.venv/%.stamp: requirements/%.txt pyproject.toml .venv/pyvenv.cfg
	@echo "Installing $<"
	@$(VENV)/python -m pip install -qq --require-hashes --no-deps -r $<
	@$(VENV)/python -m pip install -qq --no-build-isolation --no-deps -e .
	@touch $@ .venv/run.stamp # either lock holds all that run needs

# Looked at again when PYTHON= is given, or when the interpreter has gone.
.venv/pyvenv.cfg: $(if $(PYTHON),FORCE) $(if $(realpath $(VENV)/python),,FORCE)
	@sh tools/make_venv.sh $(if $(PYTHON),'$(PYTHON)')
