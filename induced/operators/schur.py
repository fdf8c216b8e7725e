"""Analytic functions of real float64 matrices in numpy, singular and defective ones included.

| function | algorithm |
|---|---|
| log, A^p | by eigenvectors if symmetric; else inverse scaling and squaring of the Schur form (scipy) of the balanced matrix |
| any phi | by eigenvectors if symmetric; else Schur-Parlett: eigenvalues closer than a gap form a block, summed as a series |

Every matrix is brought to entries of size 1 first. Each function takes a matrix A, the size k of its equal diagonal blocks (a
derivative is asked of [[A, E], [0, A]]) and `zero`, the absolute uncertainty of the singular values of the block.

A defective eigenvalue of multiplicity m is off by eps^(1/m), so that the spectrum cannot tell whether a negative one is on the
cut: the residual does. The Taylor coefficients of phi come from its values on a circle (FFT), so that phi need only be evaluated.
Of several gaps the one of least error is taken, judged by the tail of the series, the commutator with A and the imaginary part;
where none is small, phi is not analytic near the spectrum: an error.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.csgraph
import torch
from numpy.typing import NDArray
from torch import Tensor

from induced.errors import DomainError

Array = NDArray[Any]
Scalars = Callable[[Tensor], Tensor]
EPS, TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)
NODES = 256  # on the circle; half as many Taylor coefficients are used
ACCURATE, USABLE = 1e-11, 1e-6  # relative errors at which the search stops, and above which there is no answer
MIXED = 1e6  # the largest condition of an eigenvalue that counts: a defective one is left to the residual


# ---------------------------------------------------------------------------------------------------------- log and powers
def log(A: Array, k: int, zero: float) -> Array:
    """The principal logarithm.

    Raises:
        DomainError: A is singular, or an eigenvalue lies in (-inf, 0).
    """
    A, zero, size = _normalised(A, zero)
    head = A[:k, :k]
    if singular(head, zero):
        raise DomainError(
            f"the logarithm has no value at the eigenvalue 0, and this operator has one of "
            f"{_show(size * np.linalg.eigvals(head))}: it is singular"
        )
    L, size = _principal(A, head, size, "log(A)", np.log, lambda R: 2 * scipy.linalg.logm(R))
    return L + float(np.log(size)) * np.eye(len(A))


def power(A: Array, k: int, zero: float, p: float, peeled: bool = False) -> Array:
    """The principal power A^p, for a real p.

    Where A is singular in float64, or at `zero` with an eigenvalue that is not positive, A = F G^T with F of full column rank,
    and A^p = F (G^T F)^(p - 1) G^T: each step takes one from every Jordan block of the eigenvalue 0, so that A^p exists when p
    exceeds the size of the largest one less 1. `peeled`: A is such a G^T F, whose singular values up to `zero` count as 0.

    Raises:
        DomainError: an eigenvalue lies in (-inf, 0), or A is singular and A^p does not exist.
    """
    if p == 0 or not len(A):
        return np.eye(len(A))
    A, zero, size = _normalised(A, zero)
    head, rational = A[:k, :k], partial(scipy.linalg.fractional_matrix_power, t=2 * p)
    if not singular(head, zero) or not (peeled or singular(head, 0.0) or _on_cut(head).size):
        of_root = rational if p != 0.5 else lambda R: R
        X, size = _principal(A, head, size, "a power that is no integer", lambda w: w**p, of_root)
    elif p > 0:
        U, s, Vh = np.linalg.svd(A)
        zero = max(zero, len(s) * EPS * s[0])
        r = int((s > zero).sum())
        if k == len(A) and (root := _beside_zeros(A, r, zero, p)) is not None:
            return np.float64(size) ** p * root
        F, G = U[:, :r] * s[:r], Vh[:r].T
        X = F @ power(G.T @ F, r, zero, p - 1, peeled=True) @ G.T
    else:
        raise DomainError(
            "this power does not exist: the operator is singular, and its eigenvalue 0 has no negative power. If a positive one "
            "was asked for, 0 has a nilpotent (Jordan) block too large for it, or it was for its gradient, which is infinite at 0"
        )
    with np.errstate(all="ignore"):  # the caller finds an overflow
        return np.float64(size) ** p * X


def _beside_zeros(A: Array, rank: int, zero: float, p: float) -> Array | None:
    """T^p [[I, X], [0, 0]] for A = T [[I, X], [0, 0]] in a Schur basis; None where what counts as zero is no zero block."""
    S, Q, r = scipy.linalg.schur(A, sort=lambda re, im: np.hypot(re, im) > zero)
    if r != rank or not np.abs(S[r:, r:]).max(initial=0.0) <= zero:  # 0 has Jordan blocks
        return None
    root = np.zeros_like(S)
    root[:r, :r] = H = power(S[:r, :r], r, 0.0, p)
    root[:r, r:] = H @ np.linalg.solve(S[:r, :r], S[:r, r:])
    return Q @ root @ Q.T


def _principal(
    A: Array, head: Array, size: float, what: str, of_scalars: Callable[[Array], Array], of_root: Callable[[Array], Array]
) -> tuple[Array, float]:
    """f(A / s) and s `size`: by eigenvectors if A is symmetric; else of_root(R), R R = A / s, if the residuals are small.

    The root comes first because it is computed in real numbers: no rounding then crosses the cut.
    """
    if (bad := _on_cut(head)).size:
        raise DomainError(
            f"{what} is not real here: the operator has the eigenvalue {_show(size * bad)} on the cut (-inf, 0] "
            "of the principal one"
        )
    if (A == A.T).all():
        w, Q = np.linalg.eigh(A)
        return (Q * of_scalars(w)) @ Q.T, size
    B, (scale, order) = scipy.linalg.matrix_balance(A, separate=True)
    order, s = order.astype(int), 2.0 ** round(np.linalg.slogdet(B)[1] / (len(B) * np.log(2)))
    B = B / s  # eigenvalues about 1
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of ill-conditioned arguments
            root = scipy.linalg.sqrtm(B)
            R = root.real
            X = of_root(R)
            back = B if X is R else scipy.linalg.expm(2 * scipy.linalg.logm(R))
            imaginary = max(_norm(root.imag) / _norm(R), _norm(X.imag) / _norm(X))
            error = max(imaginary, _norm(R @ R - B) / _norm(B), _norm(back - B) / _norm(B))
    except (ValueError, ArithmeticError):  # nan or 0 within
        error = np.inf
    if not error <= USABLE:
        w = size * np.linalg.eigvals(A)
        raise DomainError(
            f"{what} has no accurate real value here: up to rounding, the eigenvalue "
            f"{_show(w[[np.argmax(np.abs(np.angle(w)))]])} is a defective one on the cut (-inf, 0] of the principal one"
        )
    result = np.empty_like(B)
    result[order[:, None], order] = X.real * scale[:, None] / scale
    return result, s * size


def singular(A: Array, zero: float) -> bool:
    """Whether A, once balanced, is singular in float64 or has a singular value up to `zero`; [[1, 1e10], [0, 2]] is regular."""
    A, zero, _ = _normalised(A, zero)
    core, alone, plain = _core(A)
    s, size = np.linalg.svd(core, compute_uv=False), np.linalg.norm(plain, 2)
    return bool((np.abs(alone) <= zero).any() or s.min() * size <= max(zero, len(s) * EPS * size) * s.max())


def _core(A: Array) -> tuple[Array, Array, Array]:
    """The irreducible diagonal block of A, balanced; the eigenvalues beside it, which are entries of A; the block as it was."""
    B, low, high, *_ = scipy.linalg.lapack.dgebal(A, scale=1, permute=1)
    core = slice(low, high + 1)
    return B[core, core], np.delete(B.diagonal(), core), scipy.linalg.lapack.dgebal(A, permute=1)[0][core, core]


def _on_cut(A: Array) -> Array:
    """The eigenvalues in (-inf, 0], as far as rounding can tell where they are not defective."""
    if (A == A.T).all():
        w = np.linalg.eigvalsh(A)
        return w[w <= 0]
    core, alone, _ = _core(A)
    w, left, right = scipy.linalg.eig(core, left=True, right=True)  # type: ignore[misc]
    angle = np.abs((left.conj() * right).sum(0))
    rounding = 4 * len(w) * EPS * _norm(core) / np.maximum(angle, 1 / MIXED)
    return np.concatenate([w[(w.real <= 0) & (np.abs(w.imag) <= rounding)], alone[alone <= 0]])


def _normalised(A: Array, zero: float) -> tuple[Array, float, float]:
    """A and `zero` divided by a power of two, which is the third result, so that the largest entry lies in [1, 2)."""
    e = int(np.frexp(np.abs(A).max())[1]) - 1
    return np.ldexp(A, -e), float(np.ldexp(zero, -e)), 2.0**e


def _norm(X: Array) -> float:
    return float(np.linalg.norm(X))


def _show(w: Array) -> str:
    """The eigenvalue nearest to 0, in six digits."""
    z = complex(w[np.argmin(np.abs(w))])
    return f"{z.real:.6g}" if abs(z.imag) <= 1e-12 * abs(z.real) else f"{z:.6g}"


# ------------------------------------------------------------------------------------------------------- any function
def values(phi: Scalars, z: Array) -> Array:
    """phi at complex points."""
    with torch.no_grad():
        result = torch.as_tensor(phi(torch.from_numpy(np.ascontiguousarray(z, dtype=np.complex128))))
        return result.to(torch.complex128).expand(z.shape).numpy()


def require_real(z: Array, image: Array, mirrored: Array) -> None:
    """Raise unless phi is finite at the eigenvalues z and takes conjugate values, `mirrored`, at their conjugates."""
    size = max(1.0, float(np.abs(image[np.isfinite(image)]).max(initial=0.0)))
    finite = np.isfinite(image)
    wrong, why = ~finite, "has no finite value"
    if finite.all():
        wrong, why = ~(np.abs(image - mirrored.conj()) <= 1e-8 * size), "is not real, or not conjugate at its conjugate,"
    if wrong.any():
        raise DomainError(f"phi(A) is not a real operator: phi {why} at the eigenvalue {_show(z[wrong])}")


def analytic(A: Array, phi: Scalars, once: bool = False) -> Array:
    """phi(A) for a real A and a phi that is analytic near its eigenvalues and respects conjugation.

    Raises:
        DomainError: phi(A) is not real, or phi is not analytic near the eigenvalues.
    """
    A, _, size = _normalised(A, 0.0)
    if (A == A.T).all():
        w, Q = np.linalg.eigh(A)
        image = values(phi, size * w)
        require_real(size * w, image, image)
        symmetric: Array = (Q * image.real) @ Q.T
        return symmetric
    T, Q = scipy.linalg.schur(A, output="complex")
    w, norm = T.diagonal().copy(), float(np.linalg.norm(A, 2))
    w[np.abs(w.imag) <= len(w) * EPS * norm] = w[np.abs(w.imag) <= len(w) * EPS * norm].real  # +0: above a cut, as its conjugate
    w, mirror = size * w, size * np.where(w.imag == 0, w, w.conj())
    require_real(w, values(phi, w), values(phi, mirror))
    unit = min(1.0, 1 / max(size, 1e-300))  # phi changes at the size 1 of its argument, or at that of A
    best, least = A, np.inf
    for gap in np.outer((unit, norm) if unit < norm else unit, (0.1, 0.01, 1e-3, 1e-4)).ravel():
        F, error = _parlett(T, Q, lambda z: phi(size * z), gap, unit)
        scale = float(np.abs(F).max()) + TINY
        error = max(error / scale, _norm(A @ (F / scale) - (F / scale) @ A) / norm, _norm(F.imag / scale))
        if error < least:
            best, least = F.real, error
        if least <= ACCURATE:
            break
    if not once and least <= USABLE:  # phi(A^T)^T has other rounding, which differs where phi(A) is too ill-conditioned
        least = max(least, _norm((best - analytic(A.T, lambda z: phi(size * z), once=True).T) / np.abs(best).max(initial=TINY)))
    if not least <= USABLE:
        raise DomainError(
            f"phi(A) has no accurate value: phi is not analytic on a disc round a cluster of eigenvalues such as {_show(w)} "
            f"(estimated relative error {least:.2g})"
        )
    return best


def clusters(points: Array, gap: float) -> Array:
    """The label of each point, two points having one label if a chain of steps up to `gap` joins them."""
    near = scipy.sparse.csr_array(np.abs(points[:, None] - points[None, :]) <= gap)
    return scipy.sparse.csgraph.connected_components(near, directed=False)[1]


def _parlett(T: Array, Q: Array, phi: Scalars, gap: float, unit: float) -> tuple[Array, float]:
    """phi(Q T Q^*) for an upper triangular T, and an estimate of its absolute error."""
    labels = clusters(T.diagonal(), gap)
    sizes: list[int] = []
    for label in dict.fromkeys(labels[::-1].tolist()):  # each cluster in turn is moved to the top
        select = labels == label
        T, Q, *_ = scipy.linalg.lapack.ztrsen(select, T, Q, lwork=max(1, len(T) ** 2))
        labels = np.concatenate([labels[select], labels[~select]])
        sizes.insert(0, int(select.sum()))
    F, error, a = np.zeros_like(T), 0.0, len(T)
    for m in reversed(sizes):
        a, b = a - m, a
        F[a:b, a:b], rough = _taylor(T[a:b, a:b], phi, unit)
        error = max(error, rough)
        if b < len(T):
            right = F[a:b, a:b] @ T[a:b, b:] - T[a:b, b:] @ F[b:, b:]
            X, scale, _ = scipy.linalg.lapack.ztrsyl(T[a:b, a:b], T[b:, b:], right, isgn=-1)
            F[a:b, b:] = X / scale
    return Q @ F @ Q.conj().T, error


def _taylor(T: Array, phi: Scalars, unit: float) -> tuple[Array, float]:
    """phi(T) for an upper triangular T of nearly equal eigenvalues, by its Taylor series at their mean; and an error estimate."""
    m, mean = len(T), T.diagonal().mean()
    if m == 1:
        return values(phi, T), 0.0
    N = T - mean * np.eye(m)
    spread, reach = float(np.abs(N.diagonal()).max()), float(np.abs(N).max())
    nodes = np.exp(2j * np.pi * np.arange(NODES) / NODES)
    best: tuple[float, float, Array] = (np.inf, 1.0, np.zeros(NODES, complex))
    first, last = max(spread, 1e-9 * min(unit, reach), EPS * abs(mean), TINY), 4 * max(1e3 * spread, reach)
    for radius in first * 2.0 ** np.arange(max(12, np.log2(max(last, first) / first))):
        samples = values(phi, mean + radius * nodes)
        if not np.isfinite(samples).all():
            continue
        b = np.fft.fft(samples) / NODES  # the last half: powers of 1/z, absent where phi is analytic in the disc
        growth = np.sum((np.linalg.norm(N) / radius) ** np.arange(min(m, 8)))
        error = float(
            (EPS * np.abs(b).max() + np.abs(b[NODES // 2 :]).max() + np.abs(b[NODES // 2 - 8 : NODES // 2]).max()) * growth
        )
        best = min(best, (error, float(radius), b), key=lambda found: found[0])
    error, radius, b = best
    F, P = b[0] * np.eye(m), np.eye(m)
    for k in range(1, NODES // 2):
        P = P @ N / radius
        F = F + b[k] * P
        if k >= m and np.abs(b).max() * np.linalg.norm(P) <= EPS * EPS * np.linalg.norm(F):
            break
    return F, error
