"""Compressed models out of Python: ONNX in onnxruntime, AOTInductor where there is a compiler; hosts' models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compress_helpers import Clicks, rows
from torch import nn

import rectab
from rectab.tables.quantized.partition import Partition

pytestmark = pytest.mark.host

BATCH = torch.export.Dim("batch", min=2, max=4096)


def session_of(module: nn.Module, example: tuple[Any, ...], path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    shapes = tuple({0: BATCH} for _ in example)
    with torch.no_grad():
        program = torch.onnx.export(module.eval(), example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(str(path))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: Any, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    names = [node.name for node in session.get_inputs()]
    return session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})[0]


@pytest.mark.parametrize("sizes", [[40, 60, 800], [100, 200, 400, 3000, 66_300]])
def test_a_partition_in_onnx(sizes: list[int], tmp_path: Path) -> None:
    rng, num_ids = np.random.default_rng(0), sum(sizes)
    partition = Partition(sizes)
    partition.fill(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    session = session_of(partition, (torch.arange(8),), tmp_path / "partition.onnx")
    ids = torch.from_numpy(rng.integers(0, num_ids, 1000))
    np.testing.assert_array_equal(run(session, (ids,)), partition(ids).numpy())


@pytest.mark.parametrize("budget", ["10%", "60%"])
def test_a_compressed_model_in_onnx(budget: str, tmp_path: Path) -> None:
    model = Clicks().eval()
    rectab.compress_(model, budget, batches=[rows()], verbose=False)
    session = session_of(model, rows(8), tmp_path / "model.onnx")
    for size in (2, 100):
        expected = model(*rows(size)).detach().numpy()
        np.testing.assert_allclose(run(session, rows(size)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compressed_model_in_aotinductor(tmp_path: Path) -> None:
    model = Clicks().eval()
    rectab.compress_(model, "25%", batches=[rows()], verbose=False)
    with torch.no_grad():
        program = torch.export.export(model, rows(8), dynamic_shapes=({0: BATCH}, {0: BATCH}))
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "model.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        compiled = torch._inductor.aoti_load_package(package)
        for size in (2, 100):
            torch.testing.assert_close(compiled(*rows(size)), model(*rows(size)))


def test_hosts_by_torch_export(tmp_path: Path) -> None:
    pytest.importorskip("torchrec")
    pytest.importorskip("fuxictr")
    from test_compress_hosts import TestTorchrec
    from test_fuxictr import batches, model_of

    host = TestTorchrec()
    batch = (torch.randn(256, 4), host.features(False))
    dlrm = host.dlrm(False).eval()
    rectab.compress_(dlrm, "30%", batches=[batch], verbose=False)
    program = torch.export.export(dlrm, batch, strict=False)
    torch.testing.assert_close(program.module()(*batch), dlrm(*batch))
    for name in ("DCNv2", "DIN"):
        model = model_of(name, tmp_path).eval()
        rectab.compress_(model, "30%", batches=batches(), verbose=False)
        inputs = (batches()[0],)
        program = torch.export.export(model, inputs, strict=False)
        torch.testing.assert_close(program.module()(*inputs)["y_pred"], model(*inputs)["y_pred"])
