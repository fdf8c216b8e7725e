"""Couplings: speed-ups that change no value, numerical stress, gradients by recomputation."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from induced import InducedSpace
from induced.bijections import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Bijection,
    Composition,
    ConditionalBijection,
    Flatten,
    Identity,
    Reversible,
    glow,
    real_nvp,
    rounding,
)
from induced.bijections.networks import MLP
from induced.bijections.networks.mlp import START
from proofs_tests.laws.conditioners import Fixed
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, agree, initialized, shaken

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)


# -------------------------------------------------------------------------------------------------------- runs of couplings
def one_by_one(g: Composition, x: Tensor) -> tuple[Tensor, Tensor]:
    """The composition by its definition, and the sum of the log-determinants."""
    total = torch.zeros(x.shape[: x.dim() - len(g.shape)], dtype=x.dtype)
    for part in g.parts:
        assert isinstance(part, Bijection)
        x, log_det = part.forward_and_log_abs_det(x)
        total = total + log_det
    return x, total


MIXED: dict[str, Callable[[], Composition]] = {
    "couplings": lambda: shaken(real_nvp(5, 4, 8)),
    "dimension 1": lambda: shaken(real_nvp(1, 3, 8)),
    "couplings between other charts": lambda: Composition(
        Affine((4,), 2.0),
        *shaken(real_nvp(4, 3, 8)).parts,
        initialized(ActNorm((4,))),
        *shaken(real_nvp(4, 2, 8)).parts,
        shaken(real_nvp(4, 2, 8)).inv,
    ),
    "vectors that become images": lambda: Composition(
        shaken(real_nvp(8, 2, 8)), Flatten((2, 2, 2)).inv, shaken(initialized(glow((2, 2, 2), 1, 4)), 0.05)
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_run_of_couplings_is_each_in_its_turn(name: str) -> None:
    g = MIXED[name]().double()
    for batch in ((), (0,), (3,), (2, 3)):
        x = torch.randn(*batch, *g.shape, dtype=torch.float64)
        z, log_det = g.forward_and_log_abs_det(x)
        expected, total = one_by_one(g, x)
        assert torch.equal(z, expected) and torch.equal(g(x), expected)
        agree(log_det, total)
        back = z
        for part in reversed(g.parts):
            assert isinstance(part, Bijection)
            back = part.inverse(back)
        assert torch.equal(g.inverse(z), back)


def test_couplings_of_other_shapes_are_no_run() -> None:
    # as images (2, 2, 2) and as vectors (8,): the halves coincide in number, not in axis
    image, vector = AdditiveCoupling((2, 2, 2), nn.Conv2d(1, 1, 1)), AdditiveCoupling((8,), nn.Linear(4, 4))
    g = Composition(image, Flatten((2, 2, 2)), vector)
    x = torch.randn(3, 2, 2, 2)
    assert torch.equal(g(x), vector(image(x).flatten(1)))


@every_dtype
@given(raw=st.floats(-1e3, 1e3), b=st.floats(-10, 10, allow_subnormal=False), m=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_log_scale_is_clamped_by_a_tangent(dtype: torch.dtype, raw: float, b: float, m: float) -> None:
    g = AffineCoupling((1,), Fixed(torch.tensor([0.5, raw], dtype=torch.float64)), max_log_scale=m).to(dtype)
    x = torch.tensor([b], dtype=dtype)
    z, log_det = g.forward_and_log_abs_det(x)
    rounded = float(torch.tensor(raw, dtype=dtype))
    log_scale = m * math.tanh(rounded / m)
    eps = float(torch.finfo(dtype).eps)
    assert abs(log_det.item() - log_scale) <= 8 * eps * m
    expected = math.exp(log_scale) * x.item() + 0.5
    assert abs(z.item() - expected) <= 16 * eps * (1 + m) * (abs(expected) + 1)


def test_a_conditioner_that_returns_0_gives_the_identity() -> None:
    x = torch.randn(5, 1)
    for g in (AffineCoupling((1,), Fixed(torch.zeros(2))), AdditiveCoupling((1,), Fixed(torch.zeros(1)))):
        assert torch.equal(g(x), x) and torch.equal(g.inverse(x), x)


# ------------------------------------------------------------------------------------------------------- numerical stress
def stressed(scale: float, max_log_scale: float = 1.0, start: float = 1.0) -> Composition:
    """The chart of the benchmark with all parameters scaled; `start` = START undoes the small last layer."""
    g = real_nvp(64, 8, 128, max_log_scale=max_log_scale)
    with torch.no_grad():
        for part in g.parts:
            part.conditioner.last.weight /= start  # type: ignore[union-attr, operator]
        for p in g.parameters():
            p.mul_(scale)
    return g


@pytest.mark.parametrize(("scale", "allowed"), [(1.0, 1e-5), (2.0, 1e-4), (3.0, 1e-3)])
def test_scaled_weights_leave_the_chart_invertible_in_float32(scale: float, allowed: float) -> None:
    g, x = stressed(scale), torch.randn(64, 64)
    with torch.no_grad():
        assert (g.inverse(g(x)) - x).abs().max() <= allowed


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_the_amplification_warns_of_what_scaled_weights_cost(scale: float) -> None:
    for max_log_scale in (0.5, 1.0):
        g, x = stressed(scale, max_log_scale, START), torch.randn(32, 64)
        with torch.no_grad():
            error = float((g.inverse(g(x)) - x).norm(dim=-1).max())
        assert math.isfinite(error)
        assert error <= 100 * torch.finfo(torch.float32).eps * rounding(g, x)


def test_a_lower_bound_of_the_log_scale_is_better_conditioned() -> None:
    x = torch.randn(64, 64)
    torch.manual_seed(1)
    loose = rounding(stressed(2.0, 1.0, START), x)
    torch.manual_seed(1)
    assert 5 * rounding(stressed(2.0, 0.5, START), x) < loose


def test_a_conditional_chart_takes_the_bound_too() -> None:
    parent = real_nvp(3, 2, 8, context=1, max_log_scale=0.25)
    with torch.no_grad():
        for p in parent.parameters():
            p.fill_(5.0)
    assert isinstance(parent, ConditionalBijection)
    log_det = parent.at(1.0).log_abs_det(torch.ones(3))
    assert log_det.item() == pytest.approx(3 * 0.25)  # 2 + 1 coordinates change, each at the bound


# ------------------------------------------------------------------------------------------- back-propagation by recomputation
LOSSES: dict[str, Callable[[Bijection, Tensor], Tensor]] = {
    "density": lambda g, x: g(x).pow(3).sum() - (g.log_abs_det(x) * torch.arange(len(x))).sum(),
    "points": lambda g, x: g.inverse(2 * g(x)).pow(3).sum(),
    "density of the inverse": lambda g, x: g.inv.log_abs_det(2 * g(x)).sum(),
}


def gradients(loss: Callable[[Bijection, Tensor], Tensor], g: Bijection, x: Tensor) -> Tensor:
    """Those for x and all parameters, as one vector."""
    x = x.detach().clone().requires_grad_()
    tensors, value = [x, *g.parameters()], loss(g, x)
    found = torch.autograd.grad(value, tensors, allow_unused=True) if value.requires_grad else [None] * len(tensors)
    return torch.cat([(torch.zeros_like(t) if grad is None else grad).flatten() for t, grad in zip(tensors, found, strict=True)])


@every_chart
def test_gradients_by_recomputation_are_those_of_autograd(case: ChartCase) -> None:
    g = case.make()
    x = case.points(g, (4,))
    # points that differ by the rounding of the chart have gradients that do
    condition = rounding(g, x) + rounding(g.inv, g(x).detach())
    for loss in LOSSES.values():
        agree(gradients(loss, Reversible(g), x), gradients(loss, g, x), condition)


@pytest.mark.parametrize("depth", [4, 16, 64])
@every_dtype
def test_gradients_of_a_deep_chart_agree(dtype: torch.dtype, depth: int) -> None:
    g = shaken(real_nvp(8, depth, 16), 0.05).to(dtype)
    x = torch.randn(4, 8, dtype=dtype)
    agree(gradients(LOSSES["density"], Reversible(g), x), gradients(LOSSES["density"], g, x), rounding(g, x))


class WrongInverse(Bijection):
    """x + sin(x) / 2 with an inverse that is off by a thousandth."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(x) / 2

    def inverse(self, z: Tensor) -> Tensor:
        x = z
        for _ in range(60):
            x = z - torch.sin(x) / 2
        return x * 1.001


def test_a_chart_with_a_wrong_inverse_has_wrong_gradients() -> None:
    g, x = WrongInverse((3,)), torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(gradients(LOSSES["points"], Reversible(g), x), gradients(LOSSES["points"], g, x), 100)


class Held:
    """A saved tensor, counted in `total` while autograd holds it."""

    total = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.size = 0 if tensor.is_leaf and tensor.requires_grad else tensor.numel() * tensor.element_size()
        Held.total += self.size
        Held.peak = max(Held.peak, Held.total)

    def __del__(self) -> None:
        Held.total -= self.size


def peak_memory(g: Bijection, x: Tensor, loss: str) -> int:
    Held.total = Held.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        LOSSES[loss](g, x).backward()
    return Held.peak


@pytest.mark.parametrize("loss", ["points", "density"])
def test_memory_of_activations_does_not_grow_with_depth(loss: str) -> None:
    x = torch.randn(64, 8)
    kept = [peak_memory(real_nvp(8, depth, 32), x, loss) for depth in (4, 16, 64)]
    recomputed = [peak_memory(Reversible(real_nvp(8, depth, 32)), x, loss) for depth in (4, 16, 64)]
    assert kept[2] > 3 * kept[1] > 9 * kept[0]
    assert recomputed[0] == recomputed[1] == recomputed[2] < kept[0]


def test_a_shared_layer_gets_the_sum_of_its_gradients() -> None:
    shared, between = shaken(real_nvp(4, 2, 8)), shaken(real_nvp(4, 1, 8))
    g = Composition(shared, between, shared, shared.inv, between).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    for loss in LOSSES.values():
        agree(gradients(loss, Reversible(g), x), gradients(loss, g, x), rounding(g, x))


def test_parameters_train_where_points_need_no_gradient() -> None:
    g, x = shaken(real_nvp(4, 2, 8)), torch.randn(5, 4)
    with torch.no_grad():
        assert not Reversible(g)(x).requires_grad
    expected = torch.autograd.grad(g(x).square().sum(), list(g.parameters()))
    Reversible(g)(x).square().sum().backward()
    for p, grad in zip(g.parameters(), expected, strict=True):
        assert p.grad is not None
        agree(p.grad, grad, 10)
    frozen = g.requires_grad_(False)
    assert not Reversible(frozen)(x).requires_grad and Reversible(frozen)(x.requires_grad_()).requires_grad


def test_a_parameter_that_is_not_used_gets_no_gradient() -> None:
    net = shaken(MLP(1, 2, 4))
    net.register_parameter("spare", nn.Parameter(torch.ones(1)))
    g = Reversible(AffineCoupling((2,), net))
    g(torch.randn(3, 2)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == ["spare"]


def test_tensors_that_come_from_elsewhere_get_their_gradient() -> None:
    # a scale that a network made, and the context of a conditional chart
    theta, x = torch.tensor([0.5, 2.0], requires_grad=True), torch.randn(3, 2)
    net = shaken(real_nvp(2, 2, 8, context=2))
    assert isinstance(net, ConditionalBijection)

    def loss(wrap: Callable[[Bijection], Bijection]) -> Tensor:
        g = wrap(net.at(theta.sin()) @ Affine((2,), theta.exp()))
        return g(x).pow(3).sum() + g.log_abs_det(x).sum()

    found, expected = (torch.autograd.grad(loss(wrap), theta)[0] for wrap in (Reversible, lambda g: g))
    agree(found, expected, 10)


def test_a_parameter_that_changed_before_the_backward_pass_is_an_error() -> None:
    g = shaken(real_nvp(4, 2, 8))
    loss = Reversible(g)(torch.randn(5, 4)).sum()
    with torch.no_grad():
        next(g.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_transforms_of_functions_and_compilers_see_the_chart_itself() -> None:
    g = shaken(real_nvp(3, 2, 8)).double()
    r, x = Reversible(g), torch.randn(4, 3, dtype=torch.float64)
    agree(torch.func.vmap(torch.func.jacrev(r))(x), torch.func.vmap(torch.func.jacfwd(g))(x), 10)
    state = dict(r.named_parameters())
    by_func = torch.func.grad(lambda p: torch.func.functional_call(r, p, x).square().sum())(state)
    by_autograd = torch.autograd.grad(r(x).square().sum(), list(state.values()))
    for grad, expected in zip(by_func.values(), by_autograd, strict=True):
        agree(grad, expected, 10)
    for direction in (r.forward, r.inverse):
        agree(torch.compile(direction, fullgraph=True, backend="eager")(x), direction(x), 10)


def test_recomputation_repeats_the_autocast_of_its_pass() -> None:
    g, x = shaken(real_nvp(8, 4, 16)), torch.randn(64, 8)
    found = []
    for chart in (g, Reversible(g)):
        with torch.autocast("cpu", torch.bfloat16):
            value = chart(x).square().sum()
        found.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(value, list(g.parameters()))]))
    full = torch.cat([grad.flatten() for grad in torch.autograd.grad(g(x).square().sum(), list(g.parameters()))])
    assert 5 * (found[0] - found[1]).norm() < (found[0] - full).norm()


def test_a_reversible_chart_is_the_chart_it_wraps() -> None:
    g = shaken(glow((2, 4, 4), 1, 4), 0.05)
    r = Reversible(g)
    r.initialize(torch.randn(8, 2, 4, 4))
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(r(x), g(x)) and torch.equal(r.inverse(x), g.inverse(x)) and torch.equal(r.log_abs_det(x), g.log_abs_det(x))
    assert InducedSpace(r) == InducedSpace(g) and r.layers() == g.layers() and rounding(r, x) == rounding(g, x)
    assert Reversible(Identity((2,))).moves_entries and not r.moves_entries
