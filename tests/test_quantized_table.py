"""The packed table gives back exactly what its encodings decode to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.ops.dispatch import KernelName, use_kernel
from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import encoding_of
from rectab.quantize.options import OptionTable
from rectab.schema import Vocabulary
from rectab.tables import build_table, load_table, save_table
from rectab.tables.quantized import FIXED_BYTES, HEADER_BYTES, QuantizedConfig, QuantizedTable, encode_table

ENCODINGS = [
    *("shared", "fp16", "ternary/dimension", "ternary/row", "ternary/block"),
    *(f"int{bits}/{steps}" for bits in (1, 2, 3, 4, 6, 8) for steps in ("dimension", "row", "block")),
    *(f"codebook/{book}/{entries}" for book in ("1x4", "1x16", "2x2", "2x8", "3x32") for entries in ("int8", "fp16")),
]


def encoded(names: list[str], sizes: list[int], dim: int, seed: int = 0) -> tuple[QuantizedTable, list[np.ndarray]]:
    """Three blocks a vocabulary; and the vectors that the encodings decode to."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(n, dim)).astype(np.float32) for n in sizes]
    table = OptionTable(vectors, [np.ones(n) for n in sizes], None, HEADER_BYTES)
    blocks = [
        Block(v, a, b)
        for v, n in enumerate(sizes)
        for a, b in zip((0, n // 3, n // 2), (n // 3, n // 2, n), strict=True)
        if a < b
    ]
    chosen = tuple(encoding_of(names[i % len(names)]) for i in range(len(blocks)))
    wanted = [np.empty_like(v) for v in vectors]
    for block, encoding in zip(blocks, chosen, strict=True):
        wanted[block.vocabulary][block.first : block.last] = table.fit(block, encoding).decode()
    size = sum(e.bytes(len(b), dim) + HEADER_BYTES for b, e in zip(blocks, chosen, strict=True))
    vocabularies = [Vocabulary(f"v{i}", n) for i, n in enumerate(sizes)]
    made = encode_table(vocabularies, dim, table, Allocation(tuple(blocks), chosen, np.zeros(len(blocks)), size))
    assert made.ledger().bytes == size + FIXED_BYTES * len(sizes)
    return made, wanted


@given(
    names=st.lists(st.sampled_from(ENCODINGS), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    dim=st.integers(3, 9),
)
@settings(deadline=None, max_examples=40)
def test_every_id_reads_what_its_encoding_decodes_to(names: list[str], sizes: list[int], dim: int) -> None:
    table, wanted = encoded(names, sizes, dim)
    for index, vectors in enumerate(wanted):
        found = table(torch.arange(len(vectors)), index)
        torch.testing.assert_close(found, torch.from_numpy(vectors), rtol=1e-6, atol=1e-7)


@given(
    names=st.lists(st.sampled_from(ENCODINGS), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    dim=st.integers(3, 9),
    shape=st.sampled_from([(0,), (7,), (5, None), (3, 2, None), ()]),
)
@settings(deadline=None, max_examples=40)
def test_kernel_and_reference_agree_to_the_bit(
    names: list[str], sizes: list[int], dim: int, shape: tuple[int | None, ...]
) -> None:
    """One vocabulary for all ids, or one a column."""
    table, _ = encoded(names, sizes, dim)
    generator = torch.Generator().manual_seed(dim)
    full = [len(sizes) if n is None else n for n in shape]
    columns: torch.Tensor | int = torch.arange(len(sizes)) if None in shape else len(sizes) - 1
    ids = (torch.rand(full, generator=generator) * torch.tensor(sizes)[columns]).long()
    by_numba = table(ids, columns)
    with use_kernel("torch"):
        assert torch.equal(table(ids, columns), by_numba)
    assert by_numba.shape == (*full, dim)


@given(
    borders=st.lists(st.lists(st.integers(1, 140), max_size=24, unique=True), min_size=1, max_size=4),
    ends=st.integers(1, 20),
)
@settings(deadline=None, max_examples=60)
def test_blocks_may_begin_anywhere(borders: list[list[int]], ends: int) -> None:
    """Also where many begin among ids of equally many bits: the search for a block begins at those bits."""
    firsts = [[0, *sorted(own)] for own in borders]
    sizes = [own[-1] + ends for own in firsts]
    config = QuantizedConfig(
        tuple(index for index, own in enumerate(firsts) for _ in own),
        tuple(first for own in firsts for first in own),
        ("fp16",) * sum(map(len, firsts)),
    )
    table = QuantizedTable([Vocabulary(f"v{i}", n) for i, n in enumerate(sizes)], 3, config)
    held = torch.arange(3 * sum(sizes), dtype=torch.float16)
    table.payload.copy_(held.view(torch.uint8))
    rows = torch.split(held.float().view(-1, 3), sizes)
    for index, expected in enumerate(rows):
        assert torch.equal(table(torch.arange(len(expected)), index), expected)


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize("wrong", [-1, 60, 2**40])
def test_ids_outside_are_refused_by_name(kernel: KernelName, wrong: int) -> None:
    table, _ = encoded(["fp16"], [60, 9], 4)
    with use_kernel(kernel), pytest.raises(IndexError, match=f"id {wrong} is outside vocabulary 'v0'"):
        table(torch.tensor([[3, 3], [wrong, 4]]), torch.arange(2))


@pytest.mark.parametrize("name", ["codebook/2x3/int8", "codebook/128x4/fp16"])
def test_codebooks_that_the_table_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="power of two, and parts of at most 127 dimensions"):
        build_table("quantized.packed", [Vocabulary("a", 30)], 200, QuantizedConfig((0,), (0,), (name,)))


def test_rare_ids_read_the_vector_of_id_0_and_take_no_bytes() -> None:
    vectors = [np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)] * 2
    options = OptionTable(vectors, [np.ones(30)] * 2, None, HEADER_BYTES)
    blocks = (Block(0, 0, 10), Block(0, 10, 30), Block(1, 0, 30))
    names = ("int8/dimension", "rare", "fp16")
    allocation = Allocation(blocks, tuple(map(encoding_of, names)), np.zeros(3), 0)
    vocabularies = [Vocabulary("a", 30), Vocabulary("b", 30)]
    table = encode_table(vocabularies, 4, options, allocation)
    assert torch.equal(table(torch.arange(10, 30), 0), table(torch.zeros(20, dtype=torch.int64), 0))
    assert not torch.equal(table(torch.tensor(9), 0), table(torch.tensor(0), 0))
    assert len(table.payload) == 8 + 40 + 240


def test_graphs_decode_the_same(tmp_path: Path) -> None:
    table, _ = encoded(ENCODINGS, [60, 45, 50, 9], 5)
    ids, columns = torch.stack([torch.arange(9)] * 4, 1), torch.arange(4)
    program = torch.export.export(table, (ids, columns))
    assert torch.equal(program.module()(ids, columns), table(ids, columns))
    save_table(table, tmp_path / "t.safetensors")
    assert torch.equal(load_table(tmp_path / "t.safetensors")(ids, columns), table(ids, columns))


@pytest.mark.parametrize(
    ("vocabularies", "first_ids", "encodings", "message"),
    [
        ((0, 0), (0, 5), ("fp16",), "must be equally long"),
        ((0, 0), (0, 40), ("fp16", "fp16"), "has no ids 0..40"),
        ((0, 0), (0, 0), ("fp16", "fp16"), "in order of vocabulary and first id"),
        ((0,), (3,), ("fp16",), "from id 0 of each on"),
        ((1,), (0,), ("fp16",), "from id 0 of each on"),
        ((0,), (0,), ("rare",), "the block of id 0 cannot be rare"),
        ((0,), (0,), ("int5/row",), "there is no encoding"),
    ],
)
def test_a_config_that_is_no_table_is_refused(
    vocabularies: tuple[int, ...], first_ids: tuple[int, ...], encodings: tuple[str, ...], message: str
) -> None:
    def build() -> None:
        config = QuantizedConfig(vocabularies, first_ids, encodings)
        build_table("quantized.packed", [Vocabulary("a", 30)], 4, config)

    with pytest.raises(ValueError, match=message):
        build()


def test_blocks_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    table, _ = encoded(["fp16", "int4/row"], [60], 4)
    table.blocks[1, 0] += 1
    save_table(table, tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="blocks are not those of its config"):
        load_table(tmp_path / "t.safetensors")


def test_a_state_of_another_layout_is_refused() -> None:
    """Also where all shapes are the same."""
    table, other = (encoded([name], [60], 4)[0] for name in ("int4/dimension", "int4/block"))
    state = other.state_dict() | {"payload": table.payload}
    with pytest.raises(RuntimeError, match="are not those of its config"):
        table.load_state_dict(state)
    table.load_state_dict(table.state_dict())


def test_a_payload_beyond_2_gib_is_read_where_it_is() -> None:
    """Its zeros are never touched, so they take no memory."""
    sizes, dim = (9_000_000, 9_000_000, 40), 64
    vocabularies = [Vocabulary(f"v{i}", n) for i, n in enumerate(sizes)]
    config = QuantizedConfig((0, 1, 2), (0, 0, 0), ("fp16", "fp16", "int8/block"))
    table = build_table("quantized.packed", vocabularies, dim, config)
    assert table.ledger().bytes == len(table.payload) + 3 * (HEADER_BYTES + FIXED_BYTES) > 2**31
    payload = table.payload.numpy()
    payload[-40 * dim - 2 :][:2] = np.float16(0.5).tobytes()[0], np.float16(0.5).tobytes()[1]
    payload[-dim:] = 130
    payload[2 * dim * (sizes[0] + sizes[1]) - 2 * dim :][: 2 * dim] = np.full(dim, 3, np.float16).view(np.uint8)
    ids = torch.tensor([[0, sizes[1] - 1, 39], [sizes[0] - 1, 5, 38]])
    wanted = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, -64.0]]).unsqueeze(-1).expand(2, 3, dim)
    for kernel in ("numba", "torch"):
        with use_kernel(kernel):  # type: ignore[arg-type]
            assert torch.equal(table(ids, torch.arange(3)), wanted)
