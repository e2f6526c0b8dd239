"""Rows with a scale and a bias each: bit for bit what torch writes, and read as torch reads them."""

from __future__ import annotations

import pytest
import torch

from rectab.ops import get_format
from rectab.ops.fused import fuse, fuse_bytes, fused_row_bytes, unfuse, unfuse_bytes
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, plan

NAMES = {"fused8": "byte", "fused4": "4bit", "fused2": "2bit"}


def rows(embedding_dim: int, seed: int = 0) -> torch.Tensor:
    """Of all sizes from those that halves cannot hold to large ones; constant rows and rows of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** (torch.rand(4000, 1, generator=generator) * 10 - 8.5)
    made = torch.randn(4000, embedding_dim, generator=generator) * sizes
    made[:50] = made[:50, :1]
    made[50:60] = 0
    made[60:70] += 300
    return made


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("embedding_dim", [8, 10, 16, 20, 64])
def test_bytes_are_those_of_torch(embedding_dim: int, seed: int) -> None:
    weight = rows(embedding_dim, seed)
    fused = fuse_bytes(weight)
    assert torch.equal(fused, torch.ops.quantized.embedding_bag_byte_prepack(weight))
    assert torch.equal(unfuse_bytes(fused), torch.ops.quantized.embedding_bag_byte_unpack(fused))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("embedding_dim", [8, 16, 20, 64])
@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_those_of_torch(embedding_dim: int, bits: int, seed: int) -> None:
    weight = rows(embedding_dim, seed)
    fused = fuse(weight, bits)
    assert fused.shape[1] == fused_row_bytes(embedding_dim, bits)
    assert torch.equal(fused, getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_prepack")(weight))
    expected = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_unpack")(fused)
    assert torch.equal(unfuse(fused, bits, embedding_dim), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_written_is_within_half_a_step(bits: int) -> None:
    weight = torch.randn(500, 7, generator=torch.Generator().manual_seed(1))
    step = (weight.max(1, keepdim=True).values - weight.min(1, keepdim=True).values) / (2**bits - 1)
    error = (unfuse(fuse(weight, bits), bits, 7) - weight).abs()
    assert (error <= 0.5 * step + 3e-3).all()


def test_no_rows_are_no_bytes() -> None:
    assert fuse(torch.empty(0, 8), 4).shape == (0, 8)
    assert fuse_bytes(torch.empty(0, 8)).shape == (0, 16)


@pytest.mark.parametrize("rows_format", NAMES)
@pytest.mark.parametrize("embedding_dim", [8, 16, 20, 64])
def test_a_format_holds_what_torch_would_and_reads_it_as_torch_does(rows_format: str, embedding_dim: int) -> None:
    held, numbers, weight = get_format(rows_format), torch.arange(4000), rows(embedding_dim)
    tensors = held.tensors(4000, embedding_dim)
    held.write(tensors, numbers, weight, None)
    of_torch = getattr(torch.ops.quantized, f"embedding_bag_{NAMES[rows_format]}_prepack")(weight)
    assert torch.equal(tensors["fused"], of_torch)
    lookup = getattr(torch.ops.quantized, f"embedding_bag_{NAMES[rows_format]}_rowwise_offsets")
    assert torch.equal(held.read(tensors, numbers, embedding_dim), lookup(of_torch, numbers, numbers))


@pytest.mark.parametrize("rows_format", NAMES)
def test_torch_serves_the_rows_of_a_trained_table_as_they_lie(rows_format: str) -> None:
    table = plan("hashed", [Vocabulary("a", 300)], 16, "20%", options=TableOptions(rows=rows_format)).build()
    optimizer, ids = RowAdam(table.row_stores(), lr=0.05), torch.arange(300)
    for _ in range(5):
        optimizer.zero_grad()
        (table(ids, 0) - 1).square().mean().backward()
        optimizer.step()
    address = table.address(ids, torch.tensor(0))
    lookup = getattr(torch.ops.quantized, f"embedding_bag_{NAMES[rows_format]}_rowwise_offsets")
    with torch.no_grad():
        found = table(ids, 0)
    assert torch.equal(found, lookup(table.store.fused, address, torch.arange(300)))
    assert float(found.mean()) > 0.05
