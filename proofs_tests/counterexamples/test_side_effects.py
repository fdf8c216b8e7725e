"""A check leaves the object, what it is given and the random states as it found them, bit for bit."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, check
from induced.bijections import AdditiveCoupling, Bijection, real_nvp
from induced.checks import (
    check_adjoint,
    check_bijection,
    check_group,
    check_idempotent,
    check_linear,
    check_penrose,
    check_powers,
    check_space,
    check_svd,
    require,
)
from induced.checks.untouched import same_bits, untouched
from induced.operators import LU, LinearOperator


class Everything(Bijection):
    """A shift with all that a check could spoil: frozen parts, running statistics, draws, buffers that are replaced or added."""

    count: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__((3,))
        self.shift, self.frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
        self.norm, self.unused = nn.BatchNorm1d(3), nn.Dropout()
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("last", torch.full((1,), -0.0))
        self.register_buffer("none", None)
        self.eval().unused.train()

    def _spoil(self, x: Tensor) -> None:
        if self.norm.training:
            self.norm(x.detach().reshape(-1, 3).repeat(2, 1))
        torch.rand(1), np.random.rand(), random.random()
        self.count = self.count + 1
        self.last = x.detach().flatten()[:1]
        self.register_buffer("more", x.detach())
        if torch._C._functorch.is_functorch_wrapped_tensor(x):  # which allows none of what follows
            return
        self.shift.grad = None if self.shift.grad is None else self.shift.grad + 1
        self.frozen.grad = torch.ones(3)
        self.frozen.requires_grad_()
        self.extra = nn.Parameter(torch.ones(1))
        self.module = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self._spoil(x)
        return x + self.shift

    def inverse(self, z: Tensor) -> Tensor:
        self._spoil(z)
        return z - self.shift


class Core(LinearOperator):
    """A LU core that draws and counts."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__((3, 3))
        self.A = LU.of(torch.eye(3) / 2 + torch.ones(3, 3) / 20)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        self.calls = self.calls + torch.rand(1)
        return self.A(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        self.calls = self.calls + torch.rand(1)
        return self.A.apply_adjoint(w)


def state(*modules: nn.Module) -> list[object]:
    """All that a check must leave: names, identities and bits of tensors, modes, gradients, random states."""
    found: list[object] = [torch.get_rng_state().clone(), str(np.random.get_state()), random.getstate()]
    for module in modules:
        for name, part in module.named_modules():
            found += [name, id(part), part.training]
            for key, x in (*part._parameters.items(), *part._buffers.items()):
                found += [key, id(x)]
                if x is not None:
                    found += [x.detach().clone(), x.requires_grad, x._version, x.data_ptr()]
                if isinstance(x, nn.Parameter):
                    found += [id(x.grad), None if x.grad is None else x.grad.clone()]
    return found


def equal(one: list[object], other: list[object]) -> bool:
    def same(a: object, b: object) -> bool:
        return same_bits(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b

    return len(one) == len(other) and all(map(same, one, other))


def points(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


CHECKS: dict[str, Callable[[Linearizer], object]] = {
    "check": check,
    "check at points": lambda f: check(f, points()),
    "check of a copy": lambda f: check(f, dtype=torch.float64),
    "check of the space": lambda f: check(f.domain),
    "check of the core": lambda f: check(f.core),
    "check_bijection": lambda f: check_bijection(f.domain.chart, points()),  # type: ignore[arg-type]
    "check_space": lambda f: check_space(f.domain, points()),
    "check_linear": lambda f: check_linear(f, points()),
    "check_adjoint": lambda f: check_adjoint(f, points(), points(1)),
    "check_penrose": lambda f: check_penrose(f, points(), points(1)),
    "check_svd": lambda f: check_svd(f),
    "check_powers": lambda f: check_powers(f, points()),
    "check_group": lambda f: check_group(f, points()),
    "check_idempotent": lambda f: check_idempotent(f, points()),
}


@pytest.mark.parametrize("run", CHECKS.values(), ids=list(CHECKS))
def test_a_check_leaves_everything_as_it_was(run: Callable[[Linearizer], object]) -> None:
    g = Everything()
    g.shift.grad = torch.tensor([1.0, float("nan"), -0.0])
    f = Linearizer(Core(), InducedSpace(g))
    before = state(f)
    run(f)
    assert equal(before, state(f))


def test_the_object_of_these_tests_spoils_all_that_is_looked_at() -> None:
    g = Everything()
    before = state(g)
    g.train()
    g(points())
    after = state(g)
    changed = [not equal([a], [b]) for a, b in zip(before, after, strict=False)]
    assert len(before) < len(after) and changed[:3] == [True] * 3 and sum(changed) > 10


def test_a_check_leaves_its_samples_as_they_were() -> None:
    class Spoiling(Bijection):
        def forward(self, x: Tensor) -> Tensor:
            z = x + 1
            x.data.mul_(2)
            return z

        def inverse(self, z: Tensor) -> Tensor:
            x = z - 1
            z.data.mul_(2)
            return x

    g = Spoiling((3,))
    for run in (lambda x: check(g, x), lambda x: check_bijection(g, x), lambda x: check_space(InducedSpace(g), x)):
        x = points()
        reports = run(x)
        assert torch.equal(x, points())
        assert any(report.law == "g leaves its input as it is" and not report.ok for report in reports) or run is not check
    leaf = points().requires_grad_()
    check(real_nvp(3, 1, 4), leaf)
    assert leaf.grad is None and leaf.requires_grad and torch.equal(leaf, points())


def test_a_frozen_part_stays_in_eval_mode_and_its_statistics_stay() -> None:
    class Net(nn.Sequential):
        def forward(self, a: Tensor) -> Tensor:
            return super().forward(a.reshape(-1, 1)).reshape(*a.shape[:-1], 2)

    net = Net(nn.Linear(1, 2), nn.BatchNorm1d(2))
    g = AdditiveCoupling((3,), net).train()
    net.eval()
    before = state(g)
    check_bijection(g, points())
    assert equal(before, state(g)) and not net.training and g.training


def test_a_graph_made_before_a_check_is_good_for_a_backward_pass() -> None:
    class Statistics(Bijection):
        """Saves a buffer for the backward pass, and writes to it in train mode."""

        scale: Tensor

        def __init__(self) -> None:
            super().__init__((3,))
            self.register_buffer("scale", torch.full((3,), 2.0))

        def _scale(self) -> Tensor:
            if self.training:
                self.scale.mul_(1.0)
            return self.scale

        def forward(self, x: Tensor) -> Tensor:
            return x * self._scale()

        def inverse(self, z: Tensor) -> Tensor:
            return z / self._scale()

    g, x = Statistics().eval(), points().requires_grad_()
    loss = g(x).sum()
    check(g)
    loss.backward()
    assert torch.equal(x.grad, torch.full((4, 3), 2.0))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss = g(x).sum()
        g.train()(points())
        loss.backward()


def test_a_parameter_that_was_replaced_in_place_is_put_back() -> None:
    layer = nn.Linear(2, 2)
    before: list[Any] = [*state(layer)]
    with untouched(layer):
        layer.weight.data.mul_(2)
        layer.bias.data = torch.zeros(5)
    assert torch.equal(layer.weight, before[before.index("weight") + 2])
    assert torch.equal(layer.bias, before[before.index("bias") + 2])


def test_a_buffer_that_two_modules_share_stays_one() -> None:
    one: Any = nn.Module()
    other: Any = nn.Module()
    one.register_buffer("b", torch.ones(2))
    other.register_buffer("b", one.b)
    both = nn.ModuleList([one, other])
    with untouched(both):
        assert one.b is other.b
        one.b.add_(1)
        assert torch.equal(other.b, torch.full((2,), 2.0))
    assert one.b is other.b and torch.equal(one.b, torch.ones(2))


def test_two_equal_spaces_keep_their_own_modes() -> None:
    one, other = EuclideanSpace(2).train(), EuclideanSpace(2).eval()
    assert one == other
    with untouched(one, other):
        one.eval(), other.train()
    assert one.training and not other.training


def test_state_is_put_back_where_a_check_raises() -> None:
    g = Everything()
    before = state(g)
    with pytest.raises(ZeroDivisionError), untouched(g):
        g.train()(points())
        raise ZeroDivisionError
    assert equal(before, state(g))


def test_spaces_without_a_chart_are_left_alone_too() -> None:
    class Drawing(HilbertSpace):
        def __init__(self) -> None:
            super().__init__((3,), 3)
            self.statistics = nn.BatchNorm1d(3)

        def coords(self, x: Tensor) -> Tensor:
            torch.rand(1)
            if self.training:
                self.statistics(x.reshape(-1, 3).repeat(2, 1))
            return x

        def point(self, z: Tensor) -> Tensor:
            return z

    X = Drawing()
    before = state(X)
    assert check(X).ok
    assert equal(before, state(X))


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)], ids=["inference", "autocast"]
)
def test_a_right_chart_passes_whatever_mode_it_is_checked_in(mode: Callable[[], AbstractContextManager[object]]) -> None:
    g = real_nvp(4, 2, 8)
    with mode():
        x = torch.randn(4, 4)
        require(check(g, x), check_bijection(g, x))
