# The README's two commands, `make train` and `make test`, and what they are made of.
# Variables: PYTHON (interpreter for .venv), TORCH_INDEX (wheel index for torch), AGAIN=1 (train anew), RUN (run folder),
# ROUNDS (of `make bench`), PROCESSES (of tests, side by side).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
CLIENTS ?= .venv-clients
RUN ?= runs/digits
AGAIN ?=
TORCH_INDEX ?=
QUARTER ?= 0
ROUNDS ?= 3
PYTEST_ARGS ?=

# Live parity compares with exactly these; another version gives other class names and other defaults.
TORCH := torch==2.13.0
TRANSFORMERS := transformers==5.3.0
DIFFUSERS := diffusers==0.42.1

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)
PROCESSES ?= 2
SIDE_BY_SIDE := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help venv install install-tests train test test-quarter test-all test-clients bench lint format wheels clean

help:
	@echo "make train          make .venv, install, train the main job into $(RUN); a second call shows the result"
	@echo "make train AGAIN=1  train it anew"
	@echo "make test           unit, parity and integration tests, and the main job in short form"
	@echo "make test-all       everything, the slow tests included"
	@echo "make test-clients   PaddleNLP's trainer on a simulated device, in $(CLIENTS) (1.8 GB)"
	@echo "make bench          training and generation beside transformers on PyTorch; ROUNDS=3 of each, in turn"
	@echo "make lint           ruff check, ruff format --check, mypy"
	@echo "make format         ruff's formatter and its safe fixes"
	@echo "make wheels         the wheels of all distributions, into dist/"
	@echo "make clean          remove .venv, .venv-clients, caches and dist/ (runs/ stays)"

# -- installation: once, and again when a pyproject.toml changes ------------------------------------------------

$(PY):
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no '$(PYTHON)' on this machine; install Python 3.10 to 3.13" \
	  "or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; ok = (3, 10) <= v <= (3, 13); ok or print("make: \
	$(PYTHON) is Python %d.%d, and mix-core needs 3.10 to 3.13 (what Paddle 3.3 has wheels for);" % v, \
	"name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3", file=sys.stderr); sys.exit(0 if ok else 2)'
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu" \
	  "install python3-venv, then call make again" >&2; exit 2; }

$(VENV)/.installed: pyproject.toml | $(PY)
	$(PIP) install --quiet --editable '.[cpu]'
	@touch $@

# torch goes first: resolved together with transformers, pip could take another build of it.
$(VENV)/.installed-tests: $(VENV)/.installed Makefile
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)'
	$(PIP) install --quiet '$(TRANSFORMERS)' '$(DIFFUSERS)' --editable '.[cpu,video,test,lint]'
	@touch $@

venv: $(PY)
install: $(VENV)/.installed
install-tests: $(VENV)/.installed-tests

# -- the main job: a finished run is shown, an interrupted one goes on, AGAIN=1 starts anew -----------------------

train: $(VENV)/.installed
	@$(PY) -m mix_core.train --recipe digits --output_dir '$(RUN)' \
	  $(if $(AGAIN),--overwrite_output_dir true,--resume auto)

# -- tests and linters ------------------------------------------------------------------------------------------

# What is measured in processor time.
ALONE := tests/integration/test_main_job.py tests/unit/data/test_packing.py

# Files of tests, as many at a time as $(PROCESSES): most tests keep one processor busy.
test: $(VENV)/.installed-tests
	@failed=0; set -x; $(PYTEST) -m 'alone and not slow' $(ALONE) || failed=1; \
	$(PYTEST) $(SIDE_BY_SIDE) -m 'not slow and not alone' --durations=15 tests || failed=1; exit $$failed

test-all: $(VENV)/.installed-tests
	@failed=0; export MIX_CONFORMANCE_REPORTS=docs/conformance MIX_FULL_RUN; MIX_FULL_RUN=$$(mktemp -d); \
	trap 'rm -rf "$$MIX_FULL_RUN"' EXIT; set -x; \
	$(PYTEST) -m alone --durations=5 $(ALONE) || failed=1; \
	$(PYTEST) $(SIDE_BY_SIDE) -m 'not alone' --durations=40 tests || failed=1; exit $$failed

# Programs that know nothing of mix-core, in an environment of their own: PaddleNLP pins an older numpy.
$(CLIENTS)/.installed: pyproject.toml mix_device_npu/pyproject.toml
	@$(MAKE) --no-print-directory venv VENV=$(CLIENTS)
	@$(CLIENTS)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { echo "make: paddlenlp needs" \
	  "numpy 1.26, which has no wheel for Python 3.13; name an older one after rm -r $(CLIENTS):" \
	  "make test-clients PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet \
	  --editable '.[cpu,paddlenlp]' --editable ./mix_device_npu
	@touch $@

test-clients: $(CLIENTS)/.installed
	$(CLIENTS)/bin/python scripts/check_clients.py

# One quarter of the slow tests (QUARTER=0..3): .ci/run takes them in turn.
test-quarter: $(VENV)/.installed-tests
	$(PY) scripts/slow_quarter.py $(QUARTER) $(PYTEST_ARGS)

# Each line's peer runs in the same call, in turn with it; the ratios are the result (docs/performance.md).
bench: $(VENV)/.installed-tests
	for run in '--size mini' '--size mini --dtype bfloat16' '--size tiny'; do \
	  $(PY) benchmarks/train_step.py $$run --peer --rounds $(ROUNDS); done
	$(PY) benchmarks/packed.py --peer
	$(PY) benchmarks/llava_step.py --rounds $(ROUNDS)
	$(PY) benchmarks/int8.py --rounds $(ROUNDS)
	for model in sd3 sdxl; do for task in train sample; do \
	  $(PY) benchmarks/diffusion_step.py --model $$model --task $$task --peer --rounds $(ROUNDS); done; done
	$(PY) benchmarks/diffusion_step.py --model sd3 --optimizer-in-backward --peer --rounds $(ROUNDS)
	$(PY) benchmarks/lora_step.py --int8 --rounds $(ROUNDS)
	$(PY) benchmarks/run_settings.py --rounds $(ROUNDS)

lint: $(VENV)/.installed-tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy mix_core/device mix_core/plugin_api.py mix_core/config.py

format: $(VENV)/.installed-tests
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

wheels: $(VENV)/.installed
	for project in . mix_device_npu mix_device_xpu mix_device_gpu; do \
	  $(PIP) wheel --quiet --no-deps --wheel-dir dist "./$$project"; done
	ls dist

clean:
	rm -rf $(VENV) $(CLIENTS) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
