"""Functions phi(A) of operators: powers, exponential, logarithm, square root, resolvent, and any analytic function.

phi(A) = W (phi(K_1) + ... + phi(c) I) W^H on the reduction of A (`induced.operators.reduction`), so that it keeps the structure
of A; c I + U V^T has phi(c) I + U psi(V^T U) V^T, psi(mu) = (phi(c + mu) - phi(c)) / mu. Functions of small matrices, and c^k,
are computed in float64 (`induced.operators.matrices`).
"""

from collections.abc import Callable

from torch import Tensor

from induced._validate import require_finite
from induced.operators.base import LinearOperator
from induced.operators.checked import checked, held
from induced.operators.linalg import inverse
from induced.operators.lowrank import identity
from induced.operators.matrices import analytic_function, exponential, logarithm
from induced.operators.rules import Scalar, kind


@checked("the exponential", square=True)
def exp(A: LinearOperator, t: Scalar = 1.0) -> LinearOperator:
    """exp(t A), the one-parameter group of A.

    Arguments:
        A: a square operator.
        t: the time, or one for each operator of a batch.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotSquare: A is not square. DomainError: A is not finite, or exp(t A) overflows float64.

    Example:
        >>> import torch
        >>> from induced.operators import Diagonal
        >>> exp(Diagonal(torch.tensor([0.0, 1.0])), 2.0).d
        tensor([1.0000, 7.3891])

    Law:
        `exp(A, s) @ exp(A, t) == exp(A, s + t)` (laws/test_functions.py)
    """
    whole = isinstance(t, float | int) and t == 1
    return _finite((A if whole else A._scaled(A.multiplier(t)))._phi(exponential()), "exp(t A)")


@checked("a power", square=True)
def power(A: LinearOperator, p: float) -> LinearOperator:
    """A^p, as `A ** p`: for an integer the p-fold product (0: the identity; negative: of the inverse), else the principal power.

    Arguments:
        A: a square operator.
        p: a finite real number.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotSquare: A is not square. SingularOperator: p is a negative integer and A is singular.
        DomainError: p is no finite real number, or A is not finite; p is not an integer and A has an eigenvalue in (-inf, 0),
            where A^p is not real; or the eigenvalue 0 with p < 0 or a Jordan block larger than p + 1, where A^p does not
            exist. On backward, where A is singular and p < 1: the derivative of z^p at 0 is infinite. Only a Diagonal and U V^T
            then hold their zero eigenvalues at 0.

    Example:
        >>> import torch
        >>> from induced.operators import Diagonal
        >>> power(Diagonal(torch.tensor([4.0, 9.0])), -0.5).d
        tensor([0.5000, 0.3333])

    Law:
        `power(A, p) @ power(A, q) == power(A, p + q)` (eq. 4; laws/test_functions.py)
    """
    return _finite(A**p, "this power")


def sqrt(A: LinearOperator) -> LinearOperator:
    """A^(1/2), the square root whose eigenvalues have positive real part (or are 0).

    Returns, Raises:
        as `power(A, 0.5)`. A singular A has a root if 0 has as many eigenvectors as its multiplicity says.

    Example:
        >>> import torch
        >>> from induced.operators import Dense
        >>> sqrt(Dense(torch.tensor([[5.0, 4.0], [4.0, 5.0]]))).matrix()
        tensor([[2., 1.],
                [1., 2.]])

    Law:
        `sqrt(A) @ sqrt(A) == A`. Not `sqrt(A @ A) == A`, unless Re lambda > 0 (laws/test_functions.py)
    """
    return power(A, 0.5)


@checked("the logarithm", square=True)
def log(A: LinearOperator) -> LinearOperator:
    """log(A), the real logarithm whose eigenvalues have |Im| < pi.

    Arguments:
        A: a square operator.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotSquare: A is not square.
        DomainError: A is not finite, or has an eigenvalue in (-inf, 0]; the message names it.

    Example:
        >>> import torch
        >>> from induced.operators import Dense
        >>> log(Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))).matrix()
        tensor([[0., 2.],
                [0., 0.]])

    Law:
        `exp(log(A)) == A`. Not `log(exp(A)) == A`, unless |Im lambda| < pi (laws/test_functions.py)
    """
    return A._phi(logarithm())


@checked("the resolvent", square=True)
def resolvent(A: LinearOperator, s: Scalar) -> LinearOperator:
    """(s I - A)^-1 for a real s that is no eigenvalue of A.

    Arguments:
        A: a square operator.
        s: a real number, or a tensor, through which gradients flow.

    Raises:
        NotSquare: A is not square. DomainError: A is not finite.
        SingularOperator: s is an eigenvalue of A at its precision.

    Law:
        `resolvent(A, s) - resolvent(A, t) == (t - s) * resolvent(A, s) @ resolvent(A, t)` (laws/test_functions.py)
    """
    number = identity(A.shape[0], kind(A))._scaled(A.multiplier(s))
    return inverse(A._scaled(-1.0)._plus(number))  # torch.compile traces no signs between operators made in its graph


@checked("a function", square=True)
def function(A: LinearOperator, phi: Callable[[Tensor], Tensor]) -> LinearOperator:
    """phi(A) for an analytic function phi that takes conjugate values at conjugate points.

    Arguments:
        A: a square operator.
        phi: applied to complex128 tensors entry by entry, as `torch.sin` or `lambda z: 1 / (2 - z)`.

    Returns:
        An operator of the structure of A where it has a closed form, else Dense.

    Raises:
        NotSquare: A is not square.
        DomainError: A is not finite; phi(A) is not real, phi has a pole or a cut at an eigenvalue, or is not analytic on a disc
            round nearly equal ones; the message names an eigenvalue.

    Example:
        >>> import torch
        >>> from induced.operators import Diagonal
        >>> function(Diagonal(torch.tensor([0.0, 1.0])), lambda z: 1 / (2 - z)).d
        tensor([0.5000, 1.0000])

    Law:
        `function(A, phi) @ A == A @ function(A, phi)`, `function(A, torch.exp) == exp(A)` (laws/test_functions.py)
    """
    return _finite(A._phi(analytic_function(phi)), "phi(A)")


def _finite(image: LinearOperator, what: str) -> LinearOperator:
    """Raise DomainError where a function of finite numbers is none of the operator's precision."""
    for value in held(image):
        require_finite(value, f"{what} overflows {value.dtype}: it", "use float64, or scale A")
    return image
