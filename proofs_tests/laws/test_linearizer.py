"""Linearizers: every statement of the paper on charts x one core and on cores x one chart; the oracle is matrix algebra."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator, Vector
from induced.bijections import Log
from induced.checks import check_adjoint, check_linear, check_penrose, check_svd, require
from induced.operators import Dense, Diagonal, LowRank
from proofs_tests.laws.maps import SMALL, endomorphism, flow
from proofs_tests.registry import CHARTS, CONDITION, CORES, DTYPES, SQUARE_CORES, ChartCase, CoreCase, agree

every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_core = pytest.mark.parametrize("core", CORES, ids=str)
every_square_core = pytest.mark.parametrize("core", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def over_chart(case: ChartCase, dtype: torch.dtype) -> tuple[Linearizer, Tensor, Tensor]:
    """A map from a chart's space to R^3 of rank at most 2, with samples of both."""
    g = case.make(dtype)
    X, Y = InducedSpace(g), EuclideanSpace(3)
    U, V = torch.randn(3, 2, dtype=dtype), torch.randn(X.dim, 2, dtype=dtype) / X.dim**0.5
    return Linearizer(LowRank(U, V), X, Y), case.points(g, (4,), dtype), torch.randn(4, 3, dtype=dtype) * SMALL


def over_core(core: CoreCase, dtype: torch.dtype = torch.float64) -> tuple[Linearizer, Tensor, Tensor]:
    """A map with this core between two spaces of networks, with samples of both."""
    A = core.make(core.matrix(dtype)).requires_grad_(False) / 3.0
    X, Y = flow(A.shape[1], dtype), flow(A.shape[0], dtype)
    with torch.no_grad():
        return Linearizer(A, X, Y), X.sample(4), Y.sample(4)


def same(f: LinearizerOperator, h: LinearizerOperator, x: Tensor, condition: float = CONDITION) -> None:
    """f(x) == h(x), compared in the coordinates of their codomain."""
    assert (f.domain, f.codomain) == (h.domain, h.codomain)
    with torch.no_grad():
        agree(f.codomain.coords(f(x)), h.codomain.coords(h(x)), condition)


# ------------------------------------------------------------------------------------------------------------ the checks pass
@pytest.mark.fast
@every_dtype
@every_chart
def test_the_laws_hold_over_every_chart(case: ChartCase, dtype: torch.dtype) -> None:
    f, x, y = over_chart(case, dtype)
    require(check_linear(f, x), check_adjoint(f, x, y), check_penrose(f, x, y), check_svd(f))


@pytest.mark.fast
@every_dtype
@pytest.mark.parametrize("core", CORES, ids=str)
def test_the_laws_hold_over_every_core(core: CoreCase, dtype: torch.dtype) -> None:
    f, x, y = over_core(core, dtype)
    require(check_linear(f, x), check_adjoint(f, x, y), check_penrose(f, x, y), check_svd(f))


@every_core
def test_a_linearizer_is_its_formula(core: CoreCase) -> None:
    M = core.matrix()
    X, Y = flow(M.shape[1]), flow(M.shape[0])
    f = Linearizer(core.make(M), X, Y)
    with torch.no_grad():
        for batch in ((), (0,), (3, 2)):
            x = torch.randn(*batch, M.shape[1]).double() * SMALL
            agree(f(x), Y.chart.inverse(X.chart(x) @ M.mT), CONDITION)


@given(
    st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=4, max_size=4),
    st.lists(st.floats(0.2, 5), min_size=2, max_size=2),
)
def test_on_positive_numbers_a_linearizer_is_a_monomial_map(entries: list[float], x: list[float]) -> None:
    f = Linearizer(torch.tensor(entries, dtype=torch.float64).reshape(2, 2), InducedSpace(Log((2,))))
    a, b, c, d = entries
    expected = [x[0] ** a * x[1] ** b, x[0] ** c * x[1] ** d]
    assert f(torch.tensor(x, dtype=torch.float64)).tolist() == pytest.approx(expected, rel=1e-14)


def test_a_linearizer_is_not_additive_for_the_ordinary_sum() -> None:
    f = Linearizer(torch.eye(2) * 2, InducedSpace(Log((2,))))
    x = torch.tensor([2.0, 3.0])
    assert not torch.allclose(f(x + x), f(x) + f(x))


# ------------------------------------------------------------------------------------------------------ composition and powers
@every_core
def test_composition_is_that_of_the_cores(core: CoreCase) -> None:
    f, x, _ = over_core(core)
    Z = flow(2)
    h = Linearizer(torch.randn(2, f.core.shape[0]).double() / 3, f.codomain, Z)
    composed = h @ f
    assert (composed.domain, composed.codomain) == (f.domain, Z)
    agree(composed.core.matrix(), h.core.matrix() @ f.core.matrix(), CONDITION)
    with torch.no_grad():
        agree(Z.coords(composed(x)), Z.coords(h(f(x))), CONDITION)


@every_square_core
def test_powers_are_repeated_application(core: CoreCase) -> None:
    f, x = endomorphism(core)
    with torch.no_grad():
        agree((f**0)(x), x, CONDITION)
        agree((f**1)(x), f(x), CONDITION)
        agree((f**3)(x), f(f(f(x))), CONDITION)


@pytest.mark.parametrize("core", [case for case in SQUARE_CORES if case.invertible], ids=str)
def test_inverses_and_negative_powers_undo(core: CoreCase) -> None:
    f, x = endomorphism(core)
    with torch.no_grad():
        agree(f.inv(f(x)), x, CONDITION**2)
        agree(f(f.inv(x)), x, CONDITION**2)
        agree((f**-1)(f(x)), x, CONDITION**2)
        agree((f**-2)(f(f(x))), x, CONDITION**3)
        agree((f.inv @ f)(x), x, CONDITION**2)
        agree((f.inv.H @ f.H)(x), x, CONDITION**2)
    assert f.inv.inv.core is f.core


def test_the_inverse_joins_two_spaces_backwards() -> None:
    X, Y = flow(2), flow(2)
    f = Linearizer(torch.tensor([[2.0, 1.0], [0.0, 1.0]]).double(), X, Y)
    x = torch.randn(3, 2).double()
    assert (f.inv.domain, f.inv.codomain) == (Y, X)
    agree(f.inv(f(x)).detach(), x, 100)


@every_square_core
def test_the_exponential_is_a_one_parameter_group(core: CoreCase) -> None:
    f, x = endomorphism(core)
    expected = torch.from_numpy(scipy.linalg.expm(0.7 * f.core.matrix().numpy()))
    agree(f.exp(0.7).core.matrix(), expected, CONDITION)
    with torch.no_grad():
        agree(f.exp(0.7)(f.exp(-0.2)(x)), f.exp(0.5)(x), CONDITION)
        agree(f.exp(0.0)(x), x, CONDITION)
        agree((f.exp(1.3) @ f.exp(-1.3))(x), x, CONDITION)


def test_the_exponential_flows_with_velocity_f() -> None:
    f, x = endomorphism(SQUARE_CORES[0])
    X = f.domain
    with torch.no_grad():
        h = 1e-4
        velocity = (X.coords(f.exp(h)(x)) - X.coords(f.exp(-h)(x))) / (2 * h)
        # central differences are off by h^2 / 6 ||A||^3 ||z||, here ||A|| <= 1
        assert float((velocity - X.coords(f(x))).norm()) <= h**2 / 6 * float(X.norm(x).norm()) + 1e-10


# ------------------------------------------------------------------------------------------------------------------- algebra
@every_core
def test_maps_between_two_spaces_are_a_vector_space(core: CoreCase) -> None:
    f, x, _ = over_core(core)
    X, Y = f.domain, f.codomain
    h = Linearizer(torch.randn(f.core.shape).double() / 3, X, Y)
    with torch.no_grad():
        agree((f + h)(x), Y.add(f(x), h(x)), CONDITION)
        agree((f - h)(x), Y.sub(f(x), h(x)), CONDITION)
        agree((-f)(x), Y.neg(f(x)), CONDITION)
        agree((0.5 * f)(x), Y.scale(0.5, f(x)), CONDITION)
        agree((f * -0.5)(x), Y.scale(-0.5, f(x)), CONDITION)
        agree((f / 2)(x), Y.scale(0.5, f(x)), CONDITION)
        agree((torch.tensor(0.5) * f)(x), Y.scale(0.5, f(x)), CONDITION)
    same((f + h).H, f.H + h.H, Y.sample(3).detach())
    assert ((f + h).domain, (f + h).codomain) == (X, Y)


@every_core
def test_the_adjoint_is_an_involution(core: CoreCase) -> None:
    f, x, y = over_core(core)
    assert f.H.H.core is f.core
    assert (f.H.domain, f.H.codomain) == (f.codomain, f.domain)
    with torch.no_grad():
        agree(f.codomain.inner(f(x), y), f.domain.inner(x, f.H(y)), CONDITION)


def test_the_adjoint_of_a_composition_reverses_it() -> None:
    X, Y, Z = flow(2), flow(3), flow(2)
    f, h = Linearizer(torch.randn(3, 2).double() / 3, X, Y), Linearizer(torch.randn(2, 3).double() / 3, Y, Z)
    same((h @ f).H, f.H @ h.H, Z.sample(3).detach())


# ---------------------------------------------------------------------------------------------------------------------- SVD
@every_core
def test_singular_values_are_those_of_the_core_and_vectors_are_points(core: CoreCase) -> None:
    f, _, _ = over_core(core)
    S = f.svd()
    k = min(f.core.shape)
    agree(S.values, torch.from_numpy(np.linalg.svd(f.core.matrix().numpy(), compute_uv=False)), CONDITION)
    with torch.no_grad():
        u, v = S.left(), S.right()
        assert u.shape == (k, *f.codomain.shape) and v.shape == (k, *f.domain.shape)
        agree(f.codomain.gram(u), torch.eye(k).double(), CONDITION)
        agree(f.domain.gram(v), torch.eye(k).double(), CONDITION)
        agree(f.codomain.coords(f(v)), S.values[:, None] * f.codomain.coords(u), CONDITION)
        agree(S.left(1), u[:1])
        agree(S.right(k), v)
        assert S.left(0).shape == (0, *f.codomain.shape)


@every_core
def test_all_triplets_reconstruct_and_fewer_are_the_best_approximation(core: CoreCase) -> None:
    f, x, _ = over_core(core)
    S, M = f.svd(), f.core.matrix()
    same(S.reconstruct(), f, x)
    values = np.append(np.linalg.svd(M.numpy(), compute_uv=False), 0.0)
    for k in range(min(M.shape) + 1):
        rest = M - S.truncate(k).core.matrix()
        # Eckart-Young: no map of rank k comes closer than s_{k+1} in norm and the tail in Frobenius norm
        agree(torch.linalg.matrix_norm(rest, 2), torch.tensor(values[k]), CONDITION)
        agree(rest.norm(), torch.tensor(np.sqrt((values[k:] ** 2).sum())), CONDITION)
        assert int(torch.linalg.matrix_rank(S.truncate(k).core.matrix(), rtol=1e-10)) <= k


def test_an_svd_of_a_rank_holds_that_many_triplets() -> None:
    f = Linearizer(Diagonal(torch.tensor([1.0, 3.0, 2.0])), EuclideanSpace(3))
    assert f.svd(2).values.tolist() == [3.0, 2.0]
    assert f.svd(0).left().shape == (0, 3)
    assert "2 triplets" in repr(f.svd(2))


# ------------------------------------------------------------------------------------------------------- pinv, least squares
@every_core
def test_the_pseudoinverse_gives_the_shortest_least_squares_solution(core: CoreCase) -> None:
    f, _, y = over_core(core)
    with torch.no_grad():
        z = f.domain.coords(f.pinv()(y))
        expected = np.linalg.lstsq(f.core.matrix().numpy(), f.codomain.coords(y).numpy().T, rcond=1e-9)[0].T
        agree(z, torch.from_numpy(expected.copy()), CONDITION**2)


def test_the_cut_off_of_the_pseudoinverse_is_relative() -> None:
    f = Linearizer(Diagonal(torch.tensor([10.0, 1.0, 0.0])), EuclideanSpace(3))
    assert f.pinv(0.2)(torch.ones(3)).tolist() == pytest.approx([0.1, 0.0, 0.0])
    assert f.pinv()(torch.ones(3)).tolist() == pytest.approx([0.1, 1.0, 0.0])


# ------------------------------------------------------------------------------------------------------------------- Vectors
def test_a_vector_goes_in_and_a_vector_comes_out() -> None:
    X, Y = flow(2), flow(3)
    f = Linearizer(torch.randn(3, 2).double() / 3, X, Y)
    x, y = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    with torch.no_grad():
        result = f(2 * X(x) - X(y))
        assert isinstance(result, Vector) and result.space == Y
        agree(result.point, f(X.combine((2.0, -1.0), (x, y))), 100)


# ----------------------------------------------------------------------------------------------------------------- gradients
def test_gradients_reach_the_chart_and_the_core() -> None:
    X, Y = flow(2), flow(3)
    f = Linearizer(Dense(nn.Parameter(torch.randn(3, 2).double())), X, Y)
    f(torch.randn(5, 2).double()).square().sum().backward()
    gradients = {name: p.grad for name, p in f.named_parameters()}
    assert set(gradients) >= {"core.A"} and len(gradients) > 10
    assert all(g is not None and g.isfinite().all() and (g != 0).any() for g in gradients.values())


@pytest.mark.parametrize("derived", ["H", "inv", "pinv", "exp", "square", "sum", "truncate", "composition"])
def test_gradients_pass_through_derived_maps(derived: str) -> None:
    X = flow(2)
    M = torch.tensor([[1.0, 0.4], [-0.2, 0.7]]).double()
    x = torch.randn(3, 2).double()
    derivations: dict[str, Callable[[LinearizerOperator], LinearizerOperator]] = {
        "H": lambda f: f.H,
        "inv": lambda f: f.inv,
        "pinv": lambda f: f.pinv(),
        "exp": lambda f: f.exp(0.5),
        "square": lambda f: f**2,
        "sum": lambda f: f + 2 * f.H,
        "truncate": lambda f: f.svd().truncate(1),
        "composition": lambda f: f.H @ f,
    }

    def value(A: Tensor) -> Tensor:
        return derivations[derived](Linearizer(A, X))(x)

    assert torch.autograd.gradcheck(value, M.clone().requires_grad_())


def test_a_jacobian_at_zero_is_similar_to_the_core() -> None:
    # J_f(0_g) = J_g^-1 A J_g, so that ordinary eigenvalues at the induced zero are those of the core
    X = flow(3)
    M = torch.randn(3, 3).double()
    J = torch.autograd.functional.jacobian(Linearizer(M, X), X.zero().detach())
    found, expected = (torch.from_numpy(np.sort_complex(np.linalg.eigvals(K.numpy()))) for K in (J, M))
    assert float((found - expected).abs().max()) < 1e-10
