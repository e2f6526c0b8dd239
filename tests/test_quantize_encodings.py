"""Encodings of blocks of vectors: names, exact bytes, what is given back, and inputs that break k-means or steps."""

import numpy as np
import pytest

from rectab.quantize.encodings import Bits, Codebook, Float16, Shared, Ternary, encoding_of
from rectab.quantize.metric import Metric

ENCODINGS = [
    Shared(),
    Float16(),
    *(Bits(bits, steps) for bits in (1, 2, 3, 4, 6, 8) for steps in ("block", "dimension", "row")),
    *(Ternary(steps) for steps in ("block", "dimension", "row")),
    *(
        Codebook(sub_dim, num_codes, entries)
        for sub_dim in (1, 3)
        for num_codes in (2, 5, 32)
        for entries in ("int8", "fp16")
    ),
]
NAMES = [encoding.name for encoding in ENCODINGS]


def block(num_ids=50, embedding_dim=7, seed=0, scale=0.05):
    random = np.random.default_rng(seed)
    vectors = (scale * random.standard_normal((num_ids, embedding_dim))).astype(np.float32)
    return vectors, random.integers(0, 100, num_ids).astype(np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=NAMES)
def test_names_are_read_back(encoding):
    assert encoding_of(encoding.name) == encoding


@pytest.mark.parametrize("name", ["int5/row", "int4", "int4/column", "codebook/4/int8", "mean", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="there is no encoding"):
        encoding_of(name)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=NAMES)
@pytest.mark.parametrize("num_ids", [1, 2, 33])
@pytest.mark.parametrize("embedding_dim", [3, 8])
def test_payloads_take_the_bytes_that_were_counted(encoding, num_ids, embedding_dim):
    vectors, weights = block(num_ids, embedding_dim)
    fitted = encoding.fit(vectors, weights)
    payload, decoded = fitted.payload(), fitted.decode()
    assert (payload.dtype, payload.shape) == (np.uint8, (encoding.bytes(num_ids, embedding_dim),))
    assert (decoded.dtype, decoded.shape) == (np.float32, vectors.shape)
    error = (weights[:, None] * (decoded.astype(float) - vectors) ** 2).sum()
    assert fitted.error(weights) == pytest.approx(error, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=NAMES)
@pytest.mark.parametrize(
    ("vectors", "weights"),
    [
        (np.zeros((9, 4)), np.ones(9)),  # nothing to tell apart
        (np.full((9, 4), 0.3), np.ones(9)),  # duplicates only
        (block(9, 4)[0], np.zeros(9)),  # no traffic
        (block(9, 4)[0], np.eye(9)[3]),  # traffic on one id
        (block(1, 4)[0], np.ones(1)),  # a block of one id
        (1e-7 * block(9, 4)[0], np.ones(9)),  # below what an fp16 step can say
        (1e6 * block(9, 4)[0], np.ones(9)),  # above
    ],
    ids=["zeros", "duplicates", "no traffic", "one id's traffic", "one id", "tiny", "huge"],
)
def test_awkward_blocks_are_encoded(encoding, vectors, weights):
    vectors = vectors.astype(np.float32)
    fitted = encoding.fit(vectors, weights.astype(np.float32))
    decoded = fitted.decode()
    assert np.isfinite(decoded).all()
    assert fitted.payload().size == encoding.bytes(*vectors.shape)
    if not vectors.any():
        assert not decoded.any()


def test_no_encoding_is_worse_than_zeros():
    vectors, weights = block(200, 8)
    energy = float((weights[:, None] * vectors.astype(float) ** 2).sum())
    for encoding in ENCODINGS:
        assert encoding.fit(vectors, weights).error(weights) <= energy * (1 + 1e-6), encoding.name


def test_more_bits_are_closer():
    vectors, weights = block(300, 8)
    for ladder in (
        [Bits(1), Ternary(), Bits(2), Bits(3), Bits(4), Bits(6), Bits(8)],
        [Codebook(4, num_codes) for num_codes in (2, 8, 32, 128)],
        [Shared(), Codebook(8, 4), Codebook(4, 4), Codebook(2, 4), Codebook(1, 4)],
    ):
        errors = [encoding.fit(vectors, weights).error(weights) for encoding in ladder]
        assert errors == sorted(errors, reverse=True), [e.name for e in ladder]


def test_centroids_of_numbers_are_the_best_there_are():
    """Against all ways to cut eight numbers into three intervals."""
    random = np.random.default_rng(0)
    for _ in range(20):
        numbers = np.sort(random.standard_normal(8)).astype(np.float32)
        weights = random.integers(0, 4, 8).astype(np.float32)
        weights[0] = 1
        least = min(
            sum(
                weights[part] @ (numbers[part] - np.average(numbers[part], weights=weights[part] + 1e-9)) ** 2
                for part in (slice(0, i), slice(i, j), slice(j, 8))
            )
            for i in range(1, 7)
            for j in range(i + 1, 8)
        )
        error = Codebook(1, 3, "fp16").fit(numbers[:, None], weights).error(weights)
        assert error == pytest.approx(least, rel=1e-2, abs=1e-6)


def test_clusters_are_found_in_large_blocks():
    """Sixteen far clusters: k-means alone often leaves one centroid between two of them."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((16, 6)).astype(np.float32)
    vectors = centers[random.integers(0, 16, 5000)] + 0.001 * random.standard_normal((5000, 6)).astype(np.float32)
    for seed in range(5):
        fitted = Codebook(6, 16, "fp16").fit(vectors, np.ones(5000, np.float32), seed)
        assert ((fitted.decode() - vectors) ** 2).max() < 0.01


def test_vectors_close_together_far_from_zero_are_told_apart():
    random = np.random.default_rng(0)
    vectors = (1000 + random.integers(0, 4, (400, 1))).repeat(4, 1).astype(np.float32)
    fitted = Codebook(4, 4, "fp16").fit(vectors, np.ones(400, np.float32))
    assert fitted.error(np.ones(400, np.float32)) == 0


def test_frequent_ids_are_closer():
    vectors, _ = block(400, 8)
    weights = np.ones(400, np.float32)
    weights[:20] = 1000
    for encoding in (Bits(2), Ternary("block"), Codebook(4, 8), Shared()):
        squared = ((encoding.fit(vectors, weights).decode() - vectors) ** 2).mean(1)
        assert squared[:20].mean() < squared[20:].mean(), encoding.name


def test_the_same_seed_gives_the_same_bytes():
    vectors, weights = block(300, 8)
    for encoding in (Codebook(4, 16), Codebook(8, 8, "fp16"), Bits(3)):
        first, second = (encoding.fit(vectors, weights, seed=3).payload() for _ in range(2))
        assert (first == second).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_by_row(value):
    vectors, weights = block()
    vectors[7, 2] = value
    with pytest.raises(ValueError, match=r"int4/dimension: the vector of row 7"):
        Bits(4).fit(vectors, weights)
    vectors, weights = block()
    weights[9] = value
    with pytest.raises(ValueError, match="weight of row 9"):
        Codebook(1, 4).fit(vectors, weights)


def test_wrong_blocks_are_refused():
    vectors, weights = block()
    with pytest.raises(ValueError, match="negative"):
        Bits(4).fit(vectors, weights - 50)
    with pytest.raises(ValueError, match=r"\[n, D\]"):
        Bits(4).fit(vectors, weights[1:])
    with pytest.raises(ValueError, match=r"\[n, D\]"):
        Bits(4).fit(vectors[:0], weights[:0])
    with pytest.raises(ValueError, match="wider than D = 7"):
        Codebook(8, 4).fit(vectors, weights)


def test_codebooks_beyond_their_range_are_refused():
    for sub_dim, num_codes in ((0, 4), (4, 1), (4, 4097)):
        with pytest.raises(ValueError, match="must be"):
            encoding_of(f"codebook/{sub_dim}x{num_codes}/int8")


@pytest.mark.parametrize("options", [{"bits": 5}, {"bits": 4, "steps": "column"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="must be one of"):
        Bits(**options)


def test_codebooks_are_fitted_in_the_metric():
    """Where the output reads one direction of the vectors, the codes tell apart what differs in that direction."""
    random = np.random.default_rng(0)
    vectors, weights = block(600, 8)
    axis = random.standard_normal(8)
    metric = Metric(np.outer(axis, axis))
    for encoding in (Codebook(8, 16), Codebook(4, 16)):
        plain, aware = encoding.fit(vectors, weights), encoding.fit(vectors, weights, 0, metric)
        assert aware.error(weights) < 0.3 * metric.costs(plain.decode() - vectors) @ weights.astype(float)
        assert aware.payload().size == plain.payload().size == encoding.bytes(600, 8)


def test_errors_are_counted_in_the_metric():
    vectors, weights = block(40, 3)
    root = np.random.default_rng(1).standard_normal((3, 3))
    for encoding in ENCODINGS:
        fitted = encoding.fit(vectors, weights, 0, Metric(root @ root.T))
        error = (weights * (((fitted.decode().astype(float) - vectors) @ root) ** 2).sum(1)).sum()
        assert fitted.error(weights) == pytest.approx(error, rel=1e-3, abs=1e-9), encoding.name


def test_a_metric_of_zeros_or_of_another_shape():
    vectors, weights = block(40, 3)
    assert Codebook(3, 4).fit(vectors, weights, 0, Metric(np.zeros((3, 3)))).error(weights) == 0
    for wrong in (np.ones((3, 2)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="square matrix of finite numbers"):
            Metric(wrong)
