"""A run's tables in torchrec and FBGEMM: they load what was written, and decode it as rectab does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectab.ops.fused import fuse, fuse_bytes
from rectab.schema import Vocabulary
from rectab.tables import plan
from rectab.training.exporting.host_tables import host_tables

torchrec = pytest.importorskip("torchrec")
pytest.importorskip("fbgemm_gpu")
pytestmark = pytest.mark.host

SIZES = {"user": 300, "item": 70}
DIM = 16


def tables_of(precision: str) -> list:
    table = plan("full", [Vocabulary(name, size) for name, size in SIZES.items()], DIM).build()
    return host_tables(table.serving(), precision)


def ids_of(size: int) -> Tensor:
    return torch.tensor([0, size - 1, *torch.randint(size, (20,), generator=torch.Generator().manual_seed(0)).tolist()])


@pytest.mark.parametrize("precision", ["int8", "int4", "int2"])
def test_torchrec_loads_the_state(precision: str, tmp_path: Path) -> None:
    from torchrec.modules.embedding_configs import DataType, EmbeddingConfig
    from torchrec.quant.embedding_modules import EmbeddingCollection

    held = tables_of(precision)
    state = {f"embeddings.{t.vocabulary.name}.{name}": x for t in held for name, x in t.torchrec().items()}
    torch.save(state, tmp_path / "tables.pt")
    kind = {"int8": DataType.INT8, "int4": DataType.INT4, "int2": DataType.INT2}[precision]
    configs = [
        EmbeddingConfig(name=name, num_embeddings=size, embedding_dim=DIM, feature_names=[name], data_type=kind)
        for name, size in SIZES.items()
    ]
    collection = EmbeddingCollection(configs, torch.device("cpu"), quant_state_dict_split_scale_bias=True)
    loaded = torch.load(tmp_path / "tables.pt")
    if precision != "int8":
        from torchrec.tensor_types import UInt2Tensor, UInt4Tensor

        few_bits = UInt4Tensor if precision == "int4" else UInt2Tensor
        loaded = {name: few_bits(x) if name.endswith("weight") else x for name, x in loaded.items()}
    collection.load_state_dict(loaded)
    ids = [ids_of(size) for size in SIZES.values()]
    features = torchrec.KeyedJaggedTensor(
        keys=list(SIZES), values=torch.cat(ids), lengths=torch.ones(sum(map(len, ids)), dtype=torch.int64)
    )
    found = collection(features)
    for table, wanted in zip(held, ids, strict=True):
        got = found[table.vocabulary.name].values()
        torch.testing.assert_close(got, table.vectors(wanted), rtol=1e-5, atol=1e-7)


def test_torchrec_loads_floats() -> None:
    held = tables_of("fp32")
    configs = [
        torchrec.EmbeddingConfig(name=name, num_embeddings=size, embedding_dim=DIM, feature_names=[name])
        for name, size in SIZES.items()
    ]
    collection = torchrec.EmbeddingCollection(tables=configs)
    state = {f"embeddings.{t.vocabulary.name}.{name}": x for t in held for name, x in t.torchrec().items()}
    collection.load_state_dict(state)
    assert torch.equal(collection.embeddings["item"].weight, held[1].rows)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "int2"])
def test_fbgemm_takes_the_rows(precision: str) -> None:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    held = tables_of(precision)
    tables = IntNBitTableBatchedEmbeddingBagsCodegen(
        [
            (t.vocabulary.name, t.vocabulary.num_embeddings, DIM, SparseType(precision), EmbeddingLocation.HOST)
            for t in held
        ],
        pooling_mode=PoolingMode.NONE,
        weight_lists=[(t.fbgemm()["weight"], t.fbgemm().get("scale_shift")) for t in held],
        device="cpu",
        output_dtype=SparseType.FP32,
        row_alignment=1,
    )
    ids = [ids_of(size) for size in SIZES.values()]
    values = torch.cat(ids).to(torch.int32)
    found = tables(values, torch.arange(len(values) + 1, dtype=torch.int32))
    expected = torch.cat([t.vectors(wanted) for t, wanted in zip(held, ids, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("embedding_dim", [8, 16, 20, 64])
def test_fused_rows_are_those_of_fbgemm(embedding_dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** (torch.rand(5000, 1, generator=generator) * 7 - 6)
    weight = torch.randn(5000, embedding_dim, generator=generator) * sizes
    weight[:20], weight[20:30] = weight[:20, :1], 0
    assert torch.equal(fuse_bytes(weight), torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight))
    for bits in (2, 4, 8):
        if embedding_dim * bits % 16:  # it refuses
            continue
        theirs = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, bits)
        assert torch.equal(fuse(weight, bits), theirs)
