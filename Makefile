# Every target sets up what it needs: a virtual environment in .venv and the compiled engine. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PY := $(VENV)/bin/python
CONFIG ?= config.yaml
ENGINE := $(wildcard resolver/engine/*.pyx resolver/engine/*.pxd)
PACKETS ?= 100000
JOBS ?= 4
SECONDS_EACH ?= 200
LIBASAN = $(shell gcc -print-file-name=libasan.so)
# Python's own allocator hides overruns, and its arenas are never given back.
SANITIZED = PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TAMPAH_SHARED=$(abspath ../shared)

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Bytecode is written here, as where PYTHONDONTWRITEBYTECODE is set every start would compile all of it anew.
define INSTALL
	@test -x $(PY) || python3 -m venv $(VENV)
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --disable-pip-version-check --editable '$(1)'
	$(PY) -m compileall -q resolver
endef

$(VENV)/ready: pyproject.toml setup.py $(ENGINE)
	$(call INSTALL,.)
	@touch $@

$(VENV)/dev: pyproject.toml setup.py $(ENGINE)
	$(call INSTALL,.[dev])
	@touch $(VENV)/ready $@

build: $(VENV)/ready  ## Set up the environment and compile the engine

run: build  ## Serve DNS with config.yaml (CONFIG=… for another)
	$(VENV)/bin/tampah run -c $(CONFIG)

# Most tests wait for servers most of the time, so JOBS processes share them. 5: ARGS chose tests of the other kind alone;
# without ARGS there are some of each.
NONE_CHOSEN = $(if $(ARGS),test $$? = 5,false)
test: $(VENV)/dev  ## Run every test (ARGS=… for pytest)
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "not alone" $(ARGS) || $(NONE_CHOSEN)
	$(PY) -m pytest -q -m alone $(ARGS) || $(NONE_CHOSEN)

check: $(VENV)/dev  ## Lint, types and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PATH=$(abspath $(VENV)/bin):$$PATH cython-lint resolver/engine

debug: $(VENV)/dev  ## Build the engine with AddressSanitizer in .venv/debug, run its tests and PACKETS random packets
	@rm -rf $(VENV)/debug && mkdir -p $(VENV)/debug
	cp -r resolver setup.py pyproject.toml README.md LICENSE tests $(VENV)/debug/
	find $(VENV)/debug/resolver -name '*.so' -delete
	cd $(VENV)/debug && TAMPAH_DEBUG=1 $(abspath $(PY)) setup.py --quiet build_ext --inplace
	cd $(VENV)/debug && $(SANITIZED) LD_PRELOAD=$(LIBASAN) $(abspath $(PY)) -m pytest -q --capture=sys \
	  tests/unit/engine tests/fuzz $(ARGS)
	cd $(VENV)/debug && $(SANITIZED) LD_PRELOAD=$(LIBASAN) $(abspath $(PY)) -m tests.fuzz --packets $(PACKETS)

fuzz: $(VENV)/dev  ## Fuzz the engine with libFuzzer, SECONDS_EACH a target (needs clang); findings go to .venv/fuzz
	@rm -rf $(VENV)/fuzz && mkdir -p $(VENV)/fuzz
	$(PY) -m tests.fuzz.native build $(VENV)/fuzz
	@cd $(VENV)/fuzz && set -e && for target in packet answer index; do \
	  $(SANITIZED) LD_PRELOAD=$$($(abspath $(PY)) -m tests.fuzz.native runtime) $(abspath $(PY)) -m tests.fuzz.native \
	    run $$target -max_total_time=$(SECONDS_EACH) -print_final_stats=1 -reduce_inputs=0; done

bench: $(VENV)/dev  ## Measure against the peers that are installed; the report goes to bench-report/
	$(PY) -m tests.bench $(ARGS)

soak: $(VENV)/dev  ## Mixed load with reloads, kills and upstream flaps (ARGS="--minutes 10")
	$(PY) -m tests.soak $(ARGS)

oracle: $(VENV)/dev  ## Half a million (lists, query) pairs against the oracle of what lists say
	TAMPAH_ORACLE_PAIRS=500000 $(PY) -m pytest -q --timeout=0 tests/unit/engine/test_modifiers_oracle.py $(ARGS)

clean:  ## Remove everything that was built
	rm -rf $(VENV) build *.egg-info resolver/engine/engine.c resolver/engine/*.so

.PHONY: help build run test check debug fuzz bench soak oracle clean
