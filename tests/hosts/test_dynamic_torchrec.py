"""A dynamic table's slots in torchrec: MPZCH reads the rows that rectab's ids have, and those of ids that have none."""

from __future__ import annotations

import pytest
import torch

from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import plan
from rectab.tables.dynamic import DynamicTable

pytest.importorskip("torchrec")
pytest.importorskip("fbgemm_gpu")

from torchrec import JaggedTensor
from torchrec.modules.hash_mc_modules import HashZchManagedCollisionModule

ROWS = 200_000


def filled(reserved_share: float, max_probe: int) -> DynamicTable:
    made = plan(
        "dynamic",
        [Vocabulary("item", ROWS, hashed=True)],
        2,
        options=None,
        pool=False,  # identities are raw ids, as torchrec's are,
        absent="rows",  # and ids that have no row read one that they share
        reserved_share=reserved_share,
        max_probe=max_probe,
    ).build()
    assert isinstance(made, DynamicTable)
    rows = RowAdam(made.row_stores(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    made.train()
    for step in range(30):  # a quarter more ids than rows: the oldest have made place
        made(torch.randint(-(2**62), 2**62, (ROWS // 24,), generator=generator), 0)
        made.after_step(step + 1, rows)
    assert made.tallies()["evicted"] > ROWS // 10
    return made.eval()


def module_of(table: DynamicTable) -> HashZchManagedCollisionModule:
    reserved = int(table.reserved[0])
    options = {"opt_in_prob": 50, "percent_reserved_slots": 100 * reserved / ROWS} if reserved else {}
    module = HashZchManagedCollisionModule(
        zch_size=ROWS,
        device=torch.device("cpu"),
        total_num_buckets=1,
        max_probe=table.config.max_probe,
        input_hash_size=0,
        **options,
    ).eval()
    state = module.state_dict()
    state["_hash_zch_identities"] = table.identities.unsqueeze(1).clone()
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize(("reserved_share", "max_probe"), [(0.0, 128), (0.0, 16), (0.05, 128)])
def test_torchrec_reads_the_same_rows_for_a_million_ids(reserved_share: float, max_probe: int) -> None:
    table = filled(reserved_share, max_probe)
    held = table.identities[table.identities != -1]
    generator = torch.Generator().manual_seed(9)
    others = torch.randint(-(2**62), 2**62, (1_000_000 - held.numel(),), generator=generator)
    ids = torch.cat([held, others])[torch.randperm(1_000_000, generator=generator)]
    lengths = torch.ones(ids.numel(), dtype=torch.int64)
    read = module_of(table).remap({"item": JaggedTensor(ids, lengths=lengths)})["item"].values()
    asked: list[torch.Tensor] = []
    gather = table.store.forward
    table.store.forward = lambda rows: asked.append(rows) or gather(rows)  # type: ignore[func-returns-value,method-assign]
    table(ids, 0)
    assert torch.equal(read, asked[0])
    assert held.numel() > 0.9 * ROWS * (1 - reserved_share)


def test_ids_come_and_go_in_a_bag_collection() -> None:
    from torch import nn
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    import rectab

    tables = [
        EmbeddingBagConfig(name=f"t{k}", embedding_dim=4, num_embeddings=300, feature_names=[f"f{k}"]) for k in (1, 2)
    ]
    model = nn.ModuleDict({"bags": EmbeddingBagCollection(tables=tables), "top": nn.Linear(8, 1)})
    result = rectab.swap_(model, "dynamic", "30%", gradient="row", verbose=False)
    table = result.tables[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    result.step_with(optimizer, RowAdam(table.row_stores(), lr=0.01))
    for step in range(25):
        values = (torch.arange(60) + 8 * step) % 300
        batch = KeyedJaggedTensor.from_lengths_sync(["f1", "f2"], values, torch.full((20,), 3))
        loss = model["top"](model["bags"](batch).values()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    told = table.tallies()
    assert told["now"] == 25
    assert told["evicted"] > 50
    assert bool(table.holds(torch.arange(192, 222) % 300, 0).all())
