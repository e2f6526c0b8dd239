"""Every method out of Python: ONNX in onnxruntime, and AOTInductor where there is a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rectab
from rectab.ops.formats import formats
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, get_method, methods, plan

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.host

SIZES = {"user": 2000, "item": 5000, "gender": 3}
EXPORTABLE = [m.name for m in methods()]


class Lookup(nn.Module):
    """int64 [B, 3] -> float [B, 3, D]."""

    def __init__(self, method: str, **options) -> None:
        super().__init__()
        counts = {n: (1000 / np.arange(1, s + 1)).astype(np.int64) for n, s in SIZES.items()}
        vocabularies = [Vocabulary(n, s, counts=counts[n]) for n, s in SIZES.items()]
        budget = None if get_method(method).fills == "one" else "25%"
        self.table = plan(method, vocabularies, 8, budget, options=TableOptions(**options)).build().serving().eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids, torch.arange(len(SIZES)))


def ids_of(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(n, (batch,), generator=generator) for n in SIZES.values()], 1)
    ids[0] = torch.tensor([n - 1 for n in SIZES.values()])
    return ids


def to_onnx(module: nn.Module, example: Tensor, path: Path) -> onnxruntime.InferenceSession:
    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, dynamic_shapes=({0: batch},), input_names=["ids"], verbose=False
        )
    program.save(str(path))
    operators = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert not [name for name in operators if "Sequence" in name]
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("method", EXPORTABLE)
def test_onnx_equals_eager(method: str, tmp_path: Path) -> None:
    lookup = Lookup(method)
    session = to_onnx(lookup, ids_of(8), tmp_path / "table.onnx")
    for size in (2, 100):
        ids = ids_of(size, seed=size)
        (got,) = session.run(None, {"ids": ids.numpy()})
        np.testing.assert_allclose(got, lookup(ids).detach().numpy(), rtol=1e-6, atol=1e-7)


NO_ONNX = ("fused8", "fused4", "fused2")
"""Formats whose scales are floats among bytes: ONNX has no operator that reads bytes as floats."""


@pytest.mark.parametrize("rows", [entry.name for entry in formats() if entry.name not in NO_ONNX])
def test_onnx_reads_every_row_format(rows: str, tmp_path: Path) -> None:
    lookup = Lookup("hashed", rows=rows)
    session = to_onnx(lookup, ids_of(8), tmp_path / "table.onnx")
    ids = ids_of(100)
    (got,) = session.run(None, {"ids": ids.numpy()})
    np.testing.assert_allclose(got, lookup(ids).detach().numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("unseen", ["hash", "shared", "zero"])
def test_onnx_keeps_the_unseen_policy(unseen: str, tmp_path: Path) -> None:
    lookup = Lookup("hashed", unseen=unseen)
    session = to_onnx(lookup, ids_of(8), tmp_path / "table.onnx")
    outside = torch.tensor([[5000, 5000, 3], [-1, 2**40, -(2**62)], [1, 2, 1]])
    (got,) = session.run(None, {"ids": outside.numpy()})
    np.testing.assert_allclose(got, lookup(outside).detach().numpy(), rtol=1e-6)


def test_onnx_of_a_swapped_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.EmbeddingBag(5000, 8, mode="mean", padding_idx=0), nn.Linear(8, 1))
    rectab.swap_(model, verbose=False)
    session = to_onnx(model, torch.randint(5000, (8, 4)), tmp_path / "model.onnx")
    ids = torch.randint(5000, (50, 4))
    ids[0] = 0
    (got,) = session.run(None, {"ids": ids.numpy()})
    np.testing.assert_allclose(got, model(ids).detach().numpy(), rtol=1e-4, atol=1e-6)


class EveryMethod(nn.Module):
    """int64 [B, 3] -> by method, float [B, 3, D]: one program, because compiling costs by the program."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups = nn.ModuleDict({method: Lookup(method) for method in EXPORTABLE})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {method: lookup(ids) for method, lookup in self.lookups.items()}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aotinductor_equals_eager(tmp_path: Path) -> None:
    every = EveryMethod().eval()
    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.export.export(every, (ids_of(8),), dynamic_shapes=({0: batch},))
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "tables.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        compiled = torch._inductor.aoti_load_package(package)
        for size in (2, 100):
            ids = ids_of(size, seed=size)
            got, expected = compiled(ids), every(ids)
            assert list(got) == EXPORTABLE
            for method in EXPORTABLE:
                torch.testing.assert_close(got[method], expected[method], msg=lambda text, m=method: f"{m}: {text}")
