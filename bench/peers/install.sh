#!/usr/bin/env bash
# Makes the environment of the host tests and peer benchmarks: bench/peers/install.sh [FOLDER], default .venv-peers.
# torchrec's wheels are for one Python each: 3.11 is what the pins were tried with.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder="${1:-.venv-peers}"
"${PYTHON:-python3.11}" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet)
"${pip[@]}" -r bench/peers/requirements.txt -c bench/peers/constraints.txt
"${pip[@]}" --no-deps torchrec==1.8.0
"${pip[@]}" --no-deps -e .
