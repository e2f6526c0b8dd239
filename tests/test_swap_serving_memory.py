"""A swapped or compressed host model in another process: it takes its own bytes, and the full tables never."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rectab

NUM_IDS, DIM = 500_000, 64  # 122 MiB

SERVING = """
import sys
import torch
from test_swap_serving_memory import Model, memory, serve
with torch.no_grad():
    Model(100)(torch.zeros(2, 3, dtype=torch.int64))  # what libraries take is there before it is measured
    serve("small", sys.argv[2])(torch.zeros(2, 3, dtype=torch.int64))
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    model = serve(sys.argv[1], sys.argv[2])
    model(torch.tensor([[0, 7, 499_999]]))
    held = sum(t.numel() * t.element_size() for t in {id(t): t for t in model.state_dict().values()}.values())
    print(memory("VmHWM") - before, held)
"""


class Model(nn.Module):
    def __init__(self, num_embeddings: int = NUM_IDS) -> None:
        super().__init__()
        self.item = nn.Embedding(num_embeddings, DIM)
        self.out = nn.Linear(3 * DIM, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.item(ids).flatten(1))


def memory(line: str) -> int:
    """Bytes that /proc says of this process."""
    found = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(line))
    return 1024 * int(found.split()[1])


def make(folder: Path, how: str, num_embeddings: int, name: str) -> nn.Module:
    model = Model(num_embeddings)
    if how == "swap":
        rectab.swap_(model, "unified", "30%", verbose=False)
    else:
        rectab.compress_(model, "30%", verbose=False)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    return model


def serve(name: str, how: str) -> nn.Module:
    """What a serving process does, as docs/swap.md says it."""
    state = torch.load(f"{name}.pt", mmap=False)
    with torch.device("meta"):
        model = Model(100 if name == "small" else NUM_IDS)
    if how == "swap":
        rectab.swap_(model, "unified", "30%", verbose=False)
        model.load_state_dict(state, assign=True)
    else:
        rectab.load_compressed_(model, state, verbose=False)
    return model


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["swap", "compress"])
def test_another_process_holds_little_more_than_the_models_own_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    make(tmp_path, how, 100, "small")
    trained = make(tmp_path, how, NUM_IDS, "model").eval()
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, "-W", "ignore", "-c", SERVING, "model", how]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak, held = map(int, done.stdout.split())
    full = NUM_IDS * DIM * 4
    assert 0.25 * full < held <= 0.31 * full
    assert peak <= 1.2 * held
    monkeypatch.chdir(tmp_path)
    served, ids = serve("model", how).eval(), torch.tensor([[0, 7, 499_999]])
    assert torch.equal(served(ids), trained(ids))
