"""Charts of torch's transforms and of callables: every law, and what torch itself says of them."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, constraints
from torch.distributions import transforms as T

from induced import InducedSpace
from induced.bijections import Affine, from_callables, from_transform, real_nvp
from induced.checks import check_bijection, check_space, require
from induced.errors import DomainError, InducedError
from proofs_tests.registry import agree, shaken

DOUBLE = torch.float64


# -------------------------------------------------------------------------------------------------------- torch transforms
def simplex(n: int) -> Callable[[], Tensor]:
    return lambda: torch.distributions.Dirichlet(torch.full((n,), 3.0, dtype=DOUBLE)).sample((4,))


def uniform(low: float, high: float, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.empty(4, *shape, dtype=DOUBLE).uniform_(low, high)


TRANSFORMS: list[tuple[str, Callable[[], T.Transform], Callable[[], Tensor]]] = [
    ("affine", lambda: T.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, 0.5])), uniform(-1, 1, 2)),
    ("affine with numbers", lambda: T.AffineTransform(1.0, -3.0), uniform(-1, 1)),
    ("affine of vectors", lambda: T.AffineTransform(1.0, 3.0, event_dim=1), uniform(-1, 1, 3)),
    ("sigmoid inverse", lambda: T.SigmoidTransform().inv, uniform(0.2, 0.8, 3)),
    ("exp inverse", lambda: T.ExpTransform().inv, uniform(0.5, 2, 2, 2)),
    ("tanh inverse", lambda: T.TanhTransform().inv, uniform(-0.8, 0.8, 3)),
    ("softplus inverse", lambda: T.SoftplusTransform().inv, uniform(0.5, 2, 3)),
    ("normal quantile", lambda: T.CumulativeDistributionTransform(Normal(1.0, 2.0)).inv, uniform(0.2, 0.8, 2)),
    ("powers", lambda: T.ComposeTransform([T.PowerTransform(torch.tensor(2.0)), T.ExpTransform().inv]), uniform(0.5, 2, 2)),
    ("composition", lambda: T.ComposeTransform([T.AffineTransform(0.5, 0.25), T.SigmoidTransform().inv]), uniform(-1, 1, 3)),
    ("inverse of a composition", lambda: T.ComposeTransform([T.AffineTransform(0, 2), T.ExpTransform()]).inv, uniform(1, 3, 2)),
    ("one transform twice", lambda: T.CatTransform([T.AffineTransform(0.0, torch.tensor(2.0))] * 2, -1), uniform(-1, 1, 2)),
    ("nothing", lambda: T.identity_transform, uniform(-1, 1, 2)),
    ("independent", lambda: T.IndependentTransform(T.TanhTransform().inv, 1), uniform(-0.5, 0.5, 3)),
    ("reshape", lambda: T.ReshapeTransform(torch.Size((2, 3)), torch.Size((6,))), uniform(-1, 1, 2, 3)),
    ("concatenation", lambda: T.CatTransform([T.AffineTransform(0.0, 2.0), T.AffineTransform(1.0, 3.0)], -1, [1, 2]),
     uniform(-1, 1, 3)),
    ("concatenation of simplices", lambda: T.CatTransform([T.StickBreakingTransform().inv] * 2, -1, [3, 4]),
     lambda: torch.cat([simplex(3)(), simplex(4)()], -1)),
    ("inverse of a concatenation", lambda: T.CatTransform([T.StickBreakingTransform(), T.ExpTransform()], -1, [2, 1]).inv,
     lambda: torch.cat([simplex(3)(), torch.rand(4, 1, dtype=DOUBLE) + 0.5], -1)),
    ("concatenation of channels", lambda: T.CatTransform([T.SigmoidTransform().inv, T.ExpTransform().inv], -2, [1, 2]),
     uniform(0.2, 0.8, 3, 2)),
    ("concatenation along the last axis", lambda: T.CatTransform([T.TanhTransform().inv, T.identity_transform], -1, [1, 2]),
     uniform(-0.8, 0.8, 2, 3)),
    ("stack", lambda: T.StackTransform([T.ExpTransform().inv, T.AffineTransform(0.0, 2.0)], -1), uniform(0.5, 1, 2)),
    ("stack of simplices", lambda: T.StackTransform([T.StickBreakingTransform().inv] * 2, -2),
     lambda: torch.stack([simplex(3)(), simplex(3)()], -2)),
    ("stack of a simplex and a vector", lambda: T.StackTransform([T.StickBreakingTransform().inv, T.ExpTransform().inv], -2),
     lambda: torch.stack([simplex(3)(), torch.rand(4, 3, dtype=DOUBLE) + 0.5], -2)),
]  # fmt: skip
every_transform = pytest.mark.parametrize(
    ("build", "draw"), [case[1:] for case in TRANSFORMS], ids=[case[0] for case in TRANSFORMS]
)


@every_transform
def test_the_laws_hold_on_a_transform(build: Callable[[], T.Transform], draw: Callable[[], Tensor]) -> None:
    transform, x = build(), draw()
    g = from_transform(transform, x.shape[1:]).to(DOUBLE)
    if math.prod(g.shape) == math.prod(g.coord_shape):  # torch does not join what changes in length
        agree(g(x), transform(x), 10)
    agree(g.inverse(g(x)), x, 100)
    require(check_bijection(g, x), check_space(InducedSpace(g), g.inverse(0.2 * torch.randn_like(g(x)))))
    agree(g.inv.log_abs_det(g(x)), -g.log_abs_det(x), 100)
    for batch in ((), (0,), (2, 2)):
        part = x[:0] if batch == (0,) else x[0] if batch == () else x.reshape(2, 2, *g.shape)
        assert g(part).shape == (*batch, *g.coord_shape) and g.log_abs_det(part).shape == batch
    agree(copy.deepcopy(g)(x), g(x))


def test_transforms_of_blocks_are_those_of_each_block() -> None:
    stick, x, y = T.StickBreakingTransform().inv, simplex(3)(), simplex(4)()
    g = from_transform(T.CatTransform([stick, stick], -1, [3, 4]), (7,))
    agree(g(torch.cat([x, y], -1)), torch.cat([stick(x), stick(y)], -1))
    one, other = (from_transform(stick, (n,)) for n in (3, 4))
    agree(g.log_abs_det(torch.cat([x, y], -1)), one.log_abs_det(x) + other.log_abs_det(y), 10)
    h = from_transform(T.StackTransform([stick, stick], -2), (2, 3))
    agree(h(torch.stack([x, x.flip(0)], -2)), torch.stack([stick(x), stick(x.flip(0))], -2))
    assert h.coord_shape == (2, 2)


def test_the_edge_of_a_domain_is_no_point_whatever_torch_says_of_it() -> None:
    normal = T.CumulativeDistributionTransform(Normal(0.0, 1.0))
    for transform, at in ((T.SigmoidTransform(), (0.0, 1.0)), (T.TanhTransform(), (-1.0, 1.0)), (normal, (0.0, 1.0))):
        g = from_transform(transform.inv)
        for edge in at:
            with pytest.raises(DomainError):
                g(torch.tensor(edge))
            assert math.isfinite(float(g(torch.tensor(edge + (0.5 - edge) * 1e-3))))
        for z in (40.0, torch.inf):
            with pytest.raises(DomainError):
                g.inverse(torch.tensor(z))
    with pytest.raises(DomainError, match="interior"):
        from_transform(T.CorrCholeskyTransform().inv, (2, 2))(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(DomainError, match="does not clip"):
        from_transform(T.CorrCholeskyTransform().inv, (2, 2)).inverse(torch.tensor([20.0]))


def test_torch_clips_a_sigmoid_where_the_chart_does_not() -> None:
    x = 1 - 2.0**-24
    g = from_transform(T.SigmoidTransform().inv)
    assert float(g(torch.tensor(x))) == pytest.approx(math.log(x / 2.0**-24), rel=1e-6)
    assert abs(float(T.SigmoidTransform().inv(torch.tensor(x))) - math.log(x / 2.0**-24)) > 0.6


@pytest.mark.parametrize("n", [2, 5])
def test_stick_breaking_is_a_chart_of_the_simplex(n: int) -> None:
    g, x = from_transform(T.StickBreakingTransform().inv, (n,)), simplex(n)()
    assert (g.shape, g.coord_shape) == ((n,), (n - 1,))
    agree(g.inverse(g(x)), x, 100)
    z = torch.randn(4, n - 1, dtype=DOUBLE)
    agree(g(g.inverse(z)), z, 1e3)
    require(check_space(InducedSpace(g), x))
    require(check_bijection(g, x))
    # torch's base measure is that of the first n - 1 parts, on which the simplex projects with 1/sqrt(n) of its volume
    transform = T.StickBreakingTransform()
    expected = -transform.log_abs_det_jacobian(z, transform(z)) - math.log(n) / 2
    agree(g.log_abs_det(g.inverse(z)), expected, 1e3)


def test_correlation_matrices_have_a_chart() -> None:
    g = from_transform(T.CorrCholeskyTransform().inv, (3, 3))
    z = torch.randn(4, 3, dtype=DOUBLE) / 2
    agree(g(g.inverse(z)), z, 1e3)
    require(check_space(InducedSpace(g), g.inverse(z)), check_bijection(g, g.inverse(z)))


def test_tensors_of_a_transform_train_move_and_are_saved() -> None:
    parameter, leaf, fixed = nn.Parameter(torch.tensor([1.0, 2.0])), torch.zeros(2, requires_grad=True), torch.tensor([2.0, 3.0])
    transform = T.ComposeTransform([T.AffineTransform(parameter, fixed), T.AffineTransform(leaf, 1.0).inv])
    g = from_transform(transform, (2,))
    assert len(list(g.parameters())) == 2 and len(g.state_dict()) == 3
    x = torch.randn(3, 2)
    agree(g(x).detach(), 1 + torch.tensor([0.0, 1.0]) + x * fixed)
    optimizer = torch.optim.SGD(g.parameters(), 0.1)
    g(x).sum().backward()
    optimizer.step()
    agree(parameter.detach(), torch.tensor([0.7, 1.7]))
    agree(leaf.detach(), torch.tensor([0.3, 0.3]))  # one storage with the parameter that took its place
    agree(g(x).detach(), torch.tensor([0.4, 1.4]) + x * fixed, 10)
    twin = from_transform(T.ComposeTransform([T.AffineTransform(nn.Parameter(torch.zeros(2)), torch.ones(2)),
                                              T.AffineTransform(nn.Parameter(torch.zeros(2)), 1.0).inv]), (2,))  # fmt: skip
    twin.load_state_dict(g.state_dict(), assign=True)
    agree(twin(x).detach(), g(x).detach())
    z = torch.func.functional_call(g, {name: torch.zeros(2) for name, _ in g.named_parameters()}, (x,))
    agree(z, x * fixed)
    agree(g(x).detach(), torch.tensor([0.4, 1.4]) + x * fixed, 10)
    g.double()
    assert g(x.double()).dtype == DOUBLE and next(g.parameters()).dtype == DOUBLE


def test_a_transform_used_twice_has_one_set_of_parameters() -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    once = T.AffineTransform(0.0, leaf)
    g = from_transform(T.ComposeTransform([once, T.AffineTransform(1.0, 2.0), once.inv]), (2,))
    assert len(list(g.parameters())) == 1
    x = torch.randn(3, 2)
    agree(g(x).detach(), 2 * x + 1 / leaf.detach(), 10)
    require(check_bijection(g, x))


def test_networks_and_distributions_inside_a_transform_train() -> None:
    class Shifted(T.Transform):
        """x + network(0)."""

        domain = codomain = constraints.real_vector
        bijective = True

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def _call(self, x: Tensor) -> Tensor:
            return x + self.network(torch.zeros_like(x))

        def _inverse(self, y: Tensor) -> Tensor:
            return y - self.network(torch.zeros_like(y))

        def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
            return x.new_zeros(x.shape[:-1])

    class AsModule(Shifted, nn.Module):
        """The same transform, a module itself."""

        def __init__(self, network: nn.Module) -> None:
            nn.Module.__init__(self)
            T.Transform.__init__(self)
            self.network = network

        def __hash__(self) -> int:
            return id(self)

    for kind in (Shifted, AsModule):
        g = from_transform(kind(nn.Linear(2, 2)), (2,))
        assert len(list(g.parameters())) == 2
        require(check_bijection(g, torch.randn(3, 2)))
    loc = nn.Parameter(torch.tensor(0.5))
    h = from_transform(T.CumulativeDistributionTransform(Normal(loc, 2.0)).inv, (2,))
    assert any(p is loc for p in h.parameters())
    h(torch.rand(3, 2)).sum().backward()
    assert loc.grad is not None and float(loc.grad) == 6.0


# ---------------------------------------------------------------------------------------------------------------- callables
def test_callables_make_a_chart_whose_modules_train() -> None:
    inner = shaken(real_nvp(4, 2, 8)).double()
    g = from_callables(inner, inner.inverse, (4,), log_abs_det=inner.log_abs_det)
    x = torch.randn(5, 4, dtype=DOUBLE)
    require(check_bijection(g, x), check_space(InducedSpace(g), x))
    assert {id(p) for p in g.parameters()} == {id(p) for p in inner.parameters()}
    assert len(g.state_dict()) == len(inner.state_dict())
    for batch in ((), (0,), (3, 2)):
        assert g.log_abs_det(torch.randn(*batch, 4, dtype=DOUBLE)).shape == batch


def test_callables_may_change_the_shape_and_have_no_determinant() -> None:
    g = from_callables(lambda x: x.flatten(1), lambda z: z.reshape(-1, 2, 3), (2, 3), (6,))
    require(check_bijection(g, torch.randn(4, 2, 3)))
    assert g(torch.randn(2, 3)).shape == (6,) and g.inverse(torch.randn(3, 2, 6)).shape == (3, 2, 2, 3)
    require(check_bijection(g.inv, torch.randn(4, 6)), check_bijection(g @ Affine((2, 3), 2.0), torch.randn(4, 2, 3)))
    with pytest.raises(InducedError, match=r"has no log\|det J\|"):
        g.log_abs_det(torch.randn(2, 3))


def test_callables_that_do_not_undo_each_other_are_rejected() -> None:
    g = from_callables(torch.exp, torch.log1p, (2,), log_abs_det=lambda x: 0 * x)
    laws = {report.law: report.ok for report in check_bijection(g, torch.rand(3, 2))}
    assert not laws["g^-1(g(x)) = x"] and not laws["log|det J|"]
