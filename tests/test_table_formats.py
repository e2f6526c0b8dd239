"""Every method under every way to hold rows. A few pairs always; the whole matrix where slow tests are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rectab.ops import RowStore
from rectab.ops.formats import LatentFormat, formats, get_format, served_format
from rectab.ops.steps import LearnedSteps
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableMethod, TableOptions, get_method, load_table, methods, plan, save_table
from rectab.tables.format_list import formats_to_json

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
LATENT = [name for name in TRAINED if isinstance(get_format(name), LatentFormat)]
PAIRS = [
    pytest.param(m.name, rows, id=f"{m.name}-{rows}", marks=() if (m.name, rows) in ALWAYS else pytest.mark.slow)
    for m in methods()
    for rows in TRAINED
    if takes(m, rows)
]


ENCODED = [
    pytest.param(m.name, rows, id=f"{m.name}-{rows}", marks=() if rows in ("ptq8", "lsq4") else pytest.mark.slow)
    for m in methods()
    for rows in LATENT
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


def trained(table: EmbeddingTable, vocabularies: list[Vocabulary], steps: int = 6) -> EmbeddingTable:
    """After steps towards random vectors, in training mode; now in evaluation mode."""
    ids, columns, size = ids_of(vocabularies), torch.arange(len(vocabularies)), table.options.init_std
    wanted = torch.randn(*ids.shape, DIM, generator=torch.Generator().manual_seed(1)) * size
    optimizers: list[torch.optim.Optimizer] = [RowAdam(table.row_stores(), lr=0.1 * size)]
    if dense := list(table.dense_parameters()):
        optimizers.append(torch.optim.Adam(dense, lr=0.01))
    rows = next(o for o in optimizers if isinstance(o, RowAdam))
    for step in range(1, steps + 1):
        (table.train()(ids, columns) - wanted).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        table.after_step(10 * step, rows)
    return table.eval()


@pytest.mark.parametrize(("method", "rows"), ENCODED)
def test_what_it_is_encoded_to_is_within_its_plan(method: str, rows: str, vocabularies: list[Vocabulary]) -> None:
    budget = None if get_method(method).fills == "one" else "30%"
    planned = plan(method, vocabularies, DIM, budget, options=TableOptions(rows=rows))
    served = trained(planned.build(), vocabularies).serving().serving()
    assert served.options.rows == served_format(rows).name
    assert served.ledger().bytes <= planned.serving.bytes
    held = {store.format.name for store in served.modules() if isinstance(store, RowStore)}
    assert held <= {served.options.rows}


@pytest.mark.parametrize(("method", "rows"), [p for p in ENCODED if p.values[1].startswith("lsq")])  # type: ignore
def test_rows_of_learned_steps_are_served_as_training_saw_them(
    method: str, rows: str, vocabularies: list[Vocabulary]
) -> None:
    """Of methods with stages, the last one's."""
    table = trained(table_of(method, rows, vocabularies, init_std=0.1), vocabularies)
    if get_method(method).needs_own_trainer:
        table = trained(table.serving(), vocabularies)
    stores = {name: store for name, store in table.named_modules() if isinstance(store, RowStore)}
    served = table.serving().eval()
    learned = {name: store.steps for name, store in stores.items() if isinstance(store.steps, LearnedSteps)}
    assert learned
    for name, steps in learned.items():
        torch.testing.assert_close(served.get_submodule(name).steps.step, steps.step.detach())  # type: ignore
    if len(learned) < len(stores):
        return  # rows that start at 0 are encoded as they are in the end
    ids, columns = ids_of(vocabularies), torch.arange(len(vocabularies))
    torch.testing.assert_close(served(ids, columns), table(ids, columns).detach(), rtol=1e-5, atol=1e-6)


def test_few_pairs_are_refused_and_each_says_what_to_do_instead() -> None:
    entries = formats_to_json()
    refused = [(method, entry["name"], why) for entry in entries for method, why in entry["refused_by"].items()]
    assert 0 < len([pair for pair in refused if not get_method(pair[0]).without_rows]) <= 15
    for method, rows, why in refused:
        assert method in why
        assert "use " in why or "leave rows at fp32" in why
        with pytest.raises(ValueError, match="rows"):
            get_method(method).check_rows(rows)
    without = [method for method in methods() if method.without_rows]
    assert [method.name for method in without if takes(method, "int8")] == []
    assert len(without) <= 2
