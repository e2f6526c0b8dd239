"""Deltas of run folders: every byte comes back, and what is damaged or of another base is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture

from rectab.training.deltas import apply_delta, apply_deltas, ids_gone, save_delta


def run_folder(folder: Path, tensors: dict[str, torch.Tensor], told: str = "{}", **files: bytes) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"told": told})
    (folder / "result.json").write_text(told)
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content)
    return folder


def rows(seed: int, count: int = 5000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"rows": torch.randn(count, 16, generator=generator), "bias": torch.randn(3, generator=generator)}


def same(left: Path, right: Path) -> bool:
    names = sorted(path.name for path in left.iterdir())
    return names == sorted(p.name for p in right.iterdir()) and all(
        (left / name).read_bytes() == (right / name).read_bytes() for name in names
    )


def changed_rows() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    before, after = rows(0), rows(0)
    after["rows"][torch.arange(0, 5000, 100)] += 0.25
    return before, after


@pytest.mark.parametrize(
    "case", ["few rows", "all rows", "more rows", "nothing", "longer words", "no tensors", "files"]
)
def test_every_byte_comes_back(tmp_path: Path, case: str) -> None:
    before, after = changed_rows()
    after = {"all rows": rows(1), "more rows": rows(0, 6000), "nothing": rows(0), "no tensors": {}}.get(case, after)
    old = run_folder(tmp_path / "old", before, gone=b"old" if case == "files" else b"")
    told = '{"what": "a longer description"}' if case == "longer words" else "{}"
    new = run_folder(tmp_path / "new", after, told, **({"more": b"x" * 999} if case == "files" else {"gone": b""}))
    made = save_delta(old, new, tmp_path / "delta")
    apply_delta(tmp_path / "delta", old, tmp_path / "again")
    assert same(new, tmp_path / "again")
    assert made.bytes == (tmp_path / "delta").stat().st_size
    size = (new / "model.safetensors").stat().st_size
    if case in ("few rows", "longer words"):
        assert made.bytes < 0.05 * size
        assert made.files[-2 if case == "few rows" else 1].changed < 0.02 * size or case == "longer words"
    if case == "nothing":
        assert made.bytes < 2500
        assert all(held.changed == 0 for held in made.files)
    assert made.removed == (("gone.txt",) if case == "files" else ())


def test_pieces_larger_than_memory_holds_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rectab.training.deltas import segments

    monkeypatch.setattr(segments, "_PIECE", 64 * 8 * 3)
    before, after = changed_rows()
    after["new"] = torch.arange(5000)
    old, new = run_folder(tmp_path / "old", before), run_folder(tmp_path / "new", after)
    save_delta(old, new, tmp_path / "delta")
    apply_delta(tmp_path / "delta", old, tmp_path / "again")
    assert same(new, tmp_path / "again")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    before, after = changed_rows()
    old, new = run_folder(tmp_path / "old", before), run_folder(tmp_path / "new", after)
    save_delta(old, new, tmp_path / "delta")
    return old, new, tmp_path / "delta"


def test_another_base_is_refused_by_name(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, delta = folders
    with pytest.raises(ValueError, match=r"made for another folder than .*: model\.safetensors there is not"):
        apply_delta(delta, new, tmp_path / "out")
    (old / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors there is missing"):
        apply_delta(delta, old, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_deltas_are_refused_and_nothing_is_left(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, _, delta = folders
    whole = delta.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(len(whole), size=40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        delta.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"is damaged or cut off|is no delta"):
            apply_delta(delta, old, tmp_path / "out")
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        delta.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"is damaged or cut off|is no delta"):
            apply_delta(delta, old, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_exists_is_left_alone(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    old, new, delta = folders
    with pytest.raises(FileExistsError, match="exists already"):
        save_delta(old, new, delta)
    with pytest.raises(ValueError, match="exists"):
        apply_delta(delta, old, new)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        save_delta(tmp_path / "empty", new, tmp_path / "other")


@pytest.fixture
def days(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Four run folders, and the deltas from each to the next."""
    folders = []
    for day in range(4):
        held = rows(0)
        held["rows"][: 100 * day] += day
        folders.append(run_folder(tmp_path / f"day{day}", held, told=f'{{"day": {day}}}'))
    deltas = [tmp_path / f"delta{day}" for day in range(3)]
    for day, delta in enumerate(deltas):
        save_delta(folders[day], folders[day + 1], delta)
    return folders, deltas


def test_deltas_in_their_order_make_the_last_folder(days: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    folders, deltas = days
    apply_deltas(deltas, folders[0], tmp_path / "out")
    assert same(folders[3], tmp_path / "out")


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2], [1, 2], [0, 0], [0, 1, 1], []])
def test_deltas_out_of_order_twice_or_with_one_missing_are_refused(
    days: tuple[list[Path], list[Path]], tmp_path: Path, order: list[int]
) -> None:
    folders, deltas = days
    wrong = next((k for k, day in enumerate(order) if day != k), None)
    message = (
        "no delta is given" if wrong is None else rf"delta{order[wrong]}: was made for another folder.*none left out"
    )
    with pytest.raises(ValueError, match=message):
        apply_deltas([deltas[day] for day in order], folders[0], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"day{day}" for day in range(4)),
        *(f"delta{day}" for day in range(3)),
    ]


def killed(code: str, arguments: list[str], after: float) -> None:
    """Run Python code that prints a line when it begins, and kill it."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("after", [0.0, 0.1])
def test_killed_while_a_delta_is_written_leaves_none_or_all_of_it(tmp_path: Path, after: float) -> None:
    old = run_folder(tmp_path / "old", rows(0, 400_000))
    new = run_folder(tmp_path / "new", rows(1, 400_000))
    code = "import sys\nfrom pathlib import Path\nfrom rectab.training.deltas import save_delta\n"
    code += "print(1, flush=True)\nsave_delta(*map(Path, sys.argv[1:]))"
    killed(code, [str(tmp_path / name) for name in ("old", "new", "delta")], after)
    if not (tmp_path / "delta").exists():
        save_delta(old, new, tmp_path / "delta")
    apply_delta(tmp_path / "delta", old, tmp_path / "out")
    assert same(new, tmp_path / "out")


def test_killed_while_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    old = run_folder(tmp_path / "old", rows(0, 400_000))
    new = run_folder(tmp_path / "new", rows(1, 400_000))
    save_delta(old, new, tmp_path / "delta")
    code = "import sys\nfrom pathlib import Path\nfrom rectab.training.deltas import apply_delta\n"
    code += "print(1, flush=True)\n"
    code += "apply_delta(*map(Path, sys.argv[1:]))"
    arguments = [str(tmp_path / name) for name in ("delta", "old", "out")]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finished = (tmp_path / "out").exists()
    assert not finished or same(new, tmp_path / "out")
    if not finished:
        apply_delta(tmp_path / "delta", old, tmp_path / "out")
    assert same(new, tmp_path / "out")


def test_a_delta_of_this_version_is_read_for_ever(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "delta_1"
    apply_delta(golden / "delta", golden / "old", tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (golden / "new.safetensors").read_bytes()


def dynamic_run(folder: Path, model: torch.nn.Module) -> Path:
    from rectab.training.artifact import save_model

    folder.mkdir()
    save_model(model, folder / "model.safetensors")  # type: ignore[arg-type]
    (folder / "result.json").write_text("{}")
    return folder


@pytest.mark.parametrize("pool", [False, True])
def test_ids_that_lost_their_rows_are_told(tmp_path: Path, rectab: CommandLine, pool: bool) -> None:  # noqa: F811
    from rectab.models import CTRModel, ModelConfig
    from rectab.optim import RowAdam
    from rectab.schema import Feature, Schema, Vocabulary
    from rectab.tables import plan

    vocabularies = (Vocabulary("item", 500, hashed=True), Vocabulary("day", 7))
    schema = Schema(vocabularies, (Feature("item", "item"), Feature("day", "day")))
    table = plan("dynamic", vocabularies, 4, "20%", max_probe=4, pool=pool).build()
    model = CTRModel(schema, table, ModelConfig.from_options("lr"))
    rows = RowAdam(table.row_stores(), lr=0.1)

    def train(first: int) -> set[int]:
        for step in range(first, first + 20):
            ids = torch.arange(step * 4, step * 4 + 12) * 2**45 - 2**62
            table.train()(ids, 0).sum().backward()
            rows.step()
            rows.zero_grad()
            table.after_step(step, rows)
        return set(ids_at_hand(table).tolist())

    def ids_at_hand(made: torch.nn.Module) -> torch.Tensor:
        asked = torch.arange(200) * 2**45 - 2**62
        return asked[made.holds(asked, 0)]  # type: ignore[operator]

    before = train(0)
    old = dynamic_run(tmp_path / "old", model)
    after = train(20)
    new = dynamic_run(tmp_path / "new", model)
    made = save_delta(old, new, tmp_path / "delta")
    gone = ids_gone(tmp_path / "delta")
    assert set(gone) == {"item"}
    assert gone["item"].tolist() == sorted(before - after)
    assert made.ids == {"item": {"came": len(after - before), "gone": len(before - after)}}
    assert len(before - after) > 10
    apply_delta(tmp_path / "delta", old, tmp_path / "again")
    assert same(new, tmp_path / "again")
    with pytest.raises(ValueError, match="was made for another folder"):
        apply_delta(tmp_path / "delta", new, tmp_path / "twice")
    told, _ = rectab("delta", str(old), str(new), "--out", str(tmp_path / "other"))
    assert f"item: {len(after - before)} ids got rows, {len(before - after)} lost theirs" in told


def test_a_delta_of_a_table_whose_ids_stay_tells_of_none(folders: tuple[Path, Path, Path]) -> None:
    assert ids_gone(folders[2]) == {}
