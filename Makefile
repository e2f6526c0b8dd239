# Everything on a fresh machine: `make sweep` runs the main job, `make test` the checks. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet

.PHONY: sweep test test-fast lint bench bench-peers test-hosts clean clean-runs

sweep: $(VENV)/.runtime
	$(BIN)/rectab sweep bench/sweeps/demo.toml --out runs/demo

test: $(VENV)/.dev $(VENV)/.browser lint
	$(BIN)/python -m pytest

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not browser"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	mkdir -p runs
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=runs/bench.json

# Side by side with other libraries, interleaved in one run; the environment is large (torchrec, FuxiCTR, DeepCTR-Torch).
# PEER_DATA holds prepared data sets (rectab prepare datasets/movielens_1m.toml ... --out data/ml1m; frappe likewise).
PEER_DATA ?= data
PEER := .venv-peers/bin/python -W ignore bench/peers

bench-peers: .venv-peers/.installed
	$(PEER)/compare_rows.py --json runs/bench/rows.json
	$(PEER)/compare_models.py --json runs/bench/models.json
	$(PEER)/compare_prepare.py --json runs/bench/prepare.json
	if [ -d $(PEER_DATA)/ml1m ]; then $(PEER)/compare_din.py $(PEER_DATA)/ml1m --json runs/bench/din.json; \
	else echo "DIN: no $(PEER_DATA)/ml1m"; fi
	if [ -d $(PEER_DATA)/frappe ]; then $(PEER)/compare_auc.py $(PEER_DATA)/frappe --json runs/bench/auc.json; \
	else echo "time to equal AUC: no $(PEER_DATA)/frappe"; fi

# torch, torchrec, FuxiCTR and DeepCTR-Torch with rectab tables in them; exports; sharding over several processes.
test-hosts: .venv-peers/.installed
	OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest tests/hosts tests/test_swap_examples.py

.venv-peers/.installed: bench/peers/requirements.txt bench/peers/constraints.txt bench/peers/install.sh
	bench/peers/install.sh .venv-peers
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "rectab needs Python >= 3.10, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins what the tests ran with; without it `pip install .` takes the ranges of pyproject.toml.
$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch -c constraints.txt
	$(PIP) -e . -c constraints.txt
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
