"""Which block takes which encoding: budgets are kept and used, errors add up, joining never loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectab.id_bytes import RANGE_BYTES
from rectab.quantize.allocate import Allocation, allocate, smallest_bytes
from rectab.quantize.blocks import Block, finest_blocks, first_alone
from rectab.quantize.encodings import Float16, encoding_of
from rectab.quantize.options import OptionTable, candidates
from rectab.quantize.predict import Inflation, Separation, expected_auc
from rectab.quantize.sensitivity import table_sensitivity
from rectab.quantize.traffic import expected_lookups

SIZES, DIM, HEADER = (5, 160, 700), 4, 3


@pytest.fixture(scope="module")
def table() -> tuple[OptionTable, list[list[Block]]]:
    random = np.random.default_rng(0)
    vectors = [random.normal(0, 1, (n, DIM)).astype(np.float32) for n in SIZES]
    traffic = [1000.0 / (1 + np.arange(n)) for n in SIZES]
    blocks = [finest_blocks(v, t) for v, t in enumerate(traffic)]
    return OptionTable(vectors, traffic, None, HEADER), blocks


def test_finest_blocks_cover_every_id_once() -> None:
    for size in (1, 2, 48, 49, 200, 5000):
        for traffic in (1000.0 / (1 + np.arange(size)), np.ones(size), np.r_[0.0, np.ones(size - 1)]):
            blocks = finest_blocks(3, traffic)
            assert [b.first for b in blocks] == [0, *[b.last for b in blocks[:-1]]]
            assert blocks[-1].last == size
            assert all(len(b) > 0 and b.vocabulary == 3 for b in blocks)


def test_id_0_can_be_given_a_block_of_its_own() -> None:
    assert first_alone([Block(2, 0, 1)]) == [Block(2, 0, 1)]
    assert first_alone([Block(2, 0, 5), Block(2, 5, 9)]) == [Block(2, 0, 1), Block(2, 1, 5), Block(2, 5, 9)]


def test_options_trade_bytes_for_error(table: tuple[OptionTable, list[list[Block]]]) -> None:
    options, blocks = table
    for block in (blocks[0][0], blocks[2][0], blocks[2][-1]):
        found = options.of(block)
        assert (np.diff(found.bytes) > 0).all()
        assert (np.diff(found.errors) < 0).all()
        for encoding, size in zip(found.encodings, found.bytes, strict=True):
            assert size == encoding.bytes(len(block), DIM) + HEADER
    names = [encoding.name for encoding in candidates(700, DIM)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("share", [0.6, 0.25, 0.1, 0.05, 0.02])
def test_an_allocation_keeps_its_budget_and_uses_it(table: tuple[OptionTable, list[list[Block]]], share: float) -> None:
    options, blocks = table
    budget = int(share * sum(SIZES) * DIM * 4)
    found = allocate(options, blocks, budget)
    assert isinstance(found, Allocation)
    assert found.bytes <= budget
    best = all(encoding == Float16() for encoding in found.encodings)  # nothing larger is offered
    assert best or found.bytes >= 0.95 * budget  # few blocks, so the steps between options are coarse
    ids = {v: [0] * n for v, n in enumerate(SIZES)}
    for block, encoding, error in zip(found.blocks, found.encodings, found.errors, strict=True):
        for index in range(block.first, block.last):
            ids[block.vocabulary][index] += 1
        weights = options.weights[block.vocabulary][block.first : block.last]
        vectors = options.vectors[block.vocabulary][block.first : block.last]
        decoded = options.fit(block, encoding).decode()
        np.testing.assert_allclose(
            error, (((decoded - vectors) ** 2).sum(1) * weights).sum(), rtol=0.1, atol=1e-4
        )  # an estimate
    assert all(set(seen) == {1} for seen in ids.values())
    assert found.bytes == sum(e.bytes(len(b), DIM) + HEADER for b, e in zip(found.blocks, found.encodings, strict=True))


def test_a_larger_budget_is_never_worse_and_too_small_a_one_is_none(
    table: tuple[OptionTable, list[list[Block]]],
) -> None:
    options, blocks = table
    smallest = smallest_bytes(options, blocks)
    assert allocate(options, blocks, smallest - 1) is None
    budgets = [smallest, smallest + 40, 300, 1000, 4000]
    errors = [found.error for budget in budgets if (found := allocate(options, blocks, budget)) is not None]
    assert len(errors) == len(budgets)
    assert errors == sorted(errors, reverse=True)


def test_expected_lookups_move_to_ids_never_seen() -> None:
    counts = np.array([0, 900, 50, 7, 3, 2, 2, 1, 1, 1, 1, 0])
    expected = expected_lookups(counts, unseen_id=0)
    assert expected.sum() == pytest.approx(counts.sum(), rel=1e-3)
    assert expected[0] > 0.9
    assert (expected[1:] <= np.maximum(counts[1:], 0.05)).all()
    assert (expected > 0).all()


def test_predicted_loss_follows_noise_on_normal_outputs() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(200_000) < 0.3).astype(np.float32)
    outputs = random.normal(0, 1, labels.size) + 1.2 * labels

    def auc(scores: np.ndarray) -> float:
        ranks = np.empty(scores.size)
        ranks[np.argsort(scores)] = np.arange(1, scores.size + 1)
        positives = labels.sum()
        above = ranks[labels > 0.5].sum() - positives * (positives + 1) / 2
        return float(above / positives / (labels.size - positives))

    before = auc(outputs)
    separation = Separation.of(before, labels, outputs)
    assert separation.after(0.0) == pytest.approx(before)
    for change in (0.1, 0.5):
        noisy = outputs + random.normal(0, change**0.5, labels.size)
        assert separation.after(change) == pytest.approx(auc(noisy), abs=0.002)


def test_expected_auc_is_the_auc_over_labels_drawn_with_the_probabilities() -> None:
    random = np.random.default_rng(0)
    probabilities, outputs = random.random(60), random.normal(0, 1, 60)
    above = (outputs[:, None] > outputs[None]) + 0.5 * np.eye(60)  # a row beside itself is a tie
    pairs = probabilities[:, None] * (1 - probabilities[None])
    assert expected_auc(probabilities, outputs) == pytest.approx((pairs * above).sum() / pairs.sum())


def test_noise_that_gives_an_auc_is_the_inverse_of_the_auc_after_noise() -> None:
    separation = Separation(0.8, 3.0)
    for change in (1e-4, 0.1, 2.0):
        assert separation.change(separation.after(change)) == pytest.approx(change)
    assert separation.change(0.9) == separation.change(0.5) == 0


def test_errors_are_inflated_as_the_probes_were() -> None:
    separation = Separation(0.8, 3.0)
    losses = [0.8 - separation.after(2 * 0.01), 0.8 - separation.after(8 * 0.16)]
    inflation = Inflation(separation, [0.01, 0.16], losses)
    assert [inflation.change(e) / e for e in (0.001, 0.01, 0.04, 0.16, 1.0)] == pytest.approx([2, 2, 4, 8, 8])
    assert inflation.auc(0.01) == pytest.approx(0.8 - losses[0])
    for none in (Inflation(separation, [], []), Inflation(separation, [0.1], [-0.001])):
        assert none.change(0.1) == 0.1


def test_sensitivity_is_the_mean_squared_gradient_of_the_output() -> None:
    class Table(nn.Module):
        def forward(self, ids: Tensor, vocabulary: Tensor | int) -> Tensor:
            return torch.ones(*ids.shape, 2)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = Table()
            self.factor = torch.tensor([[3.0, 0.0], [1.0, 2.0]])

        def forward(self, ids: Tensor) -> Tensor:
            columns = (self.table(ids, torch.tensor([0, 1])) * self.factor).sum((1, 2))
            return columns + 5.0 * self.table(ids[:, 0], 1)[:, 0]

    model = Model()
    found = table_sensitivity(model, model.table, 3, [torch.zeros(4, 2, dtype=torch.long)] * 2)
    first, second = [[9.0, 0.0], [0.0, 0.0]], [[(1 + 25) / 2, 2.0 / 2], [2.0 / 2, 4.0 / 2]]
    np.testing.assert_allclose(found, [first, second, np.zeros((2, 2))])
    assert model.training
    with pytest.raises(ValueError, match="no batch"):
        table_sensitivity(model, model.table, 3, [])


def test_rare_blocks_read_id_0_and_leave_the_map() -> None:
    random = np.random.default_rng(1)
    near = np.r_[random.normal(0, 1, (100, DIM)), random.normal(0, 1e-3, (900, DIM))].astype(np.float32)
    near[0] = 0
    traffic = [1000.0 / (1 + np.arange(1000))]
    blocks = [finest_blocks(0, traffic[0])]
    plain, counted = (OptionTable([near], traffic, None, HEADER, id_bits=bits) for bits in (None, [20]))
    tail = blocks[0][-1]
    names = [encoding.name for encoding in counted.of(tail).encodings]
    assert names[0] == "rare", "the cheapest there is"
    assert "rare" not in [encoding.name for encoding in counted.of(blocks[0][0]).encodings], "id 0 is in it"
    rare, shared = encoding_of("rare"), encoding_of("shared")
    assert counted.bytes(tail, shared) - plain.bytes(tail, shared) == (len(tail) * 20 + 7) // 8
    assert (
        counted.bytes(blocks[0][0], shared) - plain.bytes(blocks[0][0], shared)
        == ((len(blocks[0][0]) - 1) * 20 + 7) // 8
    )
    assert counted.bytes(tail, rare) == HEADER + RANGE_BYTES
    assert plain.bytes(tail, rare) == HEADER
    fitted = counted.fit(tail, rare)
    assert fitted.payload().size == 0
    assert (fitted.decode() == near[0]).all()
    weights = traffic[0][tail.first : tail.last].astype(np.float32)
    assert fitted.error(weights) == pytest.approx(
        (weights[:, None] * near[tail.first : tail.last] ** 2).sum(), rel=1e-5
    )
    found = allocate(counted, blocks, 2500)
    assert found is not None
    ids = sum(len(b) for b, e in zip(found.blocks, found.encodings, strict=True) if e != rare)
    assert ids < 500, "ids whose vectors are nearly that of id 0 are not paid for"
    assert found.bytes == sum(counted.bytes(b, e) for b, e in zip(found.blocks, found.encodings, strict=True)) <= 2500
    with pytest.raises(ValueError, match="use fit_to"):
        rare.fit(near, traffic[0])
