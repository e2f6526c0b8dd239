"""A compressed model elsewhere: saved and loaded in another process, undone, compiled, traced and exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_helpers import ITEMS, Clicks, rows, trained
from safetensors.torch import load_file, save_file
from torch import nn

import rectab

HERE = Path(__file__).resolve().parent


def compressed(budget: str = "25%") -> tuple[nn.Module, rectab.CompressResult]:
    model = Clicks().eval()
    return model, rectab.compress_(model, budget, batches=[rows()], verbose=False)


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from compress_helpers import Clicks, rows
from safetensors.torch import load_file, save_file

import rectab

state = load_file(sys.argv[2]) if sys.argv[2].endswith(".safetensors") else torch.load(sys.argv[2])
model = Clicks().to(sys.argv[3]).eval()
result = rectab.load_compressed_(model, state, verbose=False)
save_file({"outputs": model(*rows()), "bytes": torch.tensor(result.bytes)}, sys.argv[4])
"""


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_another_process_gives_the_same_outputs(name: str, device: str, tmp_path: Path) -> None:
    model, result = compressed()
    (torch.save if name.endswith(".pt") else save_file)(model.state_dict(), tmp_path / name)
    arguments = [str(HERE), str(tmp_path / name), device, str(tmp_path / "out.safetensors")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, timeout=120)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["outputs"], model(*rows()))
    assert found["bytes"].item() == result.bytes


def test_loading_replaces_and_undo_restores_the_very_modules() -> None:
    state = compressed()[0].state_dict()
    model = Clicks().eval()
    item, before = model.item, model(*rows())
    result = rectab.load_compressed_(model, state, verbose=False)
    assert list(result.tables) == ["item", "tags"]
    assert result.loss_predicted is None
    assert not torch.equal(model(*rows()), before)
    result.undo()
    assert model.item is item
    assert torch.equal(model(*rows()), before)


def test_a_part_of_the_tables_and_other_budgets() -> None:
    model = Clicks().eval()
    rectab.compress_(model, "10%", batches=[rows()], include="item", verbose=False)
    other = Clicks().eval()
    rectab.compress_(other, "50%", batches=[rows()], verbose=False)
    with pytest.raises(RuntimeError, match=r"size mismatch|not those of its config|Unexpected"):
        other.load_state_dict(model.state_dict())
    fresh = Clicks().eval()
    rectab.load_compressed_(fresh, model.state_dict(), verbose=False)
    assert isinstance(fresh.tags, nn.EmbeddingBag)
    assert torch.equal(fresh(*rows()), model(*rows()))


class Other(nn.Module):
    def __init__(self, size: int = ITEMS, width: int = 6, name: str = "item") -> None:
        super().__init__()
        self.add_module(name, nn.Embedding(size, width))


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (Other(), {}, r"packed tables \['tags'\], but the model has none"),
        (Other(name="user"), {}, "no embedding table|none of these names"),
        (Clicks(), {"item.table.packed.codes": torch.tensor([15], dtype=torch.int16)}, "code of no encoding"),
        (Clicks(), {"item.table.packed.blocks": torch.tensor([[5, 0]], dtype=torch.int32)}, "'item' does not fit"),
        (Clicks(), {"item.table.packed.payload": torch.zeros(3, dtype=torch.uint8)}, "size mismatch"),
        (Clicks(), {"top.bias": torch.zeros(7)}, "size mismatch"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_changes(model: Any, change: Any, message: str) -> None:
    state = compressed()[0].state_dict() | change
    before = dict(model.named_modules())
    with pytest.raises((ValueError, RuntimeError), match=message):
        rectab.load_compressed_(model, state)
    assert dict(model.named_modules()) == before


def test_a_checkpoint_without_packed_tables_and_one_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="no packed table"):
        rectab.load_compressed_(Clicks(), Clicks().state_dict())
    model = nn.ModuleDict({"item": trained(nn.Embedding(ITEMS, 6))})
    rectab.compress_(model, "25%", batches=[rows()[0]], forward=lambda m, ids: m["item"](ids).sum(1), verbose=False)
    for other in (nn.Embedding(ITEMS, 5), nn.Embedding(20, 6), nn.Embedding(ITEMS + 2000, 6)):
        with pytest.raises((ValueError, RuntimeError), match=r"does not fit|size mismatch|not those of its config"):
            rectab.load_compressed_(nn.ModuleDict({"item": other}), model.state_dict())


def test_full_weights_are_refused_by_a_compressed_model() -> None:
    model, _ = compressed()
    with pytest.raises(RuntimeError, match=r"item.weight' is the full table of the model before it was compressed"):
        model.load_state_dict(Clicks().state_dict())


@pytest.mark.parametrize("budget", ["8%", "60%"])
def test_exported_with_any_batch_size(budget: str) -> None:
    model, _ = compressed(budget)
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(model, rows(8), dynamic_shapes=({0: batch}, {0: batch}))
    for size in (2, 300):
        torch.testing.assert_close(program.module()(*rows(size)), model(*rows(size)))


def test_compiled_before_or_after_and_undone() -> None:
    model = Clicks().eval()
    full = model(*rows())
    early = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(early(*rows()), full)
    result = rectab.compress_(model, "25%", batches=[rows()], verbose=False)
    late = torch.compile(model, backend="aot_eager", fullgraph=True)
    for compiled in (early, late):
        torch.testing.assert_close(compiled(*rows()), model(*rows()))
    result.undo()
    torch.testing.assert_close(early(*rows()), full)
    again = rectab.compress_(early, "25%", batches=[rows()], verbose=False)
    assert again.loss_predicted == result.loss_predicted
    torch.testing.assert_close(early(*rows()), model(*rows()))


def test_traced_by_fx_and_copied() -> None:
    import copy

    model, _ = compressed()
    graph = torch.fx.symbolic_trace(model)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == ["item", "tags", "top"]
    assert torch.equal(graph(*rows()), model(*rows()))
    assert torch.equal(copy.deepcopy(model)(*rows()), model(*rows()))


def test_hooks_of_the_model_stay_and_those_of_a_table_are_refused() -> None:
    seen = []
    model = Clicks().eval()
    model.top.register_forward_hook(lambda *_: seen.append("top"))
    model.register_forward_pre_hook(lambda *_: seen.append("model"))
    rectab.compress_(model, "25%", batches=[rows()], verbose=False)
    seen.clear()
    model(*rows())
    assert seen == ["model", "top"]
    model = Clicks()
    model.item.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="item: it has hooks"):
        rectab.compress_(model, "25%", batches=[rows()])


def test_a_failure_while_measuring_leaves_no_hook_and_no_mode_behind() -> None:
    model = Clicks(lambda logits: logits.sum()).train()
    with pytest.raises(ValueError, match="one number for a whole batch"):
        rectab.compress_(model, "25%", batches=[rows()])
    assert model.training
    assert not model.item._forward_hooks
    assert type(model.item) is nn.Embedding


def test_buffers_that_no_checkpoint_has_are_not_left_on_the_meta_device() -> None:
    class Scaled(Clicks):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()), persistent=False)

    model = Scaled().to("meta")
    with pytest.raises(ValueError, match=r"\['scale'\] are on the meta device"):
        rectab.load_compressed_(model, compressed()[0].state_dict())
    assert isinstance(model.item, nn.Embedding)
    model.scale = torch.ones(())
    rectab.load_compressed_(model.eval(), compressed()[0].state_dict(), verbose=False)
    assert torch.equal(model(*rows()), compressed()[0](*rows()))
