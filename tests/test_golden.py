"""What outlives a process stays what it was: salts, the rows that ids read, and files of every form and version.

A change here is a change of the format: old tables, sharded checkpoints and swapped models would read other rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rectab.ops import hash_rows, salt_of
from rectab.schema import Vocabulary
from rectab.tables import build_table, load_table, plan, save_table
from rectab.tables.files import read_file, write_file
from rectab.tables.hashed import HashedConfig
from rectab.tables.io import FORMAT_VERSION
from rectab.tables.unified import UnifiedConfig

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(GOLDEN.glob("format*"))
FILES = [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for v in VERSIONS for path in v.glob("*.safetensors")]
VOCABULARIES = [Vocabulary("user", 1000), Vocabulary("item", 500), Vocabulary("day", 7)]
IDS = torch.tensor([0, 1, 2, 6])

SALTS = {"0/user": 2460427156305913942, "0/user/1": 2259708133627041710, "7/item/unseen": 3913015891412133694}
ROWS: dict[str, Any] = {
    "hash": [287, 560, 458, 448],
    "hashed user": [41, 98, 40, 42],
    "unified user": [[26, 84], [30, 57], [33, 80], [7, 73]],
    "hashed item": [142, 120, 144, 132],
    "unified item": [[111, 3], [126, 0], [139, 20], [110, 46]],
    "hashed day": [160, 161, 162, 166],
    "unified day": [[73, 111], [58, 139], [73, 108], [82, 141]],
}


def test_salts() -> None:
    assert salt_of(0, "user") == SALTS["0/user"]
    assert salt_of(0, "user", 1) == SALTS["0/user/1"]
    assert salt_of(7, "item", "unseen") == SALTS["7/item/unseen"]
    assert hash_rows(IDS, salt_of(0, "user"), 1000).tolist() == ROWS["hash"]


def test_rows_that_ids_read() -> None:
    hashed = build_table("hashed", VOCABULARIES, 4, HashedConfig((100, 60, 7), 3))
    unified = build_table("unified", VOCABULARIES, 4, UnifiedConfig(50, 2, 3, 1))
    for index, name in enumerate(("user", "item", "day")):
        column = torch.tensor(index)
        assert hashed.address(IDS, column).tolist() == ROWS[f"hashed {name}"]
        assert unified.address(IDS, column).tolist() == ROWS[f"unified {name}"]


def test_what_a_budget_is_laid_out_to() -> None:
    assert plan("hashed", VOCABULARIES, 4, "25%").config == HashedConfig((245, 122, 7), 0)
    assert plan("unified", VOCABULARIES, 4, "25%").config == UnifiedConfig(748, 2, 1, 0)


@pytest.mark.parametrize("path", FILES)
def test_files_of_every_version_load_as_they_were_saved_or_say_what_to_do(path: Path) -> None:
    expected: dict[str, Any] = json.loads((path.parent / "expected.json").read_text())[path.stem]
    if path.parent.name != f"format{FORMAT_VERSION}":
        with pytest.raises(ValueError, match="save it again"):
            load_table(path)
        return
    table = load_table(path).eval()
    assert table.method == expected["method"]
    assert table.ledger().bytes == expected["bytes"]
    for index, vectors in enumerate(expected["vectors"]):
        assert torch.equal(table(torch.arange(len(vectors)), index).float(), torch.tensor(vectors))


def test_a_file_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    """Written before the version that is read now, and after it."""
    description, tensors = read_file(GOLDEN / "format3" / "full.safetensors", "table", 3)
    for version in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        told = {key: value for key, value in description.items() if key not in ("format_version", "rectab")}
        write_file(tmp_path / "t.safetensors", "table", version, told, tensors)
        with pytest.raises(ValueError, match=rf"t\.safetensors: format version {version}, .* reads {FORMAT_VERSION}"):
            load_table(tmp_path / "t.safetensors")


def test_this_version_has_golden_files(tmp_path: Path) -> None:
    """A new version comes with a folder of its own files."""
    assert (GOLDEN / f"format{FORMAT_VERSION}").is_dir()
    table = plan("full", VOCABULARIES, 4).build()
    save_table(table, tmp_path / "t.safetensors")
    assert read_file(tmp_path / "t.safetensors", "table", FORMAT_VERSION)[0]["format_version"] == FORMAT_VERSION
