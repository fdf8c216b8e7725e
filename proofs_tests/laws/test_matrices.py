"""Functions of matrices against mpmath and scipy: near the cut, ill-scaled, stiff, and where they do not exist."""

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from induced._numerics import matrix_exp
from induced.errors import DomainError
from induced.operators import SkewExponential, schur
from induced.operators.matrices import (
    Phi,
    analytic_function,
    divided_difference,
    expm,
    exponential,
    logarithm,
    real_power,
)
from proofs_tests.registry import agree, grad_of

F64, F32 = (float(torch.finfo(dtype).eps) for dtype in (torch.float64, torch.float32))
NAN = torch.tensor([[1.0, math.nan], [0.0, 1.0]])
PHIS = {"exp": exponential(), "log": logarithm(), "power": real_power(0.5), "function": analytic_function(torch.sin)}
ROOTS = {"log": logarithm(), "sqrt": real_power(0.5), "power": real_power(1 / 3)}
every_phi = pytest.mark.parametrize("phi", PHIS.values(), ids=PHIS)
every_root = pytest.mark.parametrize("what", ROOTS)


def tensor(M: object) -> Tensor:
    return torch.as_tensor(np.asarray(M, dtype=np.float64))


def similar(J: np.ndarray, seed: int, shift: float = 3.0) -> Tensor:
    """S J S^-1 for a random S + shift I."""
    S = np.random.default_rng(seed).standard_normal(J.shape) + shift * np.eye(len(J))
    return tensor(S @ J @ np.linalg.inv(S))


def jordan(value: float, size: int) -> np.ndarray:
    return value * np.eye(size) + np.diag(np.ones(size - 1), 1)


def pair(a: float, b: float, size: int = 1) -> np.ndarray:
    """The real Jordan block of a + i b and a - i b."""
    return np.kron(np.eye(size), [[a, -b], [b, a]]) + np.kron(np.diag(np.ones(size - 1), 1), np.eye(2))


def rotation(angle: float) -> np.ndarray:
    return pair(math.cos(angle), math.sin(angle))


def residual(what: str, A: Tensor, zero: float = 0.0) -> float:
    """How far the inverse function takes the result from A, relatively."""
    X = ROOTS[what].of_matrix(A, zero).numpy()
    back = {"log": scipy.linalg.expm, "sqrt": lambda X: X @ X, "power": lambda X: X @ X @ X}[what](X)
    return float(np.linalg.norm(back - A.numpy()) / np.linalg.norm(A.numpy()))


def by_mpmath(f: Callable[[mpmath.matrix], mpmath.matrix], M: Tensor) -> np.ndarray:
    with mpmath.workdps(60):
        return np.array([[float(mpmath.re(x)) for x in row] for row in f(mpmath.matrix(M.tolist())).tolist()])


# ------------------------------------------------------------------------------------------------------------- the cut
@every_root
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shift", [3.0, 0.0])
def test_a_jordan_block_of_a_negative_eigenvalue_has_no_root_however_rounding_splits_it(
    what: str, size: int, shift: float
) -> None:
    for seed in range(20):
        with pytest.raises(DomainError, match="cut"):
            ROOTS[what].of_matrix(similar(jordan(-1.0, size), seed, shift), 0.0)


@every_root
def test_two_equal_negative_eigenvalues_have_no_principal_root(what: str) -> None:
    for seed in range(20):
        with pytest.raises(DomainError, match="cut"):
            ROOTS[what].of_matrix(similar(np.diag([-1.0, -1.0, 2.0]), seed), 0.0)


def test_a_function_by_its_values_has_none_at_a_defective_point_of_its_cut() -> None:
    for seed in (13, 37):
        with pytest.raises(DomainError, match="phi"):
            analytic_function(torch.log).of_matrix(similar(jordan(-1.0, 6), seed, 0.0), 0.0)


EXISTING = {
    "-1 +- 1e-6 i": similar(pair(-1, 1e-6), 0),
    "-1 +- 1e-9 i": similar(pair(-1, 1e-9), 1),
    "two pairs of -1 +- 1e-3 i": similar(pair(-1, 1e-3, 2), 2),
    "a turn by pi - 1e-7": tensor(rotation(math.pi - 1e-7)),
    "a small pair": tensor(scipy.linalg.block_diag(np.eye(1), 1e-9 * rotation(2.5))),
    "1 .. 1e-14": tensor(np.diag(10.0 ** -np.arange(15.0))),
    "similar to 1 .. 1e-12": similar(np.diag(10.0 ** -np.arange(0, 13.0, 2)), 3, 5.0),
    "nilpotent + 1e-8": tensor(jordan(1e-8, 2)),
    "[[1, 1e10], [0, 2]]": tensor([[1.0, 1e10], [0.0, 2.0]]),
    "[[1e-5, 1], [0, 1e-5]]": tensor([[1e-5, 1.0], [0.0, 1e-5]]),
}


@every_root
@pytest.mark.parametrize("name", EXISTING)
def test_roots_exist_near_the_cut_and_for_graded_matrices(what: str, name: str) -> None:
    A = EXISTING[name]
    assert residual(what, A, F64 * float(torch.linalg.matrix_norm(A, 2)) / 10) <= 1e-11


@every_root
def test_a_nearly_defective_pair_near_the_cut_has_the_root_of_mpmath(what: str) -> None:
    A = similar(pair(-1, 1e-2, 2), 4)
    power = mpmath.mpf(1) / (2 if what == "sqrt" else 3)

    def oracle(X: mpmath.matrix) -> mpmath.matrix:
        w, V = mpmath.eig(X)
        return V * mpmath.diag([mpmath.log(z) if what == "log" else z**power for z in w]) * V**-1

    exact = by_mpmath(oracle, A)
    # its condition is 1 / 1e-2^3
    assert np.linalg.norm(ROOTS[what].of_matrix(A, 0.0).numpy() - exact) <= 1e-8 * np.linalg.norm(exact)


# -------------------------------------------------------------------------------------------------------- the eigenvalue zero
@pytest.mark.parametrize("n", [50, 784])
def test_small_eigenvalues_of_a_float32_matrix_are_kept(n: int) -> None:
    Q = torch.linalg.qr(torch.randn(n, n).double())[0]
    d = torch.logspace(0, -6, n).double()
    A = ((Q * d) @ Q.mT).float()
    A = (A + A.mT) / 2
    for phi, oracle, error in (
        (real_power(0.5), d.sqrt(), 1e-5),  # eps |A| / 2 sqrt(1e-6) is 6e-5 in the worst direction
        (logarithm(), d.log(), 1e-3),
        (real_power(-0.5), d**-0.5, 1e-2),
    ):
        exact = (Q * oracle) @ Q.mT
        assert torch.linalg.matrix_norm(phi.of_matrix(A, F32) - exact) <= error * torch.linalg.matrix_norm(exact)


def test_only_the_kernel_is_lost_where_a_matrix_is_singular_at_its_precision() -> None:
    Q = torch.linalg.qr(torch.randn(6, 6).double())[0]
    for tiny, exact in ((1e-6, 1e-3), (-1e-6, 0.0)):
        d = tensor([1.0, 0.5, 5e-3, 5e-3, 5e-3, tiny])
        root = tensor([1.0, 0.5**0.5, 5e-3**0.5, 5e-3**0.5, 5e-3**0.5, exact])
        S = Q + 0.1 * torch.randn(6, 6).double()
        for B, B_inverse in ((Q, Q.mT), (S, torch.linalg.inv(S))):
            expected = B @ torch.diag(root) @ B_inverse
            computed = real_power(0.5).of_matrix(B @ torch.diag(d) @ B_inverse, torch.tensor(2e-5))
            assert torch.linalg.matrix_norm(computed - expected) <= (1e-9 if tiny > 0 else 1e-3)


@pytest.mark.parametrize("zero", [0.0, 1e-7])
def test_a_singular_matrix_has_no_logarithm(zero: float) -> None:
    for A in (similar(np.diag([0.0, 1.0, 2.0]), 5), tensor(np.diag([zero / 2, 1.0]))):
        assert schur.singular(A.numpy(), zero)
        with pytest.raises(DomainError, match="singular"):
            logarithm().of_matrix(A, zero)
    assert not schur.singular(np.diag([1e-6, 1.0]), zero)


def test_each_matrix_of_a_batch_has_its_own_zero() -> None:
    A = torch.stack([tensor(np.diag([-1e-6, 1.0]))] * 2)
    agree(real_power(0.5).of_matrix(A[:1], torch.tensor([1e-5])), torch.diag(torch.tensor([0.0, 1.0]))[None].double())
    with pytest.raises(DomainError, match="-1e-06"):
        real_power(0.5).of_matrix(A, torch.tensor([1e-5, 1e-7]))


# ---------------------------------------------------------------------------------------------------------------- scale
@pytest.mark.parametrize(("size", "dtype"), [(s, torch.float64) for s in (1e-200, 1e-30, 1e30, 1e200)] + [(1e-30, torch.float32)])
@pytest.mark.parametrize(
    "M", [[[2.0, 1.0, 0.3], [0.5, 3.0, 1.0], [0.0, 0.2, 1.0]], [[2.0, 1.0, 0.3], [0.0, 2.0, 1.0], [0.0, 0.0, 2.0]]]
)
def test_functions_of_tiny_and_huge_matrices_keep_their_digits(size: float, dtype: torch.dtype, M: list[list[float]]) -> None:
    A = (size * torch.tensor(M).double()).to(dtype)
    B = A.double() / size
    cube_root = analytic_function(lambda z: z ** (1 / 3))
    for phi, p in ((real_power(0.5), 0.5), (real_power(-0.7), -0.7), (cube_root, 1 / 3)):
        exact = torch.from_numpy(np.real(scipy.linalg.fractional_matrix_power(B.numpy(), p)))
        agree(phi.of_matrix(A, 0.0).double() / size**p, exact, 100 if dtype == torch.float64 else 100 * F32 / F64)
    computed = logarithm().of_matrix(A.double(), 0.0) - math.log(size) * torch.eye(3).double()
    assert torch.linalg.matrix_norm(computed - torch.from_numpy(scipy.linalg.logm(B.numpy()))) <= 10 * F64 * abs(math.log(size))


def test_gradients_of_tiny_and_huge_matrices_keep_their_digits() -> None:
    for size in (1e-200, 1e200):
        leaf = (size * tensor([[2.0, 1.0], [0.5, 3.0]])).requires_grad_()
        reference = (leaf.detach() / size).requires_grad_()
        for x in (leaf, reference):
            logarithm().of_matrix(x, 0.0).sum().backward()
        agree(grad_of(leaf) * size, grad_of(reference), 100)


# ---------------------------------------------------------------------------------------------------------- the exponential
NONNORMAL = {
    "triangular": tensor([[-1.0, 1e6], [0.0, -2.0]]),
    "graded": tensor([[-1.0, 1e4, 1e8], [0.0, -2.0, 1e4], [0.0, 0.0, -3.0]]),
}


@pytest.mark.parametrize("name", NONNORMAL)
def test_the_exponential_of_a_non_normal_matrix_is_that_of_mpmath(name: str) -> None:
    A = NONNORMAL[name]
    exact = by_mpmath(mpmath.expm, A)
    assert np.linalg.norm(expm(A).numpy() - exact) <= 1e-11 * np.linalg.norm(exact)


def test_torch_s_exponential_is_what_that_rejects() -> None:
    A = NONNORMAL["graded"]
    exact = by_mpmath(mpmath.expm, A)
    assert np.linalg.norm(torch.linalg.matrix_exp(A).numpy() - exact) > 1e-11 * np.linalg.norm(exact)


def test_derivatives_of_the_exponential() -> None:
    for A in (torch.randn(2, 3, 3).double(), torch.randn(3, 3, dtype=torch.complex128), torch.randn(1, 1).double()):
        leaf = A.requires_grad_()
        assert torch.autograd.gradcheck(expm, leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(expm, leaf, fast_mode=True)
    M = torch.randn(4, 3, 3).double()
    agree(torch.func.vmap(expm, in_dims=1)(M.transpose(0, 1)), expm(M))
    agree(torch.func.jacfwd(expm)(M[0]), torch.func.jacrev(expm)(M[0]))
    with pytest.raises(DomainError, match="forward mode within forward mode"):  # torch would give 0
        torch.func.jacfwd(torch.func.jacfwd(expm))(M[0])
    compiled = torch.compile(expm, backend="eager", fullgraph=True)
    agree(compiled(M), expm(M), 100)


def test_exponentials_of_nothing_and_of_numbers() -> None:
    for shape in ((0, 3, 3), (2, 0, 0), (0, 0)):
        for phi in PHIS.values():
            assert phi.of_matrix(torch.zeros(shape), 0.0).shape == shape
    assert expm(torch.zeros(3, 3, device="meta")).shape == logarithm().of_matrix(torch.zeros(3, 3, device="meta"), 0.0).shape
    assert float(expm(tensor([[2.0]]))) == math.exp(2.0)


def test_the_derivative_of_a_stiff_exponential_keeps_its_digits() -> None:
    Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    A = (Q * tensor([-1e6, -5e5, -0.7])) @ Q.mT
    E = Q[:, 2:] @ Q[:, 2:].mT
    computed = torch.func.jvp(expm, (A,), (E,))[1]  # exp(-0.7) E, as E commutes with A
    assert torch.linalg.matrix_norm(computed - math.exp(-0.7) * E) <= 1e-9


# ------------------------------------------------------------------------------------------------------ c I + a low rank
@pytest.mark.parametrize("size", [1e-8, 1e1, 1e3, 1e5, 1e6, 1e8])
@pytest.mark.parametrize("c", [-1.0, -0.7, -50.3])
def test_the_divided_difference_of_stiff_normal_matrices(c: float, size: float) -> None:
    Q = torch.linalg.qr(torch.randn(3, 3).double())[0]
    for M in (-size * (Q * tensor([1.0, 0.5, 1e-3])) @ Q.mT, size * tensor([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])):

        def psi(X: mpmath.matrix) -> mpmath.matrix:
            w, V = mpmath.eig(X)
            values = [mpmath.exp(c) * (mpmath.expm1(z) / z if z else 1) for z in w]
            return V * mpmath.diag(values) * V**-1

        exact = by_mpmath(psi, M)
        computed = divided_difference(tensor(c), M, expm).numpy()
        # the condition of exp(X) is |X|
        assert np.linalg.norm(computed - exact) <= 30 * F64 * (1 + abs(c) + size) * np.linalg.norm(exact)


def test_divided_differences_of_other_functions_of_batches_and_their_gradients() -> None:
    c, M = tensor([1.5, 1e5]), tensor([[[0.0, 1.0], [0.0, 0.0]], [[2e-6, 0.0], [0.0, 1e-6]]])
    slow = exponential()._replace(of_matrix=lambda A, zero: expm(1e-5 * A))  # exp(1e5) would overflow
    for phi, first, second in (
        (logarithm(), lambda c: 1 / c, lambda c: -0.5 / c**2),
        (real_power(0.5), lambda c: 0.5 * c**-0.5, lambda c: -0.125 * c**-1.5),
        (slow, lambda c: 1e-5 * torch.exp(1e-5 * c), lambda c: 0.5e-10 * torch.exp(1e-5 * c)),
    ):
        f = lambda X, phi=phi: phi.of_matrix(X, 0.0)  # noqa: E731
        eye = torch.eye(2).double()
        exact = first(c)[:, None, None] * eye + second(c)[:, None, None] * M
        agree(divided_difference(c, M, f) / first(c)[:, None, None], exact / first(c)[:, None, None], 1000)
        leaves = (c[:1].clone().requires_grad_(), M[:1].clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda c, M, f=f: divided_difference(c, M, f), leaves, fast_mode=True)
    assert divided_difference(torch.ones(2), torch.zeros(2, 0, 0), expm).shape == (2, 0, 0)
    agree(divided_difference(torch.zeros(()).double(), torch.zeros(2, 2).double(), expm), torch.eye(2).double())


# ----------------------------------------------------------------------------------------------- complex and not finite
@every_phi
def test_functions_of_complex_matrices_are_those_of_scipy(phi: Phi) -> None:
    A = 3 * torch.eye(3) + 0.5 * torch.randn(2, 3, 3, dtype=torch.complex128)
    oracles: list[Callable[..., Any]] = [scipy.linalg.expm, scipy.linalg.logm, scipy.linalg.sqrtm, scipy.linalg.sinm]
    oracle = oracles[[*PHIS.values()].index(phi)]
    agree(phi.of_matrix(A, 0.0), torch.from_numpy(np.stack([oracle(M) for M in A.numpy()])), 100)
    assert torch.autograd.gradcheck(lambda A: phi.of_matrix(A, 0.0), A.requires_grad_(), fast_mode=True)


@every_phi
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_function_is_taken_of_what_is_not_finite(phi: Phi, value: float) -> None:
    for M in (torch.full((3, 3), value), torch.eye(3).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(value)), NAN):
        for A in (M, M.to(torch.complex64), M.double()[None]):
            with pytest.raises(DomainError, match="non-finite"):
                phi.of_matrix(A, 0.0)
    with pytest.raises(DomainError, match="non-finite"):
        phi.of_scalars(tensor([1.0, value]))
    assert torch.func.vmap(lambda A: phi.of_matrix(A, 0.0))(NAN[None]).isnan().all()


def test_overflow_is_an_error() -> None:
    hot = 800.0 * tensor([[1.0, 1e-3], [1e-3, 1.0]])
    for act in (
        lambda: expm(hot),
        lambda: expm((hot / 8).float()),  # in float32
        lambda: expm(hot[:1, :1]),
        lambda: exponential().of_scalars(hot.diagonal()),
        lambda: real_power(2.5).of_matrix(tensor([[1e200, 1e200], [0.0, 1e200]]), 0.0),
        lambda: real_power(2.5).of_scalars(tensor([1e200])),
    ):
        with pytest.raises(DomainError, match="overflows"):
            act()


@pytest.mark.parametrize("norm", [1e-4, 1e-2, 0.03, 0.3, 1.0])
def test_torchs_exponential_of_one_small_matrix_sums_all_its_terms(norm: float) -> None:
    A = torch.randn(4, 4, dtype=torch.float64)
    A *= norm / torch.linalg.matrix_norm(A, 1)
    expected = torch.from_numpy(scipy.linalg.expm(A.numpy()))
    for single in (A, A[None], A[None, None]):
        assert float((matrix_exp(single) - expected).abs().max()) < 20 * torch.finfo(torch.float64).eps
    skew = SkewExponential(A)
    agree(skew.matrix(), torch.from_numpy(scipy.linalg.expm(((A - A.mT) / 2).numpy())), 20)
