"""What values outside a vocabulary read: id 0 as it was trained, or the mean of ids that are nearly new."""

from __future__ import annotations

import numpy as np

from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Float16, encoding_of
from rectab.quantize.options import OptionTable
from rectab.quantize.rare import rare_vector


def table(counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = len(counts)
    vectors = np.random.default_rng(0).normal(0, 1, (size, 3)).astype(np.float32)
    return vectors, np.array(counts), np.array(counts) + 0.5


def test_a_trained_id_0_is_kept() -> None:
    vectors, counts, traffic = table([1, 9, 5])
    assert (rare_vector(vectors, counts, traffic) == vectors[0]).all()
    alone = table([0])
    assert (rare_vector(*alone) == alone[0][0]).all(), "there is no other"


def test_an_untrained_id_0_is_the_mean_of_the_rarest_ids_by_traffic() -> None:
    vectors, counts, traffic = table([0, *[50] * 100, *[2] * 20, *[1] * 15])
    rare = np.arange(101, 136)  # 16 are needed, so all that were seen twice count, too
    expected = (traffic[rare, None] * vectors[rare]).sum(0) / traffic[rare].sum()
    np.testing.assert_allclose(rare_vector(vectors, counts, traffic), expected, rtol=1e-5, atol=1e-6)
    few = table([0, 7, 3])
    expected = (few[2][1:, None] * few[0][1:]).sum(0) / few[2][1:].sum()
    np.testing.assert_allclose(rare_vector(*few), expected, rtol=1e-5, atol=1e-6)


def test_blocks_hold_it_in_place_of_id_0_and_the_vectors_stay() -> None:
    vectors, _, traffic = table([0, *[9] * 30])
    before, vector = vectors.copy(), np.full(3, 2.0, np.float32)
    options = OptionTable([vectors], [traffic], None, 0, rare=[vector])
    first, rest = Block(0, 0, 12), Block(0, 12, 31)
    np.testing.assert_allclose(options.fit(first, Float16()).decode()[0], vector)
    np.testing.assert_allclose(options.fit(first, Float16()).decode()[1:], vectors[1:12], atol=1e-2)
    assert (options.fit(rest, encoding_of("rare")).decode() == vector).all()
    assert (vectors == before).all()
