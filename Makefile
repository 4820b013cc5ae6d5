# Every target works as the first command in a fresh clone: it makes .venv when it is missing.
# `make PYTHON=/path/to/python3.11 run` chooses the interpreter.

# The first that is there and new enough (a version manager's shim may be there and not run).
PYTHON ?= $(shell for p in python3.11 python3; do \
  $$p -c "import sys; sys.exit(sys.version_info < (3, 11))" 2> /dev/null && echo $$p && break; done)
PIP := .venv/bin/python -m pip --disable-pip-version-check -qq
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev
export OMP_NUM_THREADS ?= 1

.PHONY: help run test quick-test lint house bench check-stats

help:
	@echo "make run     install, then the main job: the closed loop and its report"
	@echo "make test    install what tests need, then run them all"
	@echo "make quick-test   a first answer: directions of imports, command lines, serving, metrics"
	@echo "make lint    formatting, lint and types"
	@echo "make house   how large the code is and how it is built, beside what it aims at"
	@echo "make bench   the benchmarks"
	@echo "make check-stats   the statistics of the A/B test: eleven checks with their figures"

run: $(INSTALLED)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" && . deploy/env.sh && python -m simulator run --preset quick

# Tests that start no Ray first: they fail fast, and two of their files run at once.
test: $(INSTALLED_DEV)
	.venv/bin/python -m pytest -q -m "not cluster" -n 2 --dist loadfile
	.venv/bin/python -m pytest -q -m cluster

quick-test: $(INSTALLED_DEV)
	.venv/bin/python -m pytest -q -m "not cluster" -n 2 --dist loadfile \
	  tests/test_front_door.py tests/test_imports.py tests/ifa_ray/test_metrics.py \
	  tests/ifa_ray/ranking/test_ranker.py tests/ifa_ray/serving

house: $(INSTALLED_DEV)
	.venv/bin/python tests/house

lint: $(INSTALLED_DEV)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

check-stats: $(INSTALLED_DEV)
	.venv/bin/python tests/stats

bench: $(INSTALLED)
	.venv/bin/python -m benchmarks

# Its last file: an interrupted attempt is repeated.
.venv/bin/pip:
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "PYTHON == '$(PYTHON)', must be Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing into .venv (some minutes the first time) ..."
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# The group is read here because `pip install --group` needs a newer pip than Python 3.11 ships.
$(INSTALLED_DEV): $(INSTALLED)
	@.venv/bin/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"], sep="\n")' \
	  | $(PIP) install --constraint constraints.txt --requirement /dev/stdin
	@touch $@
