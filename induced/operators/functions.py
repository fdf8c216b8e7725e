"""Functions phi(A) of operators: powers, exponential, logarithm, square root, resolvent, and any analytic function.

| structure | phi(A) | cost |
|---|---|---|
| Diagonal | phi(d), entry by entry | O(n) |
| c I + U V^T | phi(c) I + U psi(M) V^T, M = V^T U, psi(M) the upper right block of phi([[c I + M, I], [0, c I]]) | O(n r^2) |
| U V^T | as c = 0; A^p = U M^(p - 1) V^T | O(n r^2) |
| any other | `induced.operators.matrices` on its matrix | O(n^3) |

Functions of small matrices, and c^k, are computed in float64. Orthogonal operators, projections and convolutions keep forms of
their own in their modules.
"""

import math
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import NotInvertible
from induced.operators import matrices
from induced.operators.base import LinearOperator, Scalar, Scaled, per_sample
from induced.operators.dense import Dense, Diagonal
from induced.operators.linalg import Inverse, inverse
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, compress, identity
from induced.operators.matrices import Phi, divided_difference

__all__ = ["exp", "function", "log", "power", "resolvent", "sqrt"]


@singledispatch
def _evaluate(A: LinearOperator, phi: Phi) -> LinearOperator:
    M = A.matrix()
    return Dense(phi.of_matrix(M, torch.finfo(M.dtype).eps * M.detach().double().norm(dim=(-2, -1))))


@_evaluate.register
def _(A: Diagonal, phi: Phi) -> LinearOperator:
    return Diagonal(phi.of_scalars(A.d.double()).to(A.d))


@_evaluate.register
def _(A: LowRank, phi: Phi) -> LinearOperator:
    return _evaluate(ScaledIdentityPlusLowRank(0.0, A.U, A.V), phi)


@_evaluate.register
def _(A: ScaledIdentityPlusLowRank, phi: Phi) -> LinearOperator:
    c, U, V = (part.double() for part in A.parts())
    M = V.mT @ U
    if U.shape[-1] >= A.shape[0]:  # c need not be an eigenvalue
        return _evaluate.dispatch(LinearOperator)(A, phi)
    value = phi.of_scalars(c)
    if phi.cut and _singular(c, M, A):
        if tracked(A) or 2 * U.shape[-1] >= A.shape[0]:
            return _evaluate.dispatch(LinearOperator)(A, phi)
        Q, K = on_span(A)  # the singular values of K are those of A
        image = phi.of_matrix(K, _zero(A)) - value * torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
        return ScaledIdentityPlusLowRank(value.to(A.U), (Q @ image).to(A.U), Q.to(A.U))
    block = divided_difference(c, M, lambda X: phi.of_matrix(X, 0.0))
    return ScaledIdentityPlusLowRank(value.to(A.U), (U @ block).to(A.U), A.V)


def _zero(A: ScaledIdentityPlusLowRank) -> float:
    c, U, V = (part.detach().double() for part in A.parts())
    return 2 * U.shape[-1] * torch.finfo(A.U.dtype).eps * float(c.abs() + U.norm() * V.norm())


def on_span(A: ScaledIdentityPlusLowRank) -> tuple[Tensor, Tensor]:
    """Q, K in float64 with A = Q K Q^T + c (I - Q Q^T), Q an orthonormal basis of a space that holds span[U V]."""
    c, U, V = (part.double() for part in A.parts())
    Q, R = torch.linalg.qr(torch.cat([U, V], -1))
    r = U.shape[-1]
    return Q, c * torch.eye(R.shape[0], dtype=R.dtype, device=R.device) + R[:, :r] @ R[:, r:].mT


def tracked(A: LinearOperator) -> bool:
    """Whether gradients may be asked for; a basis has none where columns depend on one another."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*A.parameters(), *A.buffers()))


def _singular(c: Tensor, M: Tensor, A: ScaledIdentityPlusLowRank) -> bool:
    """Whether c I + M, and so A, is singular at its precision; not asked of a batch, or where values may not be looked at."""
    if A.batch or not eager(M):
        return False
    B = c * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) + M
    return matrices.singular(B, _zero(A))


@_evaluate.register
def _(A: Inverse, phi: Phi) -> LinearOperator:
    return _evaluate(A.factorised(), phi)


def _square(A: LinearOperator, what: str) -> None:
    """Raise NotInvertible unless A maps R^n to itself."""
    if A.shape[0] != A.shape[1]:
        raise NotInvertible(f"{what} needs a square operator, got shape {A.shape}: {A}")


def _like(A: LinearOperator) -> Tensor:
    like = A.reference()
    return torch.zeros(()) if like is None else like


# ------------------------------------------------------------------------------------------------------------ exponential
@singledispatch
def exp(A: LinearOperator, t: Scalar = 1.0) -> LinearOperator:
    """exp(t A), the one-parameter group of A.

    Arguments:
        A: a square operator.
        t: the time, or one for each operator of a batch.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotInvertible: A is not square.

    Example:
        >>> import torch
        >>> exp(Diagonal(torch.tensor([0.0, 1.0])), 2.0).d
        tensor([1.0000, 7.3891])

    Law:
        `exp(A, s) @ exp(A, t) == exp(A, s + t)` (laws/test_functions.py)
    """
    _square(A, "the exponential")
    return _evaluate(A, matrices.exponential(t))


@exp.register
def _(A: Diagonal, t: Scalar = 1.0) -> LinearOperator:
    return Diagonal(torch.exp(per_sample(t) * A.d))


@exp.register
def _(A: Scaled, t: Scalar = 1.0) -> LinearOperator:
    return exp(A.operator, t * A.a)


# ----------------------------------------------------------------------------------------------------------------- powers
@singledispatch
def power(A: LinearOperator, p: float) -> LinearOperator:
    """A^p: for an integer p the p-fold product (the identity for 0, the inverse's below it), else the principal power.

    Arguments:
        A: a square operator.
        p: a real number.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotInvertible: A is not square, or p is not a finite real number.
        SingularOperator: p is a negative integer and A is singular.
        DomainError: p is not an integer and A has an eigenvalue in (-inf, 0), where A^p is not real; or the eigenvalue 0 with
            p < 0 or a Jordan block larger than p + 1, where A^p does not exist. On backward, where A is singular and p < 1: the
            derivative of z^p at 0 is infinite. Only a Diagonal and U V^T then hold their zero eigenvalues at 0.

    Example:
        >>> import torch
        >>> power(Diagonal(torch.tensor([4.0, 9.0])), -0.5).d
        tensor([0.5000, 0.3333])

    Law:
        `power(A, p) @ power(A, q) == power(A, p + q)` (eq. 4; laws/test_functions.py)
    """
    _square(A, "a power")
    if not isinstance(p, int | float) or not math.isfinite(p):
        raise NotInvertible(f"A^p takes a finite real number p, got {p!r}")
    if p != int(p):
        return _real_power(A, p)
    if p == 0:
        return identity(A.shape[0], _like(A))
    return A ** int(p) if p > 0 else inverse(A) ** int(-p)


@singledispatch
def _real_power(A: LinearOperator, p: float) -> LinearOperator:
    return _evaluate(A, matrices.real_power(p))


@_real_power.register
def _(A: ScaledIdentityPlusLowRank, p: float) -> LinearOperator:
    if not A.batch and eager(A.c) and bool(A.c == 0):
        return _real_power(LowRank(A.U, A.V), p)
    return _real_power.dispatch(LinearOperator)(A, p)


@_real_power.register
def _(A: LowRank, p: float) -> LinearOperator:
    if p < 0 or A.batch or not eager(A.U):
        return _real_power.dispatch(LinearOperator)(A, p)
    _, U, V = compress(*A.parts())
    zero = 2 * U.shape[-1] * torch.finfo(U.dtype).eps * float(U.detach().norm() * V.detach().norm())
    M = V.double().mT @ U.double()
    if p < 1 and matrices.singular(M, zero):
        # superfluous columns, or a Jordan block of 0
        return _real_power(Dense(A.matrix()), p)
    return LowRank((U.double() @ matrices.real_power(p - 1).of_matrix(M, zero)).to(U), V)


def sqrt(A: LinearOperator) -> LinearOperator:
    """A^(1/2), the square root whose eigenvalues have positive real part (or are 0).

    Returns, Raises:
        as `power(A, 0.5)`. A singular A has a root if 0 has as many eigenvectors as its multiplicity says.

    Example:
        >>> import torch
        >>> sqrt(Dense(torch.tensor([[5.0, 4.0], [4.0, 5.0]]))).matrix()
        tensor([[2., 1.],
                [1., 2.]])

    Law:
        `sqrt(A) @ sqrt(A) == A`. Not `sqrt(A @ A) == A`, unless Re lambda > 0 (laws/test_functions.py)
    """
    return power(A, 0.5)


# -------------------------------------------------------------------------------------------- logarithm, resolvent, any phi
@singledispatch
def log(A: LinearOperator) -> LinearOperator:
    """log(A), the real logarithm whose eigenvalues have |Im| < pi.

    Arguments:
        A: a square operator.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotInvertible: A is not square.
        DomainError: A has an eigenvalue in (-inf, 0]; the message names it.

    Example:
        >>> import torch
        >>> log(Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))).matrix()
        tensor([[0., 2.],
                [0., 0.]])

    Law:
        `exp(log(A)) == A`. Not `log(exp(A)) == A`, unless |Im lambda| < pi (laws/test_functions.py)
    """
    _square(A, "the logarithm")

    return _evaluate(A, matrices.logarithm())


@singledispatch
def resolvent(A: LinearOperator, s: Scalar) -> LinearOperator:
    """(s I - A)^-1 for a real s that is no eigenvalue of A.

    Arguments:
        A: a square operator.
        s: a real number, or a tensor, through which gradients flow.

    Raises:
        NotInvertible: A is not square.
        SingularOperator: s is an eigenvalue of A at its precision.

    Law:
        `resolvent(A, s) - resolvent(A, t) == (t - s) * resolvent(A, s) @ resolvent(A, t)` (laws/test_functions.py)
    """
    _square(A, "the resolvent")
    return inverse(s * identity(A.shape[0], _like(A)) - A)


@resolvent.register
def _(A: Diagonal, s: Scalar) -> LinearOperator:
    return inverse(Diagonal(per_sample(s) - A.d))


@singledispatch
def function(A: LinearOperator, phi: Callable[[Tensor], Tensor]) -> LinearOperator:
    """phi(A) for an analytic function phi that takes conjugate values at conjugate points.

    Arguments:
        A: a square operator.
        phi: applied to complex128 tensors entry by entry, as `torch.sin` or `lambda z: 1 / (2 - z)`.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotInvertible: A is not square.
        DomainError: phi(A) is not real, phi has a pole or a cut at an eigenvalue, or is not analytic on a disc round nearly equal
            ones; the message names an eigenvalue.

    Example:
        >>> import torch
        >>> function(Diagonal(torch.tensor([0.0, 1.0])), lambda z: 1 / (2 - z)).d
        tensor([0.5000, 1.0000])

    Law:
        `function(A, phi) @ A == A @ function(A, phi)`, `function(A, torch.exp) == exp(A)` (laws/test_functions.py)
    """
    _square(A, "a function")

    return _evaluate(A, matrices.analytic_function(phi))
