# Everything on a fresh machine: `make sweep` runs the main job, `make test` the checks. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet

.PHONY: sweep test test-fast lint bench bench-peers gpu-check test-hosts clean clean-runs

sweep: $(VENV)/.runtime
	$(BIN)/rectab sweep bench/sweeps/demo.toml --out runs/demo

test: $(VENV)/.dev $(VENV)/.browser lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow and not browser"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	mkdir -p runs
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=runs/bench.json

# On a machine with a GPU, at most five minutes: every triton kernel against the reference, small models, times as shares
# of the copy bandwidth. Needs torch, triton and the core dependencies only; GPU_PYTHON is a Python that has them.
GPU_PYTHON ?= $(PYTHON)
gpu-check:
	$(GPU_PYTHON) -m bench.gpu_check $(GPU_CHECK)

# Side by side with other libraries, interleaved in one run; the environment is large (torchrec, FuxiCTR, DeepCTR-Torch).
# About 45 minutes on 2 quiet cores and 24 GB: rows 9, sizes 2, models 6, prepare 9, DIN 2, time to the same AUC 13, and
# 3 for preparing the two data sets. Prints the tables of docs/performance.md. RECTAB_DATA holds raw data sets, PEER_DATA
# prepared ones; a comparison whose data set is in neither is left out, and make fails at the end and says so.
RECTAB_DATA ?= ../shared/data
PEER_DATA ?= data
PEER_RESULTS ?= runs/bench
PEER_PYTHON := .venv-peers/bin/python -W ignore
PEER := $(PEER_PYTHON) bench/peers
ML1M := $(if $(wildcard $(PEER_DATA)/ml1m $(RECTAB_DATA)/ml1m_sequences),$(PEER_DATA)/ml1m)
FRAPPE := $(if $(wildcard $(PEER_DATA)/frappe $(RECTAB_DATA)/frappe_x1),$(PEER_DATA)/frappe)
PEER_LEFT_OUT := $(if $(ML1M),,DIN: no $(RECTAB_DATA)/ml1m_sequences.) \
	$(if $(FRAPPE),,time to the same AUC: no $(RECTAB_DATA)/frappe_x1.)

bench-peers: .venv-peers/.installed $(ML1M) $(FRAPPE)
	rm -f $(patsubst %,$(PEER_RESULTS)/%.json,rows sizes models prepare din auc)
	$(if $(strip $(PEER_LEFT_OUT)),@echo "will be left out: $(strip $(PEER_LEFT_OUT))")
	$(PEER)/compare_rows.py --json $(PEER_RESULTS)/rows.json
	$(PEER)/compare_sizes.py --json $(PEER_RESULTS)/sizes.json
	$(PEER)/compare_models.py --json $(PEER_RESULTS)/models.json
	$(PEER)/compare_prepare.py --json $(PEER_RESULTS)/prepare.json
	$(if $(ML1M),$(PEER)/compare_din.py $(ML1M) --json $(PEER_RESULTS)/din.json)
	$(if $(FRAPPE),$(PEER)/compare_auc.py $(FRAPPE) --json $(PEER_RESULTS)/auc.json)
	$(PEER)/tables.py $(PEER_RESULTS)
	$(if $(strip $(PEER_LEFT_OUT)),@echo "left out: $(strip $(PEER_LEFT_OUT))" >&2; exit 1)

# Folders that appear whole or not at all; they are made once.
$(PEER_DATA)/ml1m: | .venv-peers/.installed
	$(PEER_PYTHON) -m rectab prepare datasets/movielens_1m.toml --raw $(RECTAB_DATA)/ml1m_sequences --out $@

$(PEER_DATA)/frappe: | .venv-peers/.installed
	$(PEER_PYTHON) -m rectab prepare datasets/frappe.toml --raw $(RECTAB_DATA)/frappe_x1 --out $@

# torch, torchrec, FuxiCTR and DeepCTR-Torch with rectab tables in them; exports; sharding over several processes.
test-hosts: .venv-peers/.installed
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest tests/hosts tests/test_swap_examples.py

.venv-peers/.installed: bench/peers/requirements.txt bench/peers/constraints.txt bench/peers/install.sh
	PYTHON=$(PYTHON) bench/peers/install.sh .venv-peers
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "rectab needs Python >= 3.10, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins what the tests ran with; without it `pip install .` takes the ranges of pyproject.toml.
$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch -c constraints.txt
	$(PIP) -e '.[sweep]' -c constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]' -c constraints.txt
	touch $@

# The report is tested in a real browser; where none can be installed those tests are skipped and say so.
$(VENV)/.browser: $(VENV)/.dev
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || echo "no chromium: browser tests will be skipped"
	touch $@

clean:
	rm -rf $(VENV) .venv-peers

# Results take hours, so they are deleted only by name.
clean-runs:
	rm -rf runs
