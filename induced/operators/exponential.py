"""exp(t A) z without exp(t A): a truncated Taylor series in steps whose number depends on A and never on z."""

import math

import numpy as np
import torch
from torch import Tensor

from induced._module import reference
from induced._numerics import scaled_norm
from induced._validate import eager, require_finite, require_like, require_precision, require_shape
from induced.errors import DomainError, NotSquare
from induced.operators.base import LinearOperator
from induced.operators.krylov import Convergence
from induced.operators.rules import Scalar, per_matrix, per_sample

THETA = 3.0
"""Size of t A that one step takes: larger saves products, but the terms then reach e^theta times the result."""

_PROBES, _STARTS, _POWERS = 8, 2, 8


def exp_multiply(
    A: LinearOperator, z: Tensor, t: Scalar = 1.0, *, tol: float = 0.0, norm: float | None = None, strict: bool = False
) -> tuple[Tensor, Convergence]:
    """exp(t A) z by products with A alone: s Taylor steps of t A / s, each cut off where a term no longer counts.

    The steps exponentiate B = A - mu I, mu the mean diagonal entry: they pay for the spread of A and not for its level. Each
    unit of t alpha costs about 6 products in float32 and 9 in float64, where alpha is the least of ||B|| and
    max(||B^p||^(1/p), ||B^(p+1)||^(1/(p+1))), p = 2..7: for A far from normal these lie far below ||B|| (Al-Mohy and Higham
    2011). Power iterations from fixed starts estimate the norms. Operators with a closed form have `exp(A, t)` instead.

    Arguments:
        A: a square operator on n coordinates; a batch of them meets that of z.
        z: states of shape (*batch, n). Gradients of every order reach z, t and what A holds.
        t: a number of either sign, a tensor (), or one time per sample (*batch,).
        tol: size of the terms that are dropped, relative to the sum; at least, and by default, eps.
        norm: an upper bound of ||A||, or of alpha for B = A, which spares the estimate; needed under torch.compile, where
            values may not be looked at, and for an operator without an adjoint.
        strict: raise where the series does not reach `tol`.

    Returns:
        exp(t A) z, and what was done, the estimate of alpha included; the residual is the last two terms relative to the sum
        (largest entries), or their bound where values may not be looked at.

    Raises:
        NotSquare: A is not square. ShapeError: z has another length. DtypeError: z has another dtype than A, or it is not
        float32 or float64. DomainError: A or z holds nan or inf, the result overflows, or alpha leaves no right digit.
        NotConverged: only if `strict`.

    Law:
        `exp_multiply(A, z, t)[0] == exp(A, t)(z)` (laws/test_exp_multiply.py)

    Example:
        >>> from induced.operators import Dense
        >>> J = Dense(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> turned, report = exp_multiply(J, torch.tensor([1.0, 0.0]), torch.pi / 2)
        >>> turned.round(decimals=5).abs(), report.converged
        (tensor([0., 1.]), True)
    """
    if A.shape[0] != A.shape[1]:
        raise NotSquare(f"only a square operator has an exponential, this one has shape {A.shape}: {A}")
    require_shape(z, A.shape[1:], "the state of exp_multiply")
    require_like(z, reference(A), "the state of exp_multiply")
    require_precision(z.dtype, "the state of exp_multiply")
    require_finite(z, "the state of exp_multiply")
    t = per_sample(t, z, torch.broadcast_shapes(z.shape[:-1], A.batch))  # type: ignore[no-untyped-call]
    eps = torch.finfo(z.dtype).eps
    target = max(tol, eps)
    largest = abs(t) if not isinstance(t, Tensor) else float(t.detach().abs().max()) if t.numel() else 0.0
    mu, products, residual = z.new_zeros(()), 0, 0.0
    if norm is None:
        mu, norm, products = _level_and_size(A, z, largest)
    theta = norm * largest
    if not theta * eps < 1:
        raise DomainError(f"t A has size {theta:.3g}, at which no digit of exp(t A) is right in {z.dtype}: take a smaller t")
    steps = max(1, math.ceil(theta / THETA))
    terms, bound = _degree(theta / steps, target)
    looked = eager(z) and z.numel() > 0 and 0 not in getattr(t, "shape", ())
    h, shift = t / steps, per_matrix(mu, 1)
    level = (h * shift + z.new_zeros(())).exp()
    for _ in range(steps):
        term, total, before = z, z, math.inf
        # a size estimated too low costs terms, not accuracy
        for k in range(1, (3 * terms if looked else terms) + 1):
            term = (h / k) * (A(term) - shift * term)
            total = total + term
            products += 1
            if looked:
                part, whole = (x.detach().abs().amax(-1) for x in (term, total))
                after = float((part / torch.where(whole > 0, whole, 1.0)).nan_to_num(math.inf, math.inf).max())
                left, before = before + after, after
                if left <= target:
                    break
        residual = max(residual, left if looked else bound)
        z = level * total
    require_finite(z, "exp(t A) z", f"it overflows {z.dtype}, or A holds nan or inf")
    report = Convergence("taylor", products, residual, residual <= target)
    return z, report.checked(target, strict)


def _degree(theta: float, target: float) -> tuple[int, float]:
    """The number of terms after which two terms of exp(theta) are below the target, and what they are."""
    term, k, left = 1.0, 0, math.inf
    while left > target:
        k += 1
        left, term = term + term * theta / k, term * theta / k
    return k, left


def _level_and_size(A: LinearOperator, z: Tensor, largest: float) -> tuple[Tensor, float, int]:
    """mu, alpha of B = A - mu I, and the number of products; from fixed vectors, without gradients."""
    n, k = A.shape[0], min(A.shape[0], _PROBES)
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal((k, n)))
    probes = torch.linalg.qr(draws)[0] if k == n else torch.nn.functional.normalize(draws, dim=-1)
    v = probes.to(z.device, z.dtype).reshape(k, *(1,) * len(A.batch), n).expand(k, *A.batch, n)
    if not v.numel():
        return z.new_zeros(()), 0.0, 0
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        images = A(v)
        require_finite(images, f"a product with {A}", "A holds nan or inf, or its products overflow")
        levels = (v * images).sum(-1)
        mu = levels.mean(0)
        # fewer probes than coordinates leave an error in the mean: a level within it would widen the spread
        if k < n:
            mu = torch.where(mu.abs() > 2 * levels.std(0) / k**0.5, mu, 0.0)
        v, alpha, before, products = v[:_STARTS], math.inf, 0.0, 1
        for p in range(1, _POWERS + 1):
            sweeps = 4 // min(p, 2)
            after, v = _size(A, per_matrix(mu, 1), v, p, sweeps)
            products += 2 * p * sweeps
            alpha, before, last = min(alpha, max(before, after)), after, alpha
            # near a normal operator no power says more, and few steps cost less than a better estimate of them
            if after > 0.9 * last or alpha * largest <= 2 * p:
                break
    return mu, 1.1 * alpha, products


def _size(A: LinearOperator, shift: Scalar, v: Tensor, p: int, sweeps: int) -> tuple[float, Tensor]:
    """||B^p||^(1/p) by power iteration, within some ten per cent and from below, and the last vectors."""
    for product in (A, A.apply_adjoint) * sweeps:
        sizes = []
        for _ in range(p):
            v = product(v) - shift * v
            sizes.append(scaled_norm(v))
            v = v / sizes[-1].clamp_min(torch.finfo(v.dtype).tiny).unsqueeze(-1)
    return float(torch.stack(sizes).log().mean(0).max().exp()), v
