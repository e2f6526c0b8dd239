"""Every method under every way to hold rows. A few pairs always; the whole matrix where slow tests are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rectab.ops.formats import formats, served_format
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableMethod, TableOptions, get_method, load_table, methods, plan, save_table

DIM = 8


def takes(method: TableMethod, rows: str) -> bool:
    try:
        method.check_rows(rows)
    except ValueError:
        return False
    return True


TRAINED = [row_format.name for row_format in formats() if row_format.trains and row_format.name != "fp64"]
ALWAYS = {(m.name, rows) for m in methods() for rows in ("fp32", "int8")}
ALWAYS |= {(method, rows) for method in ("full", "unified") for rows in TRAINED}
PAIRS = [
    pytest.param(m.name, rows, id=f"{m.name}-{rows}", marks=() if (m.name, rows) in ALWAYS else pytest.mark.slow)
    for m in methods()
    for rows in TRAINED
    if takes(m, rows)
]


def table_of(method: str, rows: str, vocabularies: list[Vocabulary], **options: object) -> EmbeddingTable:
    budget = None if get_method(method).fills == "one" else "40%"
    held = TableOptions(rows=rows, **options)  # type: ignore[arg-type]
    return plan(method, vocabularies, DIM, budget, options=held).build()


def ids_of(vocabularies: list[Vocabulary], batch: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(v.num_embeddings, (batch,), generator=generator) for v in vocabularies], 1)


@pytest.mark.parametrize(("method", "rows"), PAIRS)
def test_it_starts_at_the_asked_std_in_every_vocabulary(method: str, rows: str, vocabularies: list[Vocabulary]) -> None:
    table = table_of(method, rows, vocabularies, init_std=0.05).eval()
    for index, vocabulary in enumerate(vocabularies):
        vectors = table(torch.arange(vocabulary.num_embeddings), index).detach().float()
        if vectors.unique(dim=0).shape[0] >= 40:
            assert vectors.std().item() == pytest.approx(0.05, rel=0.2 if vocabulary.num_embeddings < 1000 else 0.1)
        assert torch.isfinite(vectors).all()


@pytest.mark.parametrize(("method", "rows"), PAIRS)
def test_its_file_keeps_format_bytes_and_vectors(
    method: str, rows: str, vocabularies: list[Vocabulary], tmp_path: Path
) -> None:
    table = table_of(method, rows, vocabularies).serving().serving().eval()  # of what is pruned, and then encoded
    save_table(table, tmp_path / "t.safetensors")
    loaded = load_table(tmp_path / "t.safetensors").eval()
    assert loaded.options.rows == table.options.rows == served_format(rows).name
    assert loaded.ledger().bytes == table.ledger().bytes
    ids, columns = ids_of(vocabularies), torch.arange(len(vocabularies))
    assert torch.equal(loaded(ids, columns), table(ids, columns))


@pytest.mark.parametrize(("method", "rows"), PAIRS)
def test_it_learns_and_stays_within_its_bytes(method: str, rows: str, vocabularies: list[Vocabulary]) -> None:
    table = table_of(method, rows, vocabularies, init_std=0.1).eval()
    ids, columns = ids_of(vocabularies), torch.arange(len(vocabularies))
    size, wanted = table.ledger().bytes, torch.zeros(DIM)
    dense = list(table.dense_parameters())
    optimizers: list[torch.optim.Optimizer] = [RowAdam(table.row_stores(), lr=0.01)]
    optimizers += [torch.optim.Adam(dense, lr=0.01)] if dense else []
    losses = []
    for _ in range(12):
        loss = (table(ids, columns) - wanted).square().mean()
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
    assert table.ledger().bytes == size


@pytest.mark.parametrize(("method", "rows"), sorted(pair for pair in ALWAYS if takes(get_method(pair[0]), pair[1])))
def test_it_exports_in_its_format(method: str, rows: str, vocabularies: list[Vocabulary]) -> None:
    table, columns = table_of(method, rows, vocabularies).serving().eval(), torch.arange(len(vocabularies))

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids, columns)

    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.export.export(Lookup(), (ids_of(vocabularies),), dynamic_shapes={"ids": {0: batch}})
        got, expected = program.module()(ids_of(vocabularies, 5)), table(ids_of(vocabularies, 5), columns)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
