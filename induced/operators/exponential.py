"""exp(t A) z without exp(t A): a truncated Taylor series in steps whose number depends on A and never on z."""

import math

import numpy as np
import torch
from torch import Tensor

from induced._validate import eager, require_shape
from induced.errors import NotInvertible
from induced.operators.base import LinearOperator, Scalar, per_sample
from induced.operators.krylov import Convergence

THETA = 2.0
"""Norm of t A that one step takes: larger saves products, but the terms then reach e^theta times the result."""

_PROBES, _SWEEPS = 2, 4


def exp_multiply(
    A: LinearOperator,
    z: Tensor,
    t: Scalar = 1.0,
    *,
    tol: float = 0.0,
    norm: float | None = None,
    strict: bool = False,
) -> tuple[Tensor, Convergence]:
    """exp(t A) z by products with A alone: s Taylor steps of t A / s, each cut off where a term no longer counts.

    A - mu I is what is exponentiated, mu its mean diagonal entry, so that the steps pay for the spread of A and not for its
    level. About 6 (float32) or 11 (float64) products for each unit of ||t (A - mu I)||, which a power iteration on (A - mu I)^T
    (A - mu I) estimates from fixed starts. Structures with a closed form (c I + U V^T, diagonals) have `exp(A, t)` instead.

    Arguments:
        A: a square operator on n coordinates; a batch of them meets that of z.
        z: states of shape (*batch, n). Gradients of every order reach z, t and what A holds.
        t: a number of either sign, a tensor (), or one time per sample (*batch,).
        tol: size of the terms that are dropped, relative to the sum; at least, and by default, eps.
        norm: an upper bound of ||A||, which spares the estimate; needed under torch.compile, where values may not be looked at,
            and for an operator without an adjoint.
        strict: raise where the series does not reach `tol`.

    Returns:
        exp(t A) z, and what was done; the residual is the last two terms relative to the sum, or their bound where values may
        not be looked at.

    Raises:
        NotInvertible: A is not square. ShapeError: z has another length. NotConverged: only if `strict`.

    Law:
        `exp_multiply(A, z, t)[0] == exp(A, t)(z)` (laws/test_krylov.py)

    Example:
        >>> from induced.operators import Dense
        >>> J = Dense(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> turned, report = exp_multiply(J, torch.tensor([1.0, 0.0]), torch.pi / 2)
        >>> turned.round(decimals=5).abs(), report.converged
        (tensor([0., 1.]), True)
    """
    if A.shape[0] != A.shape[1]:
        raise NotInvertible(f"only a square operator has an exponential, this one is {A.shape}: {A}")
    require_shape(z, A.shape[1:], "the state of exp_multiply")
    target = max(tol, torch.finfo(z.dtype).eps)
    mu: Scalar = 0.0
    if norm is None:
        mu, norm = _level_and_norm(A, z)
    largest = abs(t) if not isinstance(t, Tensor) else float(t.detach().abs().max()) if t.numel() else 0.0
    steps = max(1, math.ceil(norm * largest / THETA)) if math.isfinite(norm * largest) else 1
    terms, bound = _degree(norm * largest / steps, target)
    looked = eager(z)
    residual, products = 0.0, 0
    h = per_sample(t) / steps
    exponent = h * per_sample(mu)
    level = torch.exp(exponent) if isinstance(exponent, Tensor) else math.exp(exponent)
    for _ in range(steps):
        term, total, before = z, z, math.inf
        # a norm estimated too low costs terms, not accuracy
        for k in range(1, (3 * terms if looked else terms) + 1):
            term = (h / k) * (A(term) - per_sample(mu) * term)
            total = total + term
            products += 1
            if looked:
                after = _relative(term, total)
                left, before = before + after, after
                if left <= target:
                    break
        residual = max(residual, left if looked else bound)
        z = level * total
    report = Convergence("taylor", products, residual, residual <= target)
    return z, report.checked(target, strict)


def _degree(theta: float, target: float) -> tuple[int, float]:
    """The number of terms after which two terms of exp(theta) are below the target, and what they are."""
    term, k = 1.0, 0
    while True:
        k += 1
        before, term = term, term * theta / k
        if before + term <= target or not math.isfinite(term):
            return k, before + term


def _relative(term: Tensor, total: Tensor) -> float:
    """The largest ||term|| / ||total|| over the samples; 0 for states that are zero, inf for what is not finite."""
    if not term.numel():
        return 0.0
    part, whole = (torch.linalg.vector_norm(x.detach(), dim=-1) for x in (term, total))
    ratio = float((part / torch.where(whole > 0, whole, torch.ones_like(whole))).max())
    return ratio if math.isfinite(ratio) else math.inf


def _level_and_norm(A: LinearOperator, z: Tensor) -> tuple[Tensor, float]:
    """mu = the mean of the diagonal, estimated, and ||A - mu I|| by power iteration; both from fixed vectors, no gradients."""
    n = A.shape[0]
    probes = np.random.default_rng(0).standard_normal((_PROBES, *(1,) * len(A.batch), n))
    v = torch.from_numpy(probes).to(z).expand(_PROBES, *A.batch, n)
    if not v.numel():
        return z.new_zeros(()), 0.0
    with torch.no_grad():
        mu = (v * A(v)).sum((0, -1)) / (v * v).sum((0, -1))
        shift = per_sample(mu)
        size = z.new_zeros(())
        for _ in range(_SWEEPS):
            v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
            v = A(v) - shift * v
            size = torch.linalg.vector_norm(v, dim=-1)
            v = A.apply_adjoint(v) - shift * v
    # the largest of a few power iterations is within some ten per cent of the norm
    return mu, 1.1 * float(size.max())
