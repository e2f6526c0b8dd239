"""Rows with a scale and a bias each: bit for bit what torch writes, and read as torch reads them."""

from __future__ import annotations

import pytest
import torch

from rectab.ops.fused import fuse, fuse_bytes, fused_row_bytes, unfuse, unfuse_bytes


def rows(embedding_dim: int, seed: int = 0) -> torch.Tensor:
    """Of all sizes from those that halves cannot hold to large ones; constant rows and rows of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** (torch.rand(4000, 1, generator=generator) * 10 - 8.5)
    made = torch.randn(4000, embedding_dim, generator=generator) * sizes
    made[:50] = made[:50, :1]
    made[50:60] = 0
    made[60:70] += 300
    return made


def assert_rounded_alike(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Torch rounds a number once, after adding the bias; here the product is rounded too."""
    size = theirs.abs().amax(1, keepdim=True)
    assert ((ours - theirs).abs() <= 3e-7 * size).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("embedding_dim", [8, 10, 16, 20, 64])
def test_bytes_are_those_of_torch(embedding_dim: int, seed: int) -> None:
    weight = rows(embedding_dim, seed)
    fused = fuse_bytes(weight)
    assert torch.equal(fused, torch.ops.quantized.embedding_bag_byte_prepack(weight))
    assert_rounded_alike(unfuse_bytes(fused), torch.ops.quantized.embedding_bag_byte_unpack(fused))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("embedding_dim", [8, 16, 20, 64])
@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_are_those_of_torch(embedding_dim: int, bits: int, seed: int) -> None:
    weight = rows(embedding_dim, seed)
    fused = fuse(weight, bits)
    assert fused.shape[1] == fused_row_bytes(embedding_dim, bits)
    assert torch.equal(fused, getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_prepack")(weight))
    expected = getattr(torch.ops.quantized, f"embedding_bag_{bits}bit_unpack")(fused)
    assert_rounded_alike(unfuse(fused, bits, embedding_dim), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_written_is_within_half_a_step(bits: int) -> None:
    weight = torch.randn(500, 7, generator=torch.Generator().manual_seed(1))
    step = (weight.max(1, keepdim=True).values - weight.min(1, keepdim=True).values) / (2**bits - 1)
    error = (unfuse(fuse(weight, bits), bits, 7) - weight).abs()
    assert (error <= 0.5 * step + 3e-3).all()


def test_no_rows_are_no_bytes() -> None:
    assert fuse(torch.empty(0, 8), 4).shape == (0, 8)
    assert fuse_bytes(torch.empty(0, 8)).shape == (0, 16)
