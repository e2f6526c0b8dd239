"""A run's tables in torchrec and FBGEMM: they load what was written, and decode it as rectab does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectab.ops.formats import get_format
from rectab.ops.fused import fuse, fuse_bytes, unfuse
from rectab.schema import Vocabulary
from rectab.tables import plan
from rectab.training.exporting.host_tables import host_tables

torchrec = pytest.importorskip("torchrec")
pytest.importorskip("fbgemm_gpu")
pytestmark = pytest.mark.host

SIZES = {"user": 300, "item": 70}
DIM = 16
TORCH_NAMES = {8: "byte", 4: "4bit", 2: "2bit"}


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


def weight_of(embedding_dim: int, large: float = 1e4) -> Tensor:
    """Rows of all sizes; constant rows, rows of zeros, rows far from 0 and ``large`` ones among them."""
    generator = torch.Generator().manual_seed(embedding_dim)
    sizes = 10.0 ** (torch.rand(5000, 1, generator=generator) * 10 - 6)
    weight = torch.randn(5000, embedding_dim, generator=generator) * sizes
    weight[:20], weight[20:30], weight[30:40] = weight[:20, :1], 0, weight[30:40] * 0.01 + 300
    weight[40:50] *= large / sizes[40:50]
    return weight


def of_fbgemm(weight: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight)
    return torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, bits)


def of_torch(weight: Tensor, bits: int) -> Tensor:
    return getattr(torch.ops.quantized, f"embedding_bag_{TORCH_NAMES[bits]}_prepack")(weight)


def written(weight: Tensor, bits: int) -> Tensor:
    """What rectab serves of these rows: uint8 [n, bytes of a row]."""
    row_format = get_format(f"fused{bits}")
    tensors = row_format.tensors(*weight.shape)
    row_format.write(tensors, torch.arange(len(weight)), weight, None)
    return tensors["fused"]


@pytest.mark.parametrize("embedding_dim", [1, 3, 7, 8, 10, 16, 20, 33, 64, 130])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_fused_rows_are_those_of_fbgemm_and_torch(bits: int, embedding_dim: int) -> None:
    weight = weight_of(embedding_dim, large=1e8)  # more than halves hold
    fused = written(weight, bits)
    assert torch.equal(fused, fuse_bytes(weight) if bits == 8 else fuse(weight, bits))
    for theirs, whole in ((of_fbgemm, 16), (of_torch, 8)):
        if bits != 8 and embedding_dim * bits % whole:
            with pytest.raises(RuntimeError):  # codes of a row must fill its halves, or bytes
                theirs(weight, bits)
        else:
            assert torch.equal(fused, theirs(weight, bits)), theirs.__name__
    if bits == 8 and embedding_dim % 2 == 0:  # bytes with halves, which the inference TBE reads
        assert torch.equal(fuse(weight, 8), torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(weight, 8))


@pytest.mark.parametrize("embedding_dim", [8, 16, 20, 64])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_fused_rows_are_looked_up_to_the_same_numbers(bits: int, embedding_dim: int) -> None:
    fused = written(weight_of(embedding_dim), bits)
    ids = torch.randint(len(fused), (3000,), generator=torch.Generator().manual_seed(1))
    ours = get_format(f"fused{bits}").read({"fused": fused}, ids, embedding_dim)
    lookup = getattr(torch.ops.quantized, f"embedding_bag_{TORCH_NAMES[bits]}_rowwise_offsets")
    assert torch.equal(ours, lookup(fused, ids, torch.arange(len(ids))))
    if bits == 8:  # with fp32 numbers, which the inference TBE does not read: it has halves
        assert torch.equal(ours, torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(fused)[ids])
        fused = fuse(weight_of(embedding_dim), 8)
        ours = unfuse(fused[ids], 8, embedding_dim)
    assert torch.equal(ours, _by_inference_tbe(fused, ids, bits, embedding_dim))


def _by_inference_tbe(fused: Tensor, ids: Tensor, bits: int, embedding_dim: int) -> Tensor:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    tables = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("t", len(fused), embedding_dim, SparseType(f"int{bits}"), EmbeddingLocation.HOST)],
        pooling_mode=PoolingMode.NONE, weight_lists=[(fused[:, :-4], fused[:, -4:])], device="cpu",
        output_dtype=SparseType.FP32, row_alignment=1,
    )  # fmt: skip
    return tables(ids.to(torch.int32), torch.arange(len(ids) + 1, dtype=torch.int32))
