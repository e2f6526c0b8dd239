"""Row gradients obey the loop around them, as gradients of an ordinary parameter would."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectab.ops import RowStore, segment_sum, spread_bags
from rectab.ops.step import Step
from rectab.optim import RowAdam, RowRule, RowSGD, follow

ROWS, DIM = 12, 4


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Model(nn.Module):
    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.store = RowStore(ROWS, DIM, generator=drawn(0), init_std=1.0, gradient=gradient)
        self.out = nn.Linear(DIM, 1)
        nn.init.ones_(self.out.weight)
        nn.init.ones_(self.out.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(torch.tanh(self.store(rows))).square().mean()


Loop = Callable[[Model, torch.optim.Optimizer], None]
READ = [torch.tensor([[1, 2, 2], [3, 1, 7]]), torch.tensor([[2, 9, 9], [0, 1, 3]])]


def after(gradient: str, loop: Loop) -> Tensor:
    """The rows after a loop over the host's optimizer, which rows follow."""
    model = Model(gradient)
    if gradient == "dense":
        host = torch.optim.SGD(model.parameters(), lr=0.5)
    else:
        host = torch.optim.SGD(model.out.parameters(), lr=0.5)
        follow(host, RowSGD([("store", model.store)], lr=0.5))
    loop(model, host)
    return model.store.weight.detach()


def accumulate(model: Model, host: torch.optim.Optimizer) -> None:
    for _ in range(3):
        for rows in READ:
            model(rows).backward()
        host.step()
        host.zero_grad()


def skip_a_batch(model: Model, host: torch.optim.Optimizer) -> None:
    for number, clear in enumerate((host.zero_grad, model.zero_grad, lambda: host.zero_grad(set_to_none=False)) * 2):
        (model(READ[number % 2]) * float("nan" if number < 3 else "1")).backward()
        if number >= 3:
            host.step()
        clear()


def clip(model: Model, host: torch.optim.Optimizer) -> None:
    for rows in READ:
        host.zero_grad()
        (model(rows) * 100).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        host.step()


def clip_between(model: Model, host: torch.optim.Optimizer) -> None:
    (model(READ[0]) * 100).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    model(READ[1]).backward()
    host.step()


def scale_the_loss(model: Model, host: torch.optim.Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for number in range(4):
        host.zero_grad()
        scaler.scale(model(READ[number % 2]) * (float("inf") if number == 1 else 1.0)).backward()
        scaler.step(host)
        scaler.update()


def schedule(model: Model, host: torch.optim.Optimizer) -> None:
    scheduler = torch.optim.lr_scheduler.LambdaLR(host, lambda step: (0.0, 1.0, 0.3)[step])
    for number in range(3):
        host.zero_grad()
        model(READ[number % 2]).backward()
        host.step()
        if number < 2:
            scheduler.step()


def evaluate_between(model: Model, host: torch.optim.Optimizer) -> None:
    loss = model(READ[0])
    with torch.no_grad():
        model(READ[1])
    loss.backward()
    torch.autograd.grad(model(READ[1]), [p for p in model.parameters() if p.requires_grad])
    host.step()


def retain(model: Model, host: torch.optim.Optimizer) -> None:
    loss = model(READ[0])
    loss.backward(retain_graph=True)
    loss.backward()
    host.step()


def checkpointed(reentrant: bool) -> Loop:
    def loop(model: Model, host: torch.optim.Optimizer) -> None:
        one = torch.ones((), requires_grad=True)
        for rows in READ:
            host.zero_grad()
            loss = checkpoint(lambda x, r: model(r) * x, one, rows, use_reentrant=reentrant) + model(rows[:1])
            loss.backward()
            host.step()

    return loop


def load_the_host(model: Model, host: torch.optim.Optimizer) -> None:
    host.load_state_dict(host.state_dict())
    scale_the_loss(model, host)


@pytest.mark.parametrize(
    "loop",
    [
        accumulate,
        skip_a_batch,
        clip,
        clip_between,
        scale_the_loss,
        schedule,
        evaluate_between,
        retain,
        pytest.param(checkpointed(False), id="checkpoint"),
        pytest.param(checkpointed(True), id="reentrant-checkpoint"),
        load_the_host,
    ],
)
def test_rows_do_what_a_dense_parameter_does(loop: Loop) -> None:
    torch.testing.assert_close(after("row", loop), after("dense", loop), rtol=1e-4, atol=1e-6)


def test_a_fused_optimizer_unscales_and_skips() -> None:
    moved = {}
    for gradient in ("dense", "row"):
        model = Model(gradient)
        parameters = model.parameters() if gradient == "dense" else model.out.parameters()
        host = torch.optim.SGD(parameters, lr=0.5, fused=True)
        if gradient == "row":
            follow(host, RowSGD([("store", model.store)], lr=0.5))
        scale_the_loss(model, host)
        moved[gradient] = model.store.weight.detach()
    torch.testing.assert_close(moved["row"], moved["dense"], rtol=1e-4, atol=1e-6)


def test_the_model_and_its_file_do_not_hold_the_handle() -> None:
    model = Model("row")
    assert set(model.state_dict()) == {"store.weight", "out.weight", "out.bias"}
    model.load_state_dict(Model("dense").state_dict())


def test_a_store_that_nobody_steps_warns_at_once() -> None:
    model = Model("row")
    with pytest.warns(UserWarning, match="no row optimizer takes them"):
        model(READ[0]).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(READ[0]).backward()  # once is enough
    model = Model("row")
    optimizer = RowSGD([("store", model.store)])
    with warnings.catch_warnings(record=True) as told:
        for _ in range(12):
            model.zero_grad()
            model(READ[0]).backward()
    assert ["backward passes without a step" in str(warning.message) for warning in told] == [True]
    assert optimizer.clock.now == 0


def test_a_store_has_one_optimizer() -> None:
    model = Model("row")
    first, second = (RowSGD([("store", model.store)]) for _ in range(2))
    with pytest.raises(RuntimeError, match="another row optimizer"):
        first.step()
    second.step()


def test_changes_that_rows_cannot_follow_are_named() -> None:
    model = Model("row")
    optimizer = RowSGD([("store", model.store)])
    model(READ[0]).backward()
    nn.utils.clip_grad_value_(model.parameters(), 1e-3)
    with pytest.warns(UserWarning, match="clip_grad_value_"):
        optimizer.step()


@pytest.mark.parametrize("weighted", [False, True])
def test_bags_have_second_derivatives(weighted: bool) -> None:
    values = torch.randn(6, 2, dtype=torch.float64, generator=drawn(0), requires_grad=True)
    weights = torch.rand(6, dtype=torch.float64, generator=drawn(1), requires_grad=True) if weighted else None
    bags = torch.randn(3, 2, dtype=torch.float64, generator=drawn(2), requires_grad=True)
    offsets = torch.tensor([0, 2, 2, 6])
    inputs = (values,) if weights is None else (values, weights)
    assert torch.autograd.gradgradcheck(lambda *x: segment_sum(x[0] ** 2, offsets, *x[1:]), inputs)
    assert torch.autograd.gradgradcheck(lambda x: spread_bags(x**2, offsets), (bags,))


# Decay, rules and rows that change places.


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_rows_looked_up_before_the_last_step_are_replayed_before_their_update(kernel: str) -> None:
    store = RowStore(ROWS, DIM, init_std=1.0, generator=drawn(3))
    expected = store.weight.detach()[4].clone()
    optimizer = RowSGD([("t", store)], 0.1, weight_decay=0.5, kernel=kernel)
    early = store(torch.tensor([4]))
    optimizer.step()  # the penalty alone
    expected -= 0.1 * 0.5 * expected
    early.sum().backward()
    optimizer.step()
    expected -= 0.1 * (1.0 + 0.5 * expected)
    torch.testing.assert_close(store.weight.detach()[4], expected)


class Halved(RowRule):
    """SGD at half the rate: one function, no kernel."""

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        return values - 0.5 * step.lr * gradients


def test_a_rule_is_one_function_and_holds_for_its_store_alone() -> None:
    stores = [RowStore(ROWS, DIM, generator=drawn(1)) for _ in range(2)]
    before = stores[0].weight.detach().clone()
    optimizer = RowSGD([("a", stores[0]), ("b", stores[1])], 1.0, rules={"b": Halved()})
    for store in stores:
        store(torch.tensor([1, 1])).sum().backward()
    optimizer.step()
    assert torch.allclose(before[1] - stores[0].weight[1], torch.full((DIM,), 2.0))
    assert torch.allclose(before[1] - stores[1].weight[1], torch.full((DIM,), 1.0))
    with pytest.raises(ValueError, match="cannot replay"):
        RowSGD([("a", stores[0])], weight_decay=0.1, rules={"a": Halved()})
    with pytest.raises(ValueError, match="row stores are"):
        RowSGD([("a", stores[0])], rules={"c": Halved()})


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_moved_row_goes_on_as_it_would_have_done(decay: float) -> None:
    store = RowStore(ROWS, DIM, generator=drawn(1))
    optimizer = RowAdam([("t", store)], 0.1, weight_decay=decay)
    target = torch.randn(DIM, generator=drawn(2))

    def train(*rows: int) -> None:
        for number in range(6):
            (store(torch.tensor(rows)) - target * number).square().sum().backward()
            optimizer.step()

    train(3)
    optimizer.move(store, torch.tensor([3]), torch.tensor([8]))
    train(3, 8)
    assert torch.equal(store.weight[3], store.weight[8])
    optimizer.reset(store, torch.tensor([8]), torch.zeros(1, DIM))
    assert all(not t[8].any() for name, t in optimizer.state_tensors() if name != "t.seen")
    assert not store.weight[8].any()
    store(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="pending"):
        optimizer.reset(store, torch.tensor([1]))
