"""ARM-Net: neurons by hand, the formula of the paper in loops, ARM-Net+, what explain prints."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import prepared, raw_lines
from rich.console import Console
from torch import Tensor

from rectab.models.armnet import ARMConfig, ARMNet, ARMNetPlus, ARMPlusConfig, ExponentialNeurons
from rectab.models.entmax import entmax
from rectab.training import TrainConfig, explain_checkpoint, load_model, render_explanation, train_once


def test_a_neuron_by_hand() -> None:
    """One head, one neuron, width 1, sparsemax: scores .5, 0, -3 give gates .75, .25, 0."""
    neurons = ExponentialNeurons(3, 1, ARMConfig(heads=1, neurons=1, alpha=2.0))
    neurons.projection.data.fill_(2.0)
    neurons.query.data.fill_(0.5)
    neurons.values.data.copy_(torch.tensor([[[2.0, -4.0, 100.0]]]))
    fields = torch.tensor([[[0.5], [0.0], [-3.0]]])
    torch.testing.assert_close(neurons.gates(fields), torch.tensor([[[0.75, 0.25, 0.0]]]))
    torch.testing.assert_close(neurons.weights(fields), torch.tensor([[[1.5, -1.0, 0.0]]]))
    assert neurons(fields).item() == pytest.approx(math.exp(1.5 * 0.5 - 1.0 * 0.0))


@pytest.mark.parametrize("alpha", [1.0, 1.7, 2.0])
def test_the_formula_of_the_paper_in_loops(alpha: float) -> None:
    torch.manual_seed(0)
    config = ARMConfig(heads=2, neurons=3, alpha=alpha, key_dim=5)
    neurons = ExponentialNeurons(4, 6, config)
    fields = torch.randn(7, 4, 6)
    got = neurons(fields)
    for row, head, neuron in np.ndindex(7, 2, 3):
        projected = [neurons.projection[head].T @ field for field in fields[row]]
        scores = torch.stack([neurons.query[head, neuron] @ p for p in projected]) / math.sqrt(5)
        powers = entmax(scores, alpha) * neurons.values[head, neuron]
        product = torch.ones(6)
        for power, field in zip(powers, fields[row], strict=True):
            product = product * field.exp() ** power
        torch.testing.assert_close(got[row, head * 3 + neuron], product, rtol=1e-4, atol=1e-5)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("width", "published"), [(10, 177e3), (40, 434e3), (100, 953e3)])
def test_parameters_are_those_of_the_published_curve(width: int, published: float) -> None:
    """Frappe, one head of 10 neurons, perceptron 300-300, a table of 5,500 ids."""
    model = ARMNet(10, width, 0, ARMConfig(heads=1, neurons=10, hidden=(300, 300)))
    assert parameters(model) + 5500 * width == pytest.approx(published, rel=0.012)


def test_plus_is_the_mixture_of_two_over_halves() -> None:
    torch.manual_seed(0)
    config = ARMPlusConfig(heads=1, neurons=2, hidden=(5,), deep_hidden=(4,))
    model = ARMNetPlus(3, 8, 2, config).eval()
    fields, dense = torch.randn(6, 3, 8), torch.randn(6, 2)
    deep = model.deep(torch.cat([fields[..., 4:].flatten(1), dense], 1)).squeeze(1)
    expected = 0.5 * model.arm(fields[..., :4], dense) + 0.5 * deep
    torch.testing.assert_close(model(fields, dense), expected)
    shared = ARMNetPlus(3, 7, 0, ARMPlusConfig(heads=1, neurons=2, embeddings="shared")).eval()
    both: Tensor = shared(torch.randn(6, 3, 7), torch.empty(6, 0))
    assert both.shape == (6,)


def test_neurons_are_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    model = ARMNet(3, 4, 0, ARMConfig(heads=1, neurons=2, hidden=())).eval()
    fields, dense = torch.randn(5, 3, 4), torch.empty(5, 0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model(fields, dense)
    torch.testing.assert_close(inside, model(fields, dense))


def test_options_are_checked() -> None:
    for options, message in [
        ({"heads": 0}, "heads must be at least 1"),
        ({"neurons": -1}, "neurons must be at least 1"),
        ({"key_dim": 0}, "key_dim must be at least 1"),
        ({"alpha": 2.5}, "alpha must be in 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            ARMConfig(**options)
    with pytest.raises(ValueError, match="'halves' or 'shared'"):
        ARMPlusConfig(embeddings="own")
    with pytest.raises(ValueError, match="needs an even embedding_dim, got 5"):
        ARMNetPlus(3, 5, 0, ARMPlusConfig())


@pytest.mark.parametrize("model", ["armnet", "armnet_plus"])
def test_explain_names_the_fields_that_neurons_select(model: str, tmp_path: Path) -> None:
    data = prepared(tmp_path, raw_lines())
    out = tmp_path / "run"
    train_once(
        data,
        method="full",
        model=model,
        model_options={"heads": 2, "neurons": 3, "alpha": 2.0, "hidden": [6]},
        embedding_dim=4,
        train_config=TrainConfig(max_epochs=1, batch_size=8, lr=0.01, precision="fp32"),
        out_dir=out,
        progress="off",
    )
    explanation = explain_checkpoint(data, out, "test", 3)
    assert explanation.behaviours == ()
    assert len(explanation.neurons) == 6
    trained = load_model(out / "model.safetensors")
    batch = data.test.batch(np.array([3]))
    with torch.no_grad():
        gates, weights = trained.interaction.selection(trained.fields(batch), batch.dense)
    names = [feature.name for feature in data.schema.categorical] + list(data.schema.dense)
    for neuron in explanation.neurons:
        assert sum(field.gate for field in neuron.fields) == pytest.approx(1.0)
        for field in neuron.fields:
            place = names.index(field.field)
            assert field.gate == float(gates[0, neuron.neuron, place]) > 0
            assert field.weight == float(weights[0, neuron.neuron, place])
        assert len(neuron.fields) == int((gates[0, neuron.neuron] > 0).sum())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_explanation(explanation))
    text = console.export_text()
    first = explanation.neurons[0].fields[0]
    assert "6 neurons" in text
    assert f"{first.field} {first.gate:.2f} ({first.weight:+.2f})" in text
    assert len(explanation.to_json()["neurons"]) == 6
