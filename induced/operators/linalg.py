"""Singular value decomposition, pseudoinverse, inverse, polar factors and solutions of operators; kernel and image.

Each is written once, on reductions (`induced.operators.reduction`), or in the class of an operator that knows a better form. What
`+` and `@` of two operators return (c I is `identity(n) * c`):

| + | Dense | Diagonal | U V^T | c I | c I + U V^T | other |
|---|---|---|---|---|---|---|
| Dense | Dense | Dense | Dense | Dense | Dense | Dense |
| Diagonal | Dense | Diagonal | Sum | Diagonal | Sum | Sum |
| U V^T | Dense | Sum | U V^T | c I + U V^T | c I + U V^T | Sum |
| c I | Dense | Diagonal | c I + U V^T | c I | c I + U V^T | Sum |
| c I + U V^T | Dense | Sum | c I + U V^T | c I + U V^T | c I + U V^T | Sum |

| left @ right | Dense | Diagonal | U V^T | c I | c I + U V^T | other |
|---|---|---|---|---|---|---|
| Dense | Dense | Dense | U V^T | Dense | Dense | Dense |
| Diagonal | Dense | Diagonal | U V^T | Diagonal | Product | Product |
| U V^T | U V^T | U V^T | U V^T | U V^T | U V^T | U V^T |
| c I | Dense | Diagonal | U V^T | c I | c I + U V^T | scaled |
| c I + U V^T | Dense | Product | U V^T | c I + U V^T | c I + U V^T | Product |
| other | Product | Product | U V^T | scaled | Product | Product |

Products of two classes alike keep them (blocks, permutations, reflections, convolutions); so do the sums of blocks, and of
RotationScaling, with c I. Orthogonal, Selection or Projection @ Dense is Dense. A batch of operators without a closed form of its
own gives a Sum or a Product. Sums and products of U V^T and c I + U V^T recompress: what is dropped has operator norm at most
eps * (|c| + ||U V^T||). Operators in half precision apply, add and multiply, in float32 where torch has no other way; functions
of them need float32 or float64, and say so.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._module import reference
from induced._registry import saved_as
from induced._validate import eager, require_cutoff, require_like, require_shape
from induced.errors import NotSquare, SingularOperator
from induced.operators.base import Dense, LinearOperator, brief
from induced.operators.blocks import BlockDiagonal, DirectSum
from induced.operators.checked import checked, held
from induced.operators.diagonal import Entries, Selection
from induced.operators.factors import tracked
from induced.operators.kept import Mark
from induced.operators.krylov import iterative_solve, truncated_svd, whole
from induced.operators.orthogonal import off
from induced.operators.reduction import Reduction, SignLogDet, SVDFactors
from induced.operators.rules import OfOne, Scalar, TooLarge


@final
class Polar(NamedTuple):
    """A = Q P: Q a partial isometry of the shape of A, P = (A^T A)^(1/2)."""

    Q: LinearOperator
    P: LinearOperator


def absolute(A: LinearOperator, rtol: float | None) -> Tensor | None:
    """rtol * ||A||, (*batch,); None for the default, what rounding leaves of a zero."""
    if rtol is None:
        return None
    require_cutoff(rtol, "a cut-off relative to ||A||")
    values = A._reduction().singular_values(zeros=False).values.detach()
    return rtol * (values.amax(-1) if values.shape[-1] else values.sum(-1))


def count(k: int | None, most: int, what: str) -> int:
    """k as an int in 0..most, which it is by default; raises ShapeError where it is no integer, or out of range."""
    return most if k is None else whole(k, 0, most, what)


# ------------------------------------------------------------------------------------------------------------------ svd
@checked("the svd", single=True)
def svd(A: LinearOperator, rank: int | None = None) -> SVDFactors:
    """The `rank` largest singular triplets of A, or all min(m, n) of them; `(U, values, V)` with A = U diag(values) V^T.

    Gradients through the values are finite always. Those through the vectors exist where the values are distinct and not zero;
    elsewhere the backward pass raises. So do second derivatives of c I + U V^T and U V^T with dependent columns. An
    operator without a closed form that is too large to form (4096^2 entries) is decomposed by its products, if `rank` is given.

    Raises:
        ShapeError: `rank` lies outside 0..min(m, n), A is a batch of operators, or it is too large.
        DomainError: A is not finite; or in the backward pass, a derivative of singular vectors of a repeated value.

    Law:
        `A(V[:, i]) == values[i] * U[:, i]`, U and V orthonormal (Prop 2.9; laws/test_inverses.py)
    """
    k = count(rank, min(A.shape), f"the rank of an svd of an operator of shape {A.shape}")
    try:
        return SVDFactors(*A._svd(k))
    except TooLarge:
        if rank is None or tracked(*held(A)):
            raise
        return truncated_svd(A, k)[0]


# ------------------------------------------------------------------------------------------------- inverse, pseudoinverse
@checked("the pseudoinverse")
def pinv(A: LinearOperator, rtol: float | None = None) -> LinearOperator:
    """The Moore-Penrose inverse A+.

    Gradients are finite at repeated singular values and at rank-deficient A; there they are those at fixed rank, for A+ is not
    continuous where the rank changes.

    Arguments:
        A: an operator, or a batch of them.
        rtol: singular values up to rtol * ||A|| count as zero; by default those that rounding cannot tell from zero, up to
            eps times the size of the block that was factored times the norm of what was mixed to form it
            (docs/theory/numerical_honesty.md).

    Raises:
        DomainError: A is not finite, or rtol is no finite number >= 0.

    Law:
        the four Penrose equations (Lemma 4.1; laws/test_inverses.py)
    """
    return A._pinv(absolute(A, rtol))


@checked("the inverse", square=True)
def inverse(A: LinearOperator) -> LinearOperator:
    """A^-1, with finite gradients, also at repeated singular values.

    Raises:
        NotSquare: A is not square. DomainError: A is not finite.
        SingularOperator: a singular value is no larger than rounding leaves of a zero; `pinv` is the inverse on the image.
    """
    return A._inverse()


@checked("the polar decomposition", single=True)
def polar(A: LinearOperator) -> Polar:
    """A = Q P with P = (A^T A)^(1/2), symmetric positive semidefinite, and Q a partial isometry with the kernel of A.

    Q is orthogonal where A is invertible, and has orthonormal columns (rows) where A has full column (row) rank. Singular values
    count as zero as in `pinv`.

    Arguments:
        A: an operator of any shape (m, n).

    Returns:
        `(Q, P)`, of shapes (m, n) and (n, n), in the structure of A; Dense where c I + U V^T or U V^T track gradients. Their
        derivatives, of every order, are finite at repeated singular values too; where A is singular, they are taken along
        operators of the same rank.

    Raises:
        ShapeError: A is a batch of operators. DomainError: A is not finite.

    Example:
        >>> import torch
        >>> Q, P = polar(Dense(torch.tensor([[0.0, -2.0], [3.0, 0.0]])))
        >>> P.matrix()
        tensor([[3., 0.],
                [0., 2.]])

    Law:
        `Q @ P == A`, `P @ P == A.H @ A`, `Q.H @ Q @ P == P` (laws/test_spectral.py)
    """
    return Polar(*A._polar())


@checked("a solution")
def solve(A: LinearOperator, b: Tensor, rtol: float | None = None) -> Tensor:
    """The shortest z for which A z is nearest to b: A^-1 b where A has an inverse, else A+ b.

    Arguments:
        A: an operator of shape (m, n).
        b: right-hand sides (*batch, m).
        rtol: singular values up to rtol * ||A|| count as zero; by default as in `pinv`.

    Returns:
        z of shape (*batch, n), with the gradients of `pinv`; without any, by products with A and A^T (LSMR), where A has no
        closed form and is too large to form.

    Raises:
        ShapeError, DtypeError: b is not made for A. DomainError: A is not finite.

    Law:
        `solve(A, b) == pinv(A)(b)`, `A.H(A(solve(A, b)) - b) == 0` (laws/test_solutions.py)

    Example:
        >>> from induced.operators import Diagonal
        >>> solve(Diagonal(torch.tensor([2.0, 0.0])), torch.tensor([4.0, 1.0]))
        tensor([2., 0.])
    """
    require_shape(b, A.shape[:1], "the right-hand side")
    require_like(b, reference(A), "the right-hand side")
    try:
        if rtol is None and A.shape[0] == A.shape[1] and all(map(eager, (b, *held(A)))):
            try:
                inverted = A._inverse()
                if isinstance(A, Dense) and not A.batch:  # a solution by LU is more accurate than a product with the inverse
                    rows: Tensor = torch.linalg.solve(A.A.mT, b.reshape(b.shape[:-1].numel(), A.shape[0]), left=False)
                    return rows.reshape(b.shape)
                return inverted(b)
            except SingularOperator:
                pass
        return A._pinv(absolute(A, rtol))(b)
    except TooLarge:
        if rtol is not None or tracked(*held(A)):
            raise
        return iterative_solve(A, b)[0]


# -------------------------------------------------------------------------------------------------------- kernel, image
def kernel(A: LinearOperator, rtol: float | None = None) -> LinearOperator:
    """{z : A z = 0}, as an operator from R^k with orthonormal columns that span it.

    A basis is not unique and carries no gradient. Singular values count as zero as in `pinv`. The kernel of a wide A or of
    U V^T is held by the few directions orthogonal to it.

    Raises:
        ShapeError: A is a batch of operators. DomainError: A is not finite.

    Law:
        `A(kernel(A)(y)) == 0`, `kernel(A).shape[1] + rank(A) == n` (laws/test_solutions.py)

    Example:
        >>> from induced.operators import Diagonal
        >>> kernel(Diagonal(torch.tensor([2.0, 0.0]))).matrix()
        tensor([[0.],
                [1.]])
    """
    return kernel_span(A, rtol).basis


def image(A: LinearOperator, rtol: float | None = None) -> LinearOperator:
    """{A z}, as an operator from R^k with orthonormal columns that span it. Singular values count as zero as in `pinv`.

    A basis is not unique and carries no gradient.

    Raises:
        ShapeError: A is a batch of operators. DomainError: A is not finite.

    Law:
        `Q @ Q.H @ A == A` for Q = image(A) (laws/test_solutions.py)
    """
    return image_span(A, rtol).basis


@final
class Spanned(NamedTuple):
    """Orthonormal columns, and the sine of the angle by which their span may be off.

    That is what counts as zero over the least singular value that does not.
    """

    basis: LinearOperator
    accuracy: float


@checked("the kernel", single=True)
def kernel_span(A: LinearOperator, rtol: float | None = None) -> Spanned:
    """`kernel(A, rtol)`, and how well it is known."""
    with torch.no_grad():
        return _spanned(A._reduction(), absolute(A, rtol), kernel=True)


@checked("the image", single=True)
def image_span(A: LinearOperator, rtol: float | None = None) -> Spanned:
    """`image(A, rtol)`, and how well it is known."""
    with torch.no_grad():
        return _spanned(A._reduction(), absolute(A, rtol), kernel=False)


def _spanned(R: Reduction | DirectSum, zero: Tensor | None, *, kernel: bool) -> Spanned:
    """The span of the right singular vectors of the values that count as zero, or of the left ones of the others."""
    side = R.adjoint() if kernel else R
    if isinstance(R, DirectSum) or isinstance(side, DirectSum):
        parts = [_spanned(part, zero, kernel=kernel) for part in R.parts]  # type: ignore[union-attr]
        basis: LinearOperator = BlockDiagonal(*(part.basis for part in parts))
        accuracy = max(part.accuracy for part in parts)
    else:
        u, s = side.W.factors(side.blocks)[0], R.values()  # as `rank` has them: those of the adjoint differ by rounding
        kept, stands = s > R.zero(s, zero), True if R.W.times is None else (R.W.times > 0).unsqueeze(-1)
        chosen, others = (where & stands for where in ((~kept, kept) if kernel else (kept, ~kept)))
        # vectors that no triplet has: of a block with more rows than columns, or off the frame
        rest = bool(R.number().abs() <= R.zero_of_c(zero)) == kernel if R.c is not None and R.repeated else kernel
        incomplete = u.shape[-1] < u.shape[-2] or R.repeated > 0 or side.W.dim > side.Z.dim
        where = others if rest and incomplete else chosen
        j, i = where.nonzero(as_tuple=True)
        y = u[j, :, i]
        if not incomplete and not bool(others.any()):  # all of R^dim
            basis = Selection(torch.arange(side.W.dim, device=j.device), side.W.dim, dtype=R.dtype).H
        elif isinstance(side.W, Entries):
            basis = side.W.span(j, y) if where is chosen else side.W.others(j)
        elif rest and incomplete:
            basis = off(side.W.span(j, y).matrix(side.W.dim).to(R.dtype))
        else:
            basis = side.W.span(j, y)
        basis = Dense(basis.A.to(R.dtype)) if isinstance(basis, Dense) else basis
        shares = (R.zero(s, zero) / s)[kept].flatten().tolist()
        if R.c is not None and R.repeated:
            shares += [share for share in (R.zero_of_c(zero) / R.c.abs()).flatten().tolist() if share < 1]
        accuracy = max(shares, default=0.0)
    return Spanned(basis if side.left is None else side.left @ basis, accuracy)


# ----------------------------------------------------------------------------------------------------------- lazy inverse
def _all_fit(marks: list[Mark], tensors: list[Tensor]) -> bool:
    return len(marks) == len(tensors) and all(mark.fits(t) for mark, t in zip(marks, tensors, strict=True))


@final
@saved_as("operators.Inverse", "operator")
class Inverse(OfOne, LinearOperator):
    """A^-1, factorised on first use and again whenever the tensors of A have changed; never stale.

    Each use compares the tensors of A with what they were (`induced.operators.kept`), which costs as much as a product of A with
    one vector, and on a GPU waits for it. `inverse(A)` is the inverse of A as it is now, and compares nothing.

    Raises:
        NotSquare: A is not square. SingularOperator, on use: A has no inverse at its precision.
    """

    def __init__(self, operator: LinearOperator) -> None:
        if operator.shape[0] != operator.shape[1]:
            raise NotSquare(f"the inverse needs a square operator, got shape {operator.shape}: {operator}")
        super().__init__(operator.shape)
        self.operator = operator
        # what was factorised, its marks, and the inverse; in a tuple: no submodule, so never saved or trained
        self._kept: tuple[LinearOperator, list[Mark], LinearOperator] | None = None

    @property
    def orthogonal(self) -> bool:
        return self.operator.orthogonal

    def factorised(self) -> LinearOperator:
        """A^-1 as an operator of the cheapest structure."""
        tensors, kept, recorded = list(held(self.operator)), self._kept, torch.is_grad_enabled()
        if torch.compiler.is_compiling() or not all(
            eager(t) and not t.is_inference() and not (recorded and t.requires_grad) for t in tensors
        ):
            return inverse(self.operator)  # where gradients are recorded, or values not looked at or not counted
        if kept is None or kept[0] is not self.operator or not _all_fit(kept[1], tensors):
            kept = self._kept = self.operator, [Mark.of(t) for t in tensors], inverse(self.operator)
        return kept[2]

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_kept": None}

    def forward(self, z: Tensor) -> Tensor:
        return self.factorised()(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.factorised().apply_adjoint(w)

    def matrix(self, limit: int = 4096) -> Tensor:
        return self.factorised().matrix(limit)

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        return self.factorised().reduced(same_frames)

    def _inverse(self) -> LinearOperator:
        return self.operator

    def _slogdet(self) -> SignLogDet:
        sign, logabs = self.operator._slogdet()
        return SignLogDet(sign, -logabs)

    def _det(self) -> Tensor:
        return 1.0 / self.operator._det()

    def _adjoint(self) -> LinearOperator:
        return Inverse(self.operator.H)

    def _plus(self, other: LinearOperator) -> LinearOperator:
        return self.factorised() + other

    def _times(self, other: LinearOperator) -> LinearOperator:
        return self.factorised() @ other

    def _scaled(self, a: Scalar) -> LinearOperator:
        return self.factorised() * a

    def _power(self, k: int) -> LinearOperator:
        return self.factorised() ** k

    def extra_repr(self) -> str:
        return brief(self.operator)
