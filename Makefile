# Each target works on any machine with python3 (3.11 or newer, with venv) and make.
# All targets use one environment: .venv for python3, and .venv-3.13 and the like for a Python named with PYTHON=, so
# that several can be used side by side. It is made anew when the lock file, the Python or the path of this folder
# changes.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(VERSION))
BIN := $(ENV)/bin
KEY := $(shell { cat requirements-dev.txt pyproject.toml; $(PYTHON) -VV; pwd -P; } 2>/dev/null | cksum | cut -d ' ' -f 1)
READY := $(ENV)/.ready-$(KEY)
# pytest compiles every test module at each start, once for each of its processes, unless it may keep the result.
export PYTHONDONTWRITEBYTECODE :=
LOCK := $(ENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' $(UPGRADE)

.PHONY: help quick test worlds bench demo lint types simulate simulate-long wheel lock audit clean

help:
	@echo 'make quick    run lint, and the tests that need no process and no server: under a minute'
	@echo 'make test     run lint, types and all tests: a few minutes'
	@echo 'make worlds   simulate 20,000 worlds, and a kill at every act; quick and test simulate a part of them'
	@echo 'make bench    measure speed and cost, compared with curl (half an hour, 5 GiB of temporary files; BENCH=--help)'
	@echo 'make demo     show a server, a watched folder and the daemon at work, for fifteen seconds'
	@echo 'make lint     check rules and format with ruff'
	@echo 'make types    check types with mypy, strict'
	@echo 'make simulate PLAN=…        simulate one world again, from the plan that a failed test printed, with a trace'
	@echo 'make simulate-long SEEDS=…  simulate so many seeds for each kind of server, and a kill at every step'
	@echo 'make wheel    build dist/*.whl, to install on another machine'
	@echo 'make lock     write requirements*.txt from pyproject.toml; UPGRADE=--upgrade takes the newest versions'
	@echo 'make audit    check the locked packages for known vulnerabilities; needs the network'
	@echo 'make clean    remove environments, caches and builds'
	@echo 'PYTHON=python3.13 chooses the Python, which gets its own environment: .venv-3.13'

# tests/pace.py decides which tests are quick, tests/simulation/amount.py how many worlds each target simulates.
quick: lint
	@$(BIN)/pytest -q -m quick -n 2 --dist loadgroup --worlds few

# Many tests wait for a process or a server, so four at a time keep two cores busy.
test: lint types
	@$(BIN)/pytest -n 4 --dist loadgroup

worlds: $(READY)
	@$(BIN)/pytest -n 2 --dist loadgroup --worlds full tests/simulation/test_simulation_worlds.py \
		tests/simulation/test_simulation_operator.py

# Not part of the tests: the figures depend on the machine. TMPDIR chooses the disk.
bench: $(READY)
	@$(BIN)/python -m benchmarks.upload $(BENCH)

demo: $(READY)
	@$(BIN)/valt-uploader demo

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(READY)
	@$(BIN)/mypy

SEEDS ?= 20000
PLAN ?= {"seed": 1}
SIMULATE := PYTHONPATH=tests $(BIN)/python -m simulation

simulate: $(READY)
	@$(SIMULATE) --plan '$(PLAN)'

# The tests use the first seeds, so these begin at 100000.
simulate-long: $(READY)
	@$(SIMULATE) --crash-points --seeds 100000 $$((100000 + $(SEEDS)))
	@$(SIMULATE) --command-points --operator --seeds 100000 $$((100000 + $(SEEDS)))

wheel: $(READY)
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

$(READY):
	@$(PYTHON) -c '' 2>/dev/null || { echo 'error: $(PYTHON) cannot be run; name a Python: make PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) -V) is too old;" \
		'Python 3.11 or newer is needed; name one: make PYTHON=python3.13 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'error: $(PYTHON) cannot make environments;' \
		'on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo "installing into $(ENV) ($$($(PYTHON) -V), exact versions, checked by hash) …"
	@$(PYTHON) -m venv --clear $(ENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# uv has an environment of its own, so that it is not mixed with the packages that it locks.
lock:
	@test -x $(ENV)/lock/bin/uv || { $(PYTHON) -m venv $(ENV)/lock && $(ENV)/lock/bin/pip install --quiet \
		--disable-pip-version-check uv; }
	@$(LOCK) pyproject.toml -o requirements.txt
	@$(LOCK) --extra dev --constraint requirements.txt pyproject.toml -o requirements-dev.txt

# pip-audit has an environment of its own, too. It fails if it cannot look packages up (no network, or a mirror without
# the advisories).
audit:
	@test -x $(ENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(ENV)/audit && $(ENV)/audit/bin/pip install --quiet \
		--disable-pip-version-check pip-audit; }
	@$(ENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.txt

clean:
	@rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
