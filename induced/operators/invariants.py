"""Numbers that belong to an operator: singular values, rank, norms, condition, trace, determinant and eigenvalues.

All but `rank` take a batch of operators, and have gradients. A second derivative through singular values raises where they
repeat, or where the columns of c I + U V^T or U V^T depend on one another.
"""

from typing import Literal

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import DomainError
from induced.operators.base import LinearOperator
from induced.operators.checked import checked
from induced.operators.krylov import spectral_norm, truncated_eigenvalues
from induced.operators.linalg import absolute, count
from induced.operators.reduction import SignLogDet, SingularValues
from induced.operators.rules import TooLarge

Norm = Literal["spectral", "frobenius", "nuclear"]


@checked("the singular values")
def singular_values(A: LinearOperator) -> SingularValues:
    """The singular values of A without its vectors; repeated ones are counted, not listed.

    Raises:
        DomainError: A is not finite. ShapeError: A has no closed form and is too large to form.

    Law:
        `(times * values**2).sum() == (A.matrix() ** 2).sum()` (laws/test_invariants.py)
    """
    reduction = A._reduction()
    values, times, zero = reduction.singular_values()
    return SingularValues(values.to(reduction.dtype), times, zero)


@checked("the rank", single=True)
def rank(A: LinearOperator, rtol: float | None = None) -> int:
    """The number of singular values above rtol * ||A||; by default of those that rounding can tell from zero, as in `pinv`.

    Raises:
        ShapeError: A is a batch of operators. DomainError: A is not finite.

    Law:
        `rank(A) + kernel(A).shape[1] == n` (laws/test_invariants.py)

    Example:
        >>> from induced.operators import Dense
        >>> rank(Dense(torch.tensor([[1.0, 2.0], [2.0, 4.0]])))
        1
    """
    values, times, zero = A._reduction().singular_values()
    given = absolute(A, rtol)
    return int((times * (values > (zero if given is None else given))).sum())


@checked("a norm")
def norm(A: LinearOperator, kind: Norm = "spectral") -> Tensor:
    """A norm of the singular values: their largest ("spectral"), root of the sum of squares ("frobenius"), or sum ("nuclear").

    Returns:
        The norm, (*batch,), with a finite gradient, one of several where the norm has a kink. The spectral norm of an operator
        without a closed form that is too large to form comes from its products.

    Raises:
        DomainError: another kind of norm, or A is not finite.

    Law:
        `norm(A, kind) == torch.linalg.matrix_norm(A.matrix(), kind)` (laws/test_invariants.py)

    Example:
        >>> from induced.operators import Diagonal
        >>> norm(Diagonal(torch.tensor([3.0, -4.0]))), norm(Diagonal(torch.tensor([3.0, -4.0])), "frobenius")
        (tensor(4.), tensor(5.))
    """
    if kind not in ("spectral", "frobenius", "nuclear"):
        raise DomainError(f"a norm is 'spectral', 'frobenius' or 'nuclear', got {kind!r}")
    try:
        reduction = A._reduction()
    except TooLarge:
        if kind != "spectral":
            raise
        return spectral_norm(A)
    if kind == "frobenius":
        return _finite(reduction.frobenius(), "the Frobenius norm", "")
    values, times, _ = reduction.singular_values(zeros=False, all=kind != "spectral")
    size = values.amax(-1) if kind == "spectral" and values.shape[-1] else (times * values).sum(-1)
    return _finite(size.to(reduction.dtype), f"the {kind} norm", "")


@checked("the condition")
def cond(A: LinearOperator) -> Tensor:
    """The condition ||A|| ||A+|| over all min(m, n) singular values: the largest by the smallest, inf where that is 0.

    Returns:
        The condition, (*batch,); 0 for an operator of shape (m, 0) or (0, n).

    Raises:
        DomainError: A is not finite.

    Law:
        `cond(A) == norm(A) * norm(inverse(A))` (laws/test_invariants.py)
    """
    reduction = A._reduction()
    values, times, _ = reduction.singular_values(zeros=False, all=False)
    if not values.shape[-1]:
        return values.sum(-1)
    largest = values.amax(-1)
    smallest = torch.where(times > 0, values, largest.unsqueeze(-1)).amin(-1)
    return torch.where(largest > 0, largest / smallest, torch.inf).to(reduction.dtype)


@checked("the trace", square=True)
def trace(A: LinearOperator) -> Tensor:
    """The sum of the diagonal, and of the eigenvalues, (*batch,).

    Raises:
        NotSquare: A is not square. DomainError: A is not finite.

    Law:
        `trace(A @ B) == trace(B @ A)` (laws/test_invariants.py)
    """
    return _finite(A._trace(), "the trace", "")


@checked("the determinant", square=True)
def det(A: LinearOperator) -> Tensor:
    """The determinant, (*batch,).

    Raises:
        NotSquare: A is not square; between two spaces only |det| of a square A has a meaning.
        DomainError: A is not finite, or the determinant overflows: `slogdet` has its logarithm.

    Law:
        `det(A @ B) == det(A) * det(B)` (laws/test_invariants.py)
    """
    return _finite(A._det(), "the determinant", "; slogdet has its logarithm")


@checked("the determinant", square=True)
def slogdet(A: LinearOperator) -> SignLogDet:
    """The sign and the logarithm of the absolute value of the determinant, (*batch,) each.

    Raises:
        NotSquare: A is not square. DomainError: A is not finite.

    Law:
        `slogdet(A).sign * slogdet(A).logabs.exp() == det(A)`, `slogdet(exp(A)).logabs == trace(A)` (laws/test_invariants.py)
    """
    return SignLogDet(*A._slogdet())


@checked("the spectrum", square=True)
def eigenvalues(A: LinearOperator, k: int | None = None) -> Tensor:
    """All n eigenvalues with their multiplicities, or the k of largest modulus; O(n r^2) for c I + U V^T and U V^T.

    Arguments:
        A: a square operator, or a batch of them.
        k: how many. An operator without a closed form that is too large to form gives them by its products, without gradients.

    Returns:
        A complex tensor (*batch, n): descending in modulus, then in real part, then in imaginary part (a pair is
        exactly of one modulus, others up to rounding). Gradients exist where the eigenvalues are distinct.

    Raises:
        NotSquare: A is not square. DomainError: A is not finite. ShapeError: k lies outside 0..n, or A is too large.

    Example:
        >>> from induced.operators import Diagonal
        >>> eigenvalues(Diagonal(torch.tensor([1.0, -2.0])))
        tensor([-2.+0.j,  1.+0.j])

    Law:
        `eigenvalues(A).sum() == trace(A)`, those of A^k are their k-th powers (laws/test_spectral.py)
    """
    most = count(k, A.shape[0], "the number of eigenvalues")
    try:
        w = A._eigenvalues()
    except TooLarge:
        if k is None:
            raise
        return truncated_eigenvalues(A, most)[0]
    order = torch.arange(w.shape[-1], device=w.device).expand(w.shape)
    for part in (torch.imag, torch.real, torch.abs):  # stable sorts: the last one decides first
        keys = part(w.detach()).gather(-1, order)
        order = order.gather(-1, keys.sort(dim=-1, descending=True, stable=True).indices)
    return w.gather(-1, order)[..., :most]


def _finite(value: Tensor, what: str, advice: str) -> Tensor:
    """Raise where a number of finite entries is none."""
    if eager(value) and not bool(value.isfinite().all()):
        raise DomainError(f"{what} overflows {value.dtype}{advice}")
    return value
