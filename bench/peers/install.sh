#!/usr/bin/env bash
# Makes the environment of the host tests and peer benchmarks: bench/peers/install.sh [FOLDER], default .venv-peers.
# PYTHON says which Python; the pins were tried with 3.11, and there are wheels of all of them for 3.11 to 3.13.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder="${1:-.venv-peers}"
python="${PYTHON:-python3}"

fail() { echo "bench/peers/install.sh: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python; say which Python to use with PYTHON=python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "$python does not run; say which Python to use with PYTHON=python3.11"
case "$version" in
    3.11 | 3.12 | 3.13) ;;
    *) fail "$python is Python $version; the pins have wheels for 3.11 to 3.13. Choose another with PYTHON=python3.11" ;;
esac
"$python" -m venv "$folder" || fail "$python could not make a virtual environment in $folder"
pip=("$folder/bin/python" -m pip install --quiet)

# fbgemm-gpu-cpu needs torch without CUDA, and PyPI's torch for Linux is the one with CUDA (gigabytes). Builds named +cpu
# are in PyTorch's own index, which is asked only where pip is not set up to find them already.
torch=$(sed -n 's/^torch==\(.*\)/torch==\1+cpu/p' bench/peers/requirements.txt)
"${pip[@]}" --no-deps "$torch" 2>/dev/null ||
    "${pip[@]}" --no-deps "$torch" --extra-index-url https://download.pytorch.org/whl/cpu ||
    fail "no $torch for Python $version"
"${pip[@]}" -r bench/peers/requirements.txt -e '.[sweep]' -c bench/peers/constraints.txt ||
    fail "pip cannot install the pins for Python $version; they were tried with 3.11"
"${pip[@]}" --no-deps torchrec==1.8.0
