"""What a Linearizer says of itself: kernel, range, spectrum, polar form, functions; the oracle is numpy on the core's matrix."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator, Subspace
from induced.bijections import Affine, Log, Sinh, real_nvp
from induced.checks import check_group, check_idempotent, check_linear, check_powers, require
from induced.operators import Diagonal, ScaledIdentityPlusLowRank
from proofs_tests.registry import CHARTS, CONDITION, CORES, DTYPES, SQUARE_CORES, ChartCase, CoreCase, agree, shaken

every_core = pytest.mark.parametrize("core", CORES, ids=str)
every_square_core = pytest.mark.parametrize("core", SQUARE_CORES, ids=str)
every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ROUND_TRIP = 1e3
"""Condition of going through the charts and back, beside that of the core."""


def flow(dim: int, dtype: torch.dtype = torch.float64) -> InducedSpace:
    """A space whose chart is a network."""
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).to(dtype).requires_grad_(False))


def between(core: CoreCase) -> tuple[Linearizer, Tensor]:
    """A map with this core between two spaces of networks, and its matrix."""
    M = core.matrix()
    return Linearizer(core.make(M).requires_grad_(False), flow(M.shape[1]), flow(M.shape[0])), M


def on_one_space(core: CoreCase) -> tuple[Linearizer, Tensor]:
    """An operator of one space with this core, and its matrix."""
    M = core.matrix()
    return Linearizer(core.make(M).requires_grad_(False), flow(len(M))), M


def samples(f: LinearizerOperator, k: int = 4) -> Tensor:
    return f.domain.sample(k, dtype=torch.float64) if f.domain.dtype is None else f.domain.sample(k)


# ------------------------------------------------------------------------------------------------------- kernel, range, solve
@every_core
def test_kernel_and_range_are_subspaces_of_the_right_dimensions(core: CoreCase) -> None:
    f, M = between(core)
    r = int(np.linalg.matrix_rank(M.numpy()))
    kernel, image = f.kernel(), f.image()
    assert (f.rank(), image.dim, kernel.dim) == (r, r, M.shape[1] - r)
    assert (kernel.space, image.space) == (f.domain, f.codomain)
    agree(f.codomain.coords(f(kernel.basis())), torch.zeros(kernel.dim, M.shape[0]).double(), ROUND_TRIP * CONDITION)
    assert bool(image.contains(f(samples(f))).all())
    agree(image.complement().projector().matrix(), f.H.kernel().projector().matrix(), ROUND_TRIP * CONDITION)


@every_core
def test_a_solution_is_nearest_and_shortest(core: CoreCase) -> None:
    f, M = between(core)
    y = f.codomain.sample(4)
    x = f.solve(y)
    agree(f.domain.coords(x), f.codomain.coords(y) @ torch.linalg.pinv(M).mT, ROUND_TRIP * CONDITION)
    agree(f.codomain.coords(f(x)), f.codomain.coords(f.image().project(y)), ROUND_TRIP * CONDITION)
    agree(f.domain.coords(f.kernel().project(x)), torch.zeros_like(f.domain.coords(x)), ROUND_TRIP * CONDITION)


def test_the_cutoff_decides_rank_kernel_range_and_solution() -> None:
    f = Linearizer(torch.diag(torch.tensor([1.0, 1e-3]).double()), flow(2))
    assert (f.rank(), f.kernel().dim, f.image().dim) == (2, 0, 2)
    assert (f.rank(1e-2), f.kernel(1e-2).dim, f.image(1e-2).dim) == (1, 1, 1)
    y = f.domain.sample(3)
    agree(f.domain.coords(f.solve(y, 1e-2))[:, 1], torch.zeros(3).double(), ROUND_TRIP)


# ------------------------------------------------------------------------------------------------------------------- numbers
@every_core
def test_norms_and_condition_are_those_of_the_matrix(core: CoreCase) -> None:
    f, M = between(core)
    s = np.linalg.svd(M.numpy(), compute_uv=False)
    agree(f.norm(), torch.tensor(s.max()), CONDITION)
    agree(f.norm("frobenius"), torch.tensor(np.linalg.norm(s)), CONDITION)
    agree(f.norm("nuclear"), torch.tensor(s.sum()), CONDITION)
    if s.min() > 1e-9 * s.max():
        agree(f.cond(), torch.tensor(s.max() / s.min()), CONDITION**2)
    else:
        assert float(f.cond()) > 1e12


@every_square_core
def test_trace_and_determinant_are_those_of_the_matrix(core: CoreCase) -> None:
    f, M = on_one_space(core)
    agree(f.trace(), torch.tensor(np.trace(M.numpy())), CONDITION)
    agree(f.det(), torch.tensor(np.linalg.det(M.numpy())), CONDITION**2)
    agree(f.abs_det(), torch.tensor(abs(np.linalg.det(M.numpy()))), CONDITION**2)


def test_a_change_of_chart_keeps_trace_determinant_and_eigenvalues_and_turns_singular_values() -> None:
    # g -> M g, A -> M A M^-1 leaves f as it is
    M, A = torch.diag(torch.tensor([1.0, 5.0]).double()), torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()
    X, Y = InducedSpace(Log((2,))), InducedSpace(Affine((2,), M.diagonal()) @ Log((2,)))
    f, h = Linearizer(A, X), Linearizer(M @ A @ torch.linalg.inv(M), Y)
    x = torch.rand(3, 2).double() + 0.5
    agree(f(x), h(x), CONDITION)
    agree(f.trace(), h.trace())
    agree(f.det(), h.det())
    agree(f.spectrum().values.real, h.spectrum().values.real, CONDITION)
    assert f.rank() == h.rank()
    assert abs(float(f.norm() - h.norm())) > 0.1 and abs(float(f.cond() - h.cond())) > 0.1


def test_the_core_is_similar_to_the_jacobian_at_the_zero_vector() -> None:
    X, A = InducedSpace(real_nvp(3, 2, 8).double().requires_grad_(False)), torch.randn(3, 3).double()
    J = torch.func.jacrev(Linearizer(A, X))(X.zero(dtype=torch.float64))
    expected = np.sort_complex(np.linalg.eigvals(A.numpy()))
    assert np.allclose(np.sort_complex(np.linalg.eigvals(J.numpy())), expected, rtol=1e-9)


def test_the_volume_between_two_spaces_has_no_sign() -> None:
    f = Linearizer(-torch.eye(3).double(), flow(3), flow(3))
    assert float(f.abs_det()) == pytest.approx(1)


# ----------------------------------------------------------------------------------------------------------- spectrum, polar
@every_square_core
def test_the_spectrum_is_that_of_the_matrix_and_its_subspaces_are_invariant(core: CoreCase) -> None:
    f, M = on_one_space(core)
    spectrum = f.spectrum()
    expected = np.linalg.eigvals(M.numpy())
    distance = np.abs(spectrum.values.numpy()[:, None] - expected[None])
    rows, columns = scipy.optimize.linear_sum_assignment(distance)
    defective = 1e-6  # a pair of equal eigenvalues is known to the root of eps
    assert distance[rows, columns].max() <= defective * max(1.0, np.abs(expected).max())
    parts = spectrum.subspaces()
    assert sum(W.dim for _, W in parts) == len(M)
    for values, W in parts:
        assert len(values) == W.dim
        image = f.domain.coords(f(W.basis()))
        agree(image - (image @ W.Q) @ W.Q.mT, torch.zeros_like(image), ROUND_TRIP * CONDITION)


def test_a_simple_real_eigenvalue_has_its_line() -> None:
    f = Linearizer(torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.5]]).double(), flow(3))
    for values, W in f.spectrum().subspaces():
        x = W.basis()[0]
        scaled = f.domain.scale(float(values[0].real), x)
        agree(f.domain.coords(f(x)), f.domain.coords(scaled), ROUND_TRIP)
    assert "3 eigenvalues" in repr(f.spectrum())


def test_a_rotation_has_a_plane_and_no_line() -> None:
    c, s = math.cos(1.0), math.sin(1.0)
    ((values, W),) = Linearizer(torch.tensor([[c, -s], [s, c]]).double(), flow(2)).spectrum().subspaces()
    assert W.dim == 2
    assert np.allclose(np.sort_complex(values.numpy()), np.sort_complex([c + 1j * s, c - 1j * s]))


@every_core
def test_a_map_is_its_partial_isometry_after_its_stretching(core: CoreCase) -> None:
    f, M = between(core)
    u, p = f.polar()
    x = samples(f)
    assert (u.domain, u.codomain, p.domain, p.codomain) == (f.domain, f.codomain, f.domain, f.domain)
    agree(f.codomain.coords(u(p(x))), f.codomain.coords(f(x)), ROUND_TRIP * CONDITION)
    P, Q = p.core.matrix(), u.core.matrix()
    agree(P, P.mT, CONDITION)
    assert float(torch.linalg.eigvalsh(P).min()) > -1e-12 * (1 + float(P.norm()))
    agree(P @ P, M.mT @ M, CONDITION**2)
    agree(Q @ Q.mT @ Q, Q, CONDITION**2)


# ---------------------------------------------------------------------------------------------------------------- functions
SPD = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]]).double()


def test_functions_of_an_operator_are_those_of_its_matrix() -> None:
    f = Linearizer(SPD, flow(3))
    M = SPD.numpy()
    expected: list[tuple[LinearizerOperator, np.ndarray]] = [
        (f.exp(0.5), scipy.linalg.expm(0.5 * M)),
        (f.sqrt(), scipy.linalg.sqrtm(M)),
        (f.log(), scipy.linalg.logm(M)),
        ((f ** (1 / 3)), scipy.linalg.fractional_matrix_power(M, 1 / 3)),
        ((f ** (-2)), np.linalg.matrix_power(M, -2)),
        (f.resolvent(5.0), np.linalg.inv(5 * np.eye(3) - M)),
        (f.function(torch.sin), scipy.linalg.sinm(M)),
        (f.function(lambda z: 1 / (9 - z)), np.linalg.inv(9 * np.eye(3) - M)),
    ]
    x = samples(f)
    for phi, matrix in expected:
        agree(phi.core.matrix(), torch.from_numpy(matrix).double(), CONDITION)
        agree(f.domain.coords(phi(f(x))), f.domain.coords(f(phi(x))), ROUND_TRIP * CONDITION)
        assert (phi.domain, phi.codomain) == (f.domain, f.domain)


def test_roots_logarithms_and_powers_undo() -> None:
    f = Linearizer(SPD, flow(3))
    x = samples(f)
    for back in (f.sqrt() @ f.sqrt(), f.log().exp(), (f ** (0.3)) @ (f ** (0.7)), f.exp().log()):
        agree(f.domain.coords(back(x)), f.domain.coords(f(x)), ROUND_TRIP * CONDITION)


def test_the_root_of_a_square_is_not_always_the_operator_itself() -> None:
    f = Linearizer(torch.diag(torch.tensor([-1.0, 2.0]).double()), flow(2))
    assert float((f**2).sqrt().core.matrix()[0, 0]) == pytest.approx(1)


def test_the_logarithm_of_an_exponential_is_not_always_the_operator_itself() -> None:
    turn = torch.tensor([[0.0, -4.0], [4.0, 0.0]]).double()  # |Im lambda| > pi
    f = Linearizer(turn, flow(2))
    assert (f.exp().log().core.matrix() - turn).norm() > 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_square_core
def test_powers_and_the_group_hold_over_every_core(core: CoreCase, dtype: torch.dtype) -> None:
    M = core.matrix(dtype)
    A = core.make(M)
    f = Linearizer(A / float(M.norm().clamp(min=1)), flow(len(M), dtype))
    x = f.domain.sample(4)
    require(check_powers(f, x), check_group(f, x))


@every_dtype
@every_chart
def test_powers_the_group_and_projections_hold_over_every_chart(case: ChartCase, dtype: torch.dtype) -> None:
    g = case.make(dtype).requires_grad_(False)
    X = InducedSpace(g)
    U, V = (torch.randn(X.dim, 1, dtype=dtype) / X.dim**0.5 for _ in range(2))
    f = Linearizer(ScaledIdentityPlusLowRank(0.9, 0.3 * U, V), X)
    x = case.points(g, (4,), dtype)
    require(check_powers(f, x), check_group(f, x))
    require(check_idempotent(Linearizer.projection(Subspace.span(X, x[:1])), x))


# --------------------------------------------------------------------------------------------------------------- projections
def test_the_projection_onto_a_subspace_is_self_adjoint_and_idempotent() -> None:
    X = flow(5)
    W = Subspace.span(X, X.sample(2))
    p, x = Linearizer.projection(W), X.sample(4)
    require(check_idempotent(p, x), check_linear(p, x))
    agree(X.coords(p(x)), X.coords(W.project(x)), ROUND_TRIP)
    agree(p.H.core.matrix(), p.core.matrix())
    agree(p.image().projector().matrix(), W.projector().matrix(), ROUND_TRIP)
    assert p.kernel().dim == 3


# --------------------------------------------------------------------------------------------------------- foreign operators
def test_a_core_may_be_any_object_with_matvec_and_rmatvec() -> None:
    M = np.random.default_rng(0).normal(size=(2, 3))
    X, Y = flow(3), flow(2)
    foreign = [
        M,
        torch.from_numpy(M),
        scipy.sparse.csr_array(M),
        scipy.sparse.linalg.aslinearoperator(M),
    ]
    x, y = X.sample(4), Y.sample(4)
    expected = Linearizer(torch.from_numpy(M), X, Y)
    for core in foreign:
        f = Linearizer(core, X, Y)
        agree(f(x), expected(x), ROUND_TRIP)
        agree(f.H(y), expected.H(y), ROUND_TRIP)


def test_to_scipy_is_the_core_in_coordinates() -> None:
    M = torch.randn(40, 30).double()
    f = Linearizer(M, flow(30), flow(40))
    A = f.to_scipy()
    z = np.random.default_rng(0).normal(size=30)
    assert np.allclose(A.matvec(z), M.numpy() @ z)
    assert np.allclose(A.rmatvec(np.ones(40)), M.numpy().T @ np.ones(40))
    values = scipy.sparse.linalg.svds(A, k=3, return_singular_vectors=False, rng=0)
    agree(torch.from_numpy(np.sort(values)[::-1].copy()), f.svd(3).values, CONDITION)


# ------------------------------------------------------------------------------------------------------------------ gradients
GRADIENTS: dict[str, Callable[[LinearizerOperator, Tensor], Tensor]] = {
    "forward": lambda f, x: f(x).square().sum(),
    "H": lambda f, x: f.H(x).square().sum(),
    "inv": lambda f, x: f.inv(x).square().sum(),
    "pinv": lambda f, x: f.pinv()(x).square().sum(),
    "solve": lambda f, x: f.solve(x).square().sum(),
    "svd": lambda f, x: f.svd().values.sum() + f.svd(1).left().square().sum() + f.svd(1).right().square().sum(),
    "truncate": lambda f, x: f.svd().truncate(1)(x).square().sum(),
    "f @ f": lambda f, x: (f @ f)(x).square().sum(),
    "f + 2 f": lambda f, x: (f + 2 * f)(x).square().sum(),
    "f ** 3": lambda f, x: (f**3)(x).square().sum(),
    "f ** -1": lambda f, x: (f**-1)(x).square().sum(),
    "exp": lambda f, x: f.exp(0.3)(x).square().sum(),
    "log": lambda f, x: f.log()(x).square().sum(),
    "sqrt": lambda f, x: f.sqrt()(x).square().sum(),
    "power": lambda f, x: (f ** (0.3))(x).square().sum(),
    "resolvent": lambda f, x: f.resolvent(9.0)(x).square().sum(),
    "function": lambda f, x: f.function(torch.sin)(x).square().sum(),
    "polar": lambda f, x: f.polar()[0](x).square().sum() + f.polar()[1](x).square().sum(),
    "numbers": lambda f, x: f.trace() + f.det() + f.abs_det() + f.norm() + f.cond() + f.norm("frobenius") + f.norm("nuclear"),
    "spectrum": lambda f, x: f.spectrum().values.abs().sum(),
    "projection": lambda f, x: Linearizer.projection(Subspace.span(f.domain, f(x)[:1]))(x).square().sum(),
}


@pytest.mark.parametrize("kind", ["Dense", "c I + U V^T"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_reach_the_charts_and_the_core(name: str, kind: str) -> None:
    chart = shaken(real_nvp(3, 2, 8)).double()
    U, V = (nn.Parameter(0.3 * torch.rand(3, 1).double() + 0.1) for _ in range(2))
    core = (
        nn.Parameter(SPD.clone())
        if kind == "Dense"
        else ScaledIdentityPlusLowRank(nn.Parameter(torch.tensor(1.5).double()), U, V)
    )
    f = Linearizer(core, InducedSpace(chart))
    x = 0.3 * torch.randn(3, 3).double()
    GRADIENTS[name](f, x).backward()
    through_chart = name not in {"numbers", "spectrum"}
    for parameters, reached in ((f.core.parameters(), True), (chart.parameters(), through_chart)):
        for p in parameters:
            assert not reached or (p.grad is not None and bool(p.grad.isfinite().all())), name
    assert sum(float(p.grad.abs().sum()) for p in f.core.parameters() if p.grad is not None) > 0


def test_a_linearizer_is_a_module_that_trains() -> None:
    torch.manual_seed(1)
    f = Linearizer(nn.Parameter(torch.eye(2)), InducedSpace(real_nvp(2, 4, 16)))
    x = torch.rand(64, 2)
    y = x.square()
    optimizer = torch.optim.Adam(f.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (f(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 20


def test_diagonal_operators_of_known_charts() -> None:
    f = Linearizer(Diagonal(torch.tensor([4.0, 9.0]).double()), InducedSpace(Log((2,))))
    agree(f.sqrt()(torch.tensor([4.0, 5.0]).double()), torch.tensor([16.0, 125.0]).double(), CONDITION)
    g = Linearizer(Diagonal(torch.tensor([2.0]).double()), InducedSpace(Sinh((1,))), EuclideanSpace(1))
    assert float(g(torch.tensor([1.0]).double())) == pytest.approx(2 * math.sinh(1))
