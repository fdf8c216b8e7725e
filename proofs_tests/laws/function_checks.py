"""Each function of an operator beside that of numpy, scipy or mpmath of its matrix, to the accuracy that its condition allows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

from induced.errors import DomainError, SingularOperator
from induced.operators import (
    BlockCirculant,
    LinearOperator,
    Orthogonal,
    cond,
    det,
    eigenvalues,
    exp,
    function,
    image,
    inverse,
    kernel,
    log,
    norm,
    pinv,
    polar,
    power,
    rank,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    trace,
)
from proofs_tests.laws.structure_cases import Array, N


def scale(M: Array) -> float:
    return float(np.linalg.norm(M, 2)) if M.size else 0.0


def values_of(M: Array) -> Array:
    return np.linalg.svd(M, compute_uv=False) if M.size else np.zeros(min(M.shape))


def count_of(M: Array) -> int:
    """The rank: no case has a singular value between rounding and 0.005."""
    s = values_of(M)
    assert not ((s > 1e-6) & (s < 0.005)).any()
    return int((s > 1e-6).sum())


def condition(M: Array) -> float:
    s = values_of(M)[: count_of(M)]
    return float(s[0] / s[-1]) if len(s) else 1.0


def pinv_of(M: Array) -> Array:
    return np.linalg.pinv(M, rcond=1e-5) if M.size else M.T


def close(found: Tensor, expected: Array | float, eps: float, factor: float = 1.0) -> None:
    """At most 50 eps * factor, relative to the 2-norm of what is expected and at least 1."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape, f"{tuple(found.shape)}, expected {expected.shape}"
    error = float(np.linalg.norm(N(found) - expected))
    bound = 50 * eps * factor * max(1.0, float(np.linalg.norm(expected)))
    assert error <= bound, f"off by {error:.2g}, rounding explains {bound:.2g}"


def regular(M: Array) -> bool:
    return M.shape[0] == M.shape[1] and count_of(M) == len(M)


def off_the_cut(M: Array) -> bool:
    """Whether every eigenvalue is away from (-inf, 0]."""
    w = np.linalg.eigvals(M) if M.size else np.ones(1)
    return bool(((abs(w.imag) > 1e-3) | (w.real > 1e-3)).all())


def of_matrix(f: Callable[[Array], Any], M: Array) -> Array:
    return np.real(np.asarray(f(M))).reshape(M.shape) if M.size else M


def series(M: Array, odd: bool) -> Array:
    """exp(M), or sin(M), by its Taylor series in long double: scipy's loses 200 eps on a direct sum."""
    halvings = 0 if odd else 8
    X = M.astype(np.longdouble) / 2**halvings
    term = X if odd else np.eye(len(M), dtype=np.longdouble)
    total = term
    for k in range(1, 40):
        term = -term @ X @ X / ((2 * k) * (2 * k + 1)) if odd else term @ X / k
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total.astype(float)


def sensitivity(M: Array) -> float:
    """Of functions with a cut at 0: by the eigenvectors, the condition, and how near a pair is to meet across the cut."""
    if not M.size:
        return 1.0
    w, X = np.linalg.eig(M)
    gap = min([1.0, *(abs(v.imag) / abs(v) for v in w if v.real < -1e-6)])
    return float(np.linalg.cond(X)) ** 2 * condition(M) / gap


Check = Callable[[LinearOperator, Array, float], None]
SQUARE: set[str] = set()


def check_action(A: LinearOperator, M: Array, eps: float) -> None:
    assert A.dtype is not None and A.shape == M.shape
    z, w = (np.sin(np.arange(2.0 * n)).reshape(2, n) for n in reversed(M.shape))
    close(A.matrix(), M, eps)
    close(A(torch.from_numpy(z).to(A.dtype)), z @ M.T, eps, max(1.0, scale(M)))
    for apply in (A.apply_adjoint, A.H):
        close(apply(torch.from_numpy(w).to(A.dtype)), w @ M, eps, max(1.0, scale(M)))


def check_svd(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    for k in range(min(M.shape) + 1):
        U, values, V = svd(A, k)
        assert U.shape == (M.shape[0], k) and V.shape == (M.shape[1], k)
        close(values, s[:k], eps)
        close(U.mT @ U, np.eye(k), eps)
        close(V.mT @ V, np.eye(k), eps)
        close(U * values, M @ N(V), eps)
        close(V * values, M.T @ N(U), eps)


def check_singular_values(A: LinearOperator, M: Array, eps: float) -> None:
    found = singular_values(A)
    close(found.values.repeat_interleave(found.times).sort(descending=True).values, values_of(M), eps)


def check_gradient(A: LinearOperator, M: Array, eps: float) -> None:
    """The sum of s^3 over all singular values has the derivative 3 U s^2 V^T, also where they repeat."""
    held = [x.requires_grad_() for x in (*A.parameters(), *A.buffers()) if x.is_floating_point() and x.numel() and x.is_leaf]
    if not held or not M.size or isinstance(A, Orthogonal | BlockCirculant):
        return  # a matrix that stays orthogonal, and a symbol of which parts are redundant, are no free parameters
    values, times, _ = singular_values(A)
    total = (times * values**3).sum()
    found = torch.autograd.grad(total, held, allow_unused=True) if total.requires_grad else [None] * len(held)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    G = torch.from_numpy(3 * U * s**2 @ Vt).to(values.dtype)
    entries = (A.matrix() * G).sum()
    expected = torch.autograd.grad(entries, held, allow_unused=True) if entries.requires_grad else [None] * len(held)
    for f, e, x in zip(found, expected, held, strict=True):
        close(
            torch.zeros_like(x) if f is None else f, N(torch.zeros_like(x) if e is None else e), eps, 4 * max(1.0, scale(M)) ** 3
        )


def check_pinv(A: LinearOperator, M: Array, eps: float) -> None:
    close(pinv(A).matrix(), pinv_of(M), eps, condition(M))


def check_inverse(A: LinearOperator, M: Array, eps: float) -> None:
    if regular(M):
        close(inverse(A).matrix(), np.linalg.inv(M), eps, condition(M))
    else:
        with pytest.raises(SingularOperator):
            inverse(A).matrix()


def check_polar(A: LinearOperator, M: Array, eps: float) -> None:
    U, s, Vt = np.linalg.svd(M, full_matrices=False) if M.size else (M[:, :0], values_of(M)[:0], M[:0])
    k = count_of(M)
    found = polar(A)
    close(found.Q.matrix(), U[:, :k] @ Vt[:k], eps, condition(M))
    close(found.P.matrix(), (Vt.T * s) @ Vt, eps)


def check_solve(A: LinearOperator, M: Array, eps: float) -> None:
    b = np.cos(np.arange(3 * len(M))).reshape(3, len(M))
    close(solve(A, torch.from_numpy(b).to(A.dtype)), b @ pinv_of(M).T, max(eps, 1e-16), condition(M) ** 2)


def check_kernel(A: LinearOperator, M: Array, eps: float) -> None:
    Q = kernel(A).matrix()
    n, k = M.shape[1], count_of(M)
    assert Q.shape == (n, n - k)
    close(Q.mT @ Q, np.eye(n - k), eps)
    close(Q @ Q.mT, np.eye(n) - pinv_of(M) @ M, eps, condition(M))


def check_image(A: LinearOperator, M: Array, eps: float) -> None:
    Q = image(A).matrix()
    assert Q.shape == (M.shape[0], count_of(M))
    close(Q.mT @ Q, np.eye(Q.shape[1]), eps)
    close(Q @ Q.mT, M @ pinv_of(M), eps, condition(M))


def check_rank(A: LinearOperator, M: Array, eps: float) -> None:
    assert rank(A) == count_of(M)
    assert rank(A, 0.5) == int((values_of(M) > 0.5 * scale(M)).sum())


def check_cond(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    if count_of(M) < len(s):
        assert not float(cond(A)) <= 0.01 / eps  # inf, or what rounding leaves of 0
    else:
        close(cond(A), s[0] / s[-1] if len(s) else 0.0, eps, condition(M))


def check_norms(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    close(norm(A), scale(M), eps)
    close(norm(A, "frobenius"), float(np.linalg.norm(s)), eps)
    close(norm(A, "nuclear"), s.sum(), eps)


def check_trace(A: LinearOperator, M: Array, eps: float) -> None:
    close(trace(A), np.trace(M), eps)


def check_det(A: LinearOperator, M: Array, eps: float) -> None:
    close(det(A), np.linalg.det(M), eps, condition(M) * max(scale(M), 1.0) ** (len(M) - 1))


def check_slogdet(A: LinearOperator, M: Array, eps: float) -> None:
    sign, logabs = slogdet(A)
    if regular(M):
        expected = np.linalg.slogdet(M)
        assert float(sign.detach()) == expected[0]
        close(logabs, expected[1], eps, condition(M))
    else:
        assert float(logabs.detach()) < np.log(eps) and abs(float(sign.detach())) <= 1


def check_eigenvalues(A: LinearOperator, M: Array, eps: float) -> None:
    w, found = np.linalg.eigvals(M) if M.size else np.zeros(0), N(eigenvalues(A))
    assert len(found) == len(w)
    assert (np.diff(abs(found)) <= 1e-5).all()
    if len(w):
        # a simple or semisimple eigenvalue moves by the condition of the vectors
        X = np.linalg.cond(np.linalg.eig(M)[1])
        pairs = scipy.optimize.linear_sum_assignment(abs(found[:, None] - w))
        assert abs(found[pairs[0]] - w[pairs[1]]).max() <= 50 * eps * max(1.0, scale(M)) * min(X, 1e3) + (
            eps**0.5 if X > 1e8 else 0
        )


def check_exp(A: LinearOperator, M: Array, eps: float) -> None:
    close(exp(A).matrix(), series(M, odd=False), eps, max(scale(M), 1.0))
    close(exp(A, -0.5).matrix(), series(-0.5 * M, odd=False), eps, max(scale(M), 1.0))


def check_log(A: LinearOperator, M: Array, eps: float) -> None:
    if off_the_cut(M):
        close(log(A).matrix(), of_matrix(scipy.linalg.logm, M), eps, sensitivity(M))
    else:
        with pytest.raises(DomainError):
            log(A).matrix()


def semisimple(M: Array) -> bool:
    """Singular, with as many vectors in the kernel as the eigenvalue 0 is counted, and else off the cut."""
    w = np.linalg.eigvals(M)
    kept = w[abs(w) > 1e-4]
    return len(kept) == count_of(M) and bool(((abs(kept.imag) > 1e-3) | (kept.real > 0)).all())


def root_of(M: Array, p: float) -> Array:
    w, X = np.linalg.eig(M.astype(complex))
    w = np.where(abs(w) < 1e-4, 0, w)
    image: Array = (X * np.where(w == 0, 0, np.where(w == 0, 1, w) ** p)) @ np.linalg.inv(X)
    return image.real


def check_sqrt(A: LinearOperator, M: Array, eps: float) -> None:
    for p, f in ((0.5, sqrt), (0.3, lambda B: power(B, 0.3))):
        if off_the_cut(M):
            close(f(A).matrix(), root_of(M, p) if M.size else M, eps, sensitivity(M))
        elif semisimple(M):
            close(f(A).matrix(), root_of(M, p), eps, sensitivity(M))
        else:
            with pytest.raises(DomainError):
                f(A).matrix()


def check_power(A: LinearOperator, M: Array, eps: float) -> None:
    for k in (0, 1, 2, 5):
        close(power(A, k).matrix(), np.linalg.matrix_power(M, k), eps, max(scale(M), 1.0) ** k)
    if regular(M):
        for k in (-1, -2):
            close(power(A, k).matrix(), np.linalg.matrix_power(np.linalg.inv(M), -k), eps, condition(M) ** 2)
    else:
        with pytest.raises(SingularOperator):
            power(A, -2).matrix()


def check_resolvent(A: LinearOperator, M: Array, eps: float) -> None:
    s = 2 * scale(M) + 1
    close(resolvent(A, s).matrix(), np.linalg.inv(s * np.eye(len(M)) - M), eps)


def check_function(A: LinearOperator, M: Array, eps: float) -> None:
    close(function(A, torch.sin).matrix(), series(M, odd=True), eps, max(scale(M), 1.0) ** 2)


def check_dtype(A: LinearOperator, M: Array, eps: float) -> None:
    assert A.dtype is not None
    found = [pinv(A).matrix(), polar(A).Q.matrix(), singular_values(A).values, norm(A), norm(A, "frobenius"), cond(A)]
    found += [*svd(A), image(A).matrix(), kernel(A).matrix()]
    if M.shape[0] == M.shape[1]:
        found += [trace(A), det(A), *slogdet(A), exp(A).matrix(), power(A, 2).matrix(), power(A, 0).matrix()]
        assert eigenvalues(A).dtype == torch.promote_types(A.dtype, torch.complex64)
    assert {x.dtype for x in found} == {A.dtype}


CHECKS: dict[str, Check] = {name[6:]: f for name, f in dict(globals()).items() if name.startswith("check_")}
SQUARE |= {"inverse", "trace", "det", "slogdet", "eigenvalues", "exp", "log", "sqrt", "power", "resolvent", "function"}
