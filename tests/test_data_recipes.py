"""Every bundled recipe reads its data set's published layout: real rows where we have them, else generated ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rectab.data import PreparedDataset, bundled_recipes, load_recipe, prepare

RANDOM = np.random.default_rng(0)


def pick(*choices: str) -> str:
    return choices[RANDOM.integers(0, len(choices))]


def write(path: Path, lines: list[str], encoding: str = "utf-8") -> None:
    content = "".join(line + "\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_recipe_says_where_from_and_on_what_terms(name: str) -> None:
    recipe = load_recipe(bundled_recipes()[name])
    assert recipe.name == name
    assert recipe.description
    assert recipe.source
    assert recipe.terms
    assert recipe.synthetic or (recipe.paper and recipe.traps)


def test_the_promised_recipes_are_there() -> None:
    promised = (
        "frappe criteo criteo_dac80k avazu kuairand_pure movielens_1m movielens_100k amazon_electronics taobao_ad"
    )
    assert {*promised.split(), "synthetic"} <= set(bundled_recipes())


def make(name: str, raw: Path, tmp_path: Path, **changes: object) -> PreparedDataset:
    recipe = load_recipe(name).model_copy(update=changes)
    return prepare(recipe, raw, tmp_path / "out")


@pytest.mark.parametrize("file", ["train.txt", "train.txt.gz"])
def test_criteo_kaggle_layout(tmp_path: Path, file: str) -> None:
    def line(i: int) -> str:
        integers = [pick("", str(RANDOM.integers(-2, 3000))) for _ in range(13)]
        return "\t".join([str(i % 3 // 2), *integers, *(pick("", f"{RANDOM.integers(0, 9):08x}") for _ in range(26))])

    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / file, [line(i) for i in range(1400)])
    dataset = make("criteo", raw, tmp_path)
    assert len(dataset.schema.categorical) == 39
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [1200, 100, 100]
    assert 5 <= dataset.schema.vocabularies[13].num_embeddings <= 11


def test_avazu_layout(tmp_path: Path) -> None:
    fields = [
        "id",
        "click",
        "hour",
        "C1",
        "banner_pos",
        "site_id",
        "site_domain",
        "site_category",
        "app_id",
        "app_domain",
        "app_category",
        "device_id",
        "device_ip",
        "device_model",
        "device_type",
        "device_conn_type",
        "C14",
        "C15",
        "C16",
        "C17",
        "C18",
        "C19",
        "C20",
        "C21",
    ]
    lines = [",".join(fields)]
    for i in range(200):
        hour = f"1410{21 + i % 7}{i % 24:02d}"
        lines.append(",".join([f"{i}", str(i % 2), hour, *(pick("a", "b", "c") for _ in fields[3:])]))
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "train.gz", lines)
    dataset = make("avazu", raw, tmp_path)
    names = [feature.name for feature in dataset.schema.categorical]
    assert "id" not in names
    assert "hour" not in names
    assert len(names) == 24
    cardinality = {column["name"]: column["cardinality"] for column in dataset.summary["columns"]}
    assert (cardinality["hour_of_day"], cardinality["weekday"], cardinality["is_weekend"]) == (25, 8, 3)


def test_amazon_layout(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    reviews = []
    for user in range(12):
        for step, item in enumerate(RANDOM.permutation(40)[:5]):
            review = {
                "reviewerID": f"A{user}",
                "asin": f"B{item}",
                "unixReviewTime": 1_400_000_000 + 86_400 * (step // 2),
            }
            reviews.append(json.dumps({**review, "overall": 5.0, "reviewText": 'good, "really"\n'}))
    write(raw / "reviews_Electronics_5.json.gz", reviews)
    meta = [
        str({"asin": f"B{i}", "title": "it's", "categories": [["Electronics", "x"], ["E", f"C{i % 4}"]]})
        for i in range(50)
    ]
    write(raw / "meta_Electronics.json.gz", meta)
    dataset = make("amazon_electronics", raw, tmp_path)
    assert (
        len(dataset.train) == 12 * 2 * 2
    )  # 5 reviews: the first is history only, 2 train, 1 valid, 1 test, each with a negative
    assert len(dataset.valid) == len(dataset.test) == 12 * 2
    lengths = dataset.test.batch(slice(None)).histories["bought_item"].lengths()
    assert (lengths == 4).all()  # equal days keep the file's order
    assert dataset.schema.vocabularies[dataset.schema.vocabulary_index("category_id")].num_embeddings == 5


def test_taobao_layout(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    days = [1494000000, 1494518400 + 5, 1494604800 + 5]
    lines = ["user,time_stamp,adgroup_id,pid,nonclk,clk"]
    for i in range(300):
        click = i % 4 // 3
        lines.append(f"{i % 10},{days[i // 100] + i},{i % 8},430548_1007,{1 - click},{click}")
    write(raw / "raw_sample.csv", lines)
    ads = [f"{i},{i % 3},{i},{i},{pick('NULL', '7')},{10.5 * i}" for i in range(8)]
    write(raw / "ad_feature.csv", ["adgroup_id,cate_id,campaign_id,customer,brand,price", *ads])
    header = "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    header += "new_user_class_level "
    write(raw / "user_profile.csv", [header, *(f"{i},0,5,2,5,{pick('', '1')},3,0,{i % 3}" for i in range(8))])
    behaviour = [f"{i % 10},{1493000000 + i * 20_000},pv,{i % 3},7" for i in range(100)]
    write(raw / "behavior_log.csv", ["user,time_stamp,btag,cate,brand", *behaviour])
    dataset = make("taobao_ad", raw, tmp_path)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [100, 100, 100]
    batch = dataset.test.batch(slice(None))
    assert set(batch.histories) == {"shopping_category", "shopping_brand"}
    assert (batch.histories["shopping_category"].lengths() > 5).all()


def test_movielens_1m_ratings_layout(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    ratings = [f"{u}::{m}::4::{978300000 + k}" for u in range(1, 7) for k, m in enumerate(RANDOM.permutation(60)[:14])]
    write(raw / "ratings.dat", ratings)
    write(raw / "users.dat", [f"{u}::F::25::{u}::4806{u}" for u in range(1, 7)])
    write(raw / "movies.dat", [f"{m}::Café {m} (1995)::Comedy|Drama" for m in range(60)], "latin-1")
    recipe = load_recipe("movielens_1m_ratings")
    tables = tuple(table.model_copy(update={"sha256": None}) for table in recipe.tables)
    dataset = make("movielens_1m_ratings", raw, tmp_path, tables=tables)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [6 * 4 * 2, 6 * 5 * 2, 6 * 5 * 2]


REAL = {
    "frappe": ("frappe_x1", (202_027, 57_722, 28_860), 0.3346),
    "criteo_dac80k": ("criteo_dac80k", (57_600, 6_400, 16_000), 0.2249),
    "kuairand_pure": ("kuairand_pure_late", (167_281, 13_103, 42_485), 0.3181),
    "movielens_100k": ("ml100k", (80_000, 10_000, 10_000), 0.5520),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_rows(name: str, real_data: Path, tmp_path: Path) -> None:
    folder, sizes, rate = REAL[name]
    dataset = make(name, real_data / folder, tmp_path)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == sizes
    assert dataset.train.labels.mean() == pytest.approx(rate, abs=1e-4)
    assert dataset.summary["dropped"]["rows"] == 0


@pytest.mark.real_data
def test_real_movielens_1m_negatives_do_not_leak(real_data: Path, tmp_path: Path) -> None:
    dataset = make("movielens_1m", real_data / "ml1m_sequences", tmp_path)
    assert len(dataset.valid) == len(dataset.test) == 2 * 5 * 6_040
    assert len(dataset.train) == 2 * (999_611 - 10 * 6_040)
    for split in (dataset.train, dataset.test):
        rows = np.sort(np.random.default_rng(0).choice(len(split) // 2, 300, replace=False)) * 2
        batch = split.batch(np.stack([rows, rows + 1], axis=1).ravel())
        history, items = batch.histories["watched_movie"], batch.ids[:, split.schema.categorical_index("movie_id")]
        for i in range(0, 600, 2):
            past = history.values[history.offsets[i] : history.offsets[i + 1]].tolist()
            assert past == history.values[history.offsets[i + 1] : history.offsets[i + 2]].tolist()
            assert int(items[i]) not in past
            assert int(items[i + 1]) not in past
            assert batch.labels is not None
            assert batch.labels[i : i + 2].tolist() == [1, 0]
