"""A partition sorts ids by block and id, in the bytes that it says, by the kernel and by the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.ops.dispatch import KernelName, use_kernel
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Rare, Shared, Ternary
from rectab.tables.quantized.codes import code_of, encoding_of_code
from rectab.tables.quantized.partition import Partition, partition_bytes

KERNELS: tuple[KernelName, ...] = ("numba", "torch")


def sizes_of(block_of: np.ndarray, num_blocks: int) -> list[int]:
    return np.bincount(block_of, minlength=num_blocks).tolist()


def filled(block_of: np.ndarray, num_blocks: int) -> Partition:
    partition = Partition(sizes_of(block_of, num_blocks))
    partition.fill(block_of)
    return partition


def expected(block_of: np.ndarray) -> torch.Tensor:
    positions = np.empty(len(block_of), np.int64)
    positions[np.argsort(block_of, kind="stable")] = np.arange(len(block_of))
    return torch.from_numpy(positions)


def check(block_of: np.ndarray, num_blocks: int) -> None:
    partition, wanted = filled(block_of, num_blocks), expected(block_of)
    for kernel in KERNELS:
        with use_kernel(kernel):
            assert torch.equal(partition(torch.arange(len(block_of))), wanted)
    held = sum(buffer.numel() * buffer.element_size() for buffer in partition.buffers())
    assert held == partition_bytes(sizes_of(block_of, num_blocks))


@given(more=st.integers(0, 1500), num_blocks=st.integers(2, 20), seed=st.integers(0, 99), skewed=st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_id_has_its_position(more: int, num_blocks: int, seed: int, skewed: bool) -> None:
    rng = np.random.default_rng(seed)
    blocks = num_blocks - np.minimum(rng.zipf(1.5, more), num_blocks) if skewed else rng.integers(0, num_blocks, more)
    check(rng.permutation(np.concatenate([np.arange(num_blocks), blocks])), num_blocks)  # no block is empty


@pytest.mark.parametrize("num_ids", [63, 64, 65, 511, 512, 513, 65535, 65536, 65537, 131_073, 200_001])
def test_sizes_around_the_borders_of_words_groups_and_sums(num_ids: int) -> None:
    check(np.random.default_rng(num_ids).integers(0, 5, num_ids), 5)
    check(np.arange(num_ids) * 3 // num_ids, 3)  # counts within a sum go to the last number of 16 bits


def test_any_ids_in_any_order_and_none() -> None:
    block_of = np.random.default_rng(0).integers(0, 7, 3000)
    partition, wanted = filled(block_of, 7), expected(block_of)
    ids = torch.randint(3000, (20_000,), generator=torch.Generator().manual_seed(0))
    for kernel in KERNELS:
        with use_kernel(kernel):
            assert torch.equal(partition(ids), wanted[ids])
            assert partition(ids[:0]).shape == (0,)
            assert torch.equal(partition(ids.view(2, -1).t()[:, 1]), wanted[ids[10_000:]])


def test_a_partition_costs_little_more_than_the_bits_of_a_block() -> None:
    assert partition_bytes([10**6]) == 0
    assert partition_bytes([125_000] * 8) * 8 / 10**6 < 3.3
    assert partition_bytes([10**5, 9 * 10**5]) * 8 / 10**6 < 1.1
    assert partition_bytes([10, 20, 40]) <= 50


def test_blocks_that_grow_by_a_factor_take_little_more_than_their_entropy() -> None:
    sizes = [15 * 2**i for i in range(16)]
    shares = np.array(sizes) / sum(sizes)
    entropy = float(-(shares * np.log2(shares)).sum())
    assert partition_bytes(sizes) * 8 / sum(sizes) < 1.45 * entropy
    check(np.random.default_rng(0).permutation(np.repeat(np.arange(16), sizes)), 16)


def test_a_state_whose_parts_do_not_belong_together_is_refused() -> None:
    block_of = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [40, 60, 100, 300, 500]))
    partition, sizes = filled(block_of, 5), sizes_of(block_of, 5)
    assert partition.inner is not None
    other = Partition(sizes)
    other.load_state_dict(partition.state_dict())
    assert torch.equal(other(torch.arange(1000)), expected(block_of))
    changes = {"planes": (1, "planes hold classes"), "counts": (1, "are not those"), "sums": (1, "are not those")}
    for level in ("outer.", "inner.outer."):
        for name, (change, message) in changes.items():
            state = {key: tensor.clone() for key, tensor in partition.state_dict().items()}
            state[level + name].view(-1)[0] ^= change
            with pytest.raises(RuntimeError, match=message):
                Partition(sizes).load_state_dict(state)
    state = {key: tensor.clone().fill_(-1 if tensor.dtype != torch.uint8 else 255) for key, tensor in state.items()}
    with pytest.raises(RuntimeError, match="hold class"):
        Partition(sizes).load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected"):
        Partition([500, 500]).load_state_dict(partition.state_dict())
    with pytest.raises(ValueError, match="classes of"):
        partition.fill(np.zeros(1000, np.int64))


@pytest.mark.parametrize("width", [1, 3, 16, 200])
def test_encodings_are_read_back_from_their_codes(width: int) -> None:
    grids: list[Encoding] = [
        Bits(bits, steps) for bits in (1, 2, 3, 4, 6, 8) for steps in ("block", "dimension", "row")
    ]
    books: list[Encoding] = [
        Codebook(part, 2**bits, entries)
        for part in {1, min(3, width), width}
        for bits in (1, 4, 12)
        for entries in ("int8", "fp16")
    ]
    for encoding in [Shared(), Rare(), Float16(), Ternary("row"), *grids, *books]:
        assert encoding_of_code(code_of(encoding, width), width) == encoding
    for code in (15, 6, 1 << 4, 3 | 7 << 4, 3 | 3 << 7):
        with pytest.raises(ValueError, match="no encoding"):
            encoding_of_code(code, width)
