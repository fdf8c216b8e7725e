"""Errors of singular values, invariants, solutions and recompression."""

from collections.abc import Callable

import torch

from induced.errors import DomainError, DtypeError, NotSquare, ShapeError, SingularOperator
from induced.operators import (
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    eigenvalues,
    exp,
    image,
    inverse,
    kernel,
    norm,
    pinv,
    polar,
    rank,
    slogdet,
    solve,
    svd,
    trace,
)
from induced.operators.base import Product, Scaled, Sum
from induced.operators.krylov import truncated_svd
from induced.operators.rules import TooLarge
from proofs_tests.units.case import Case

WIDE, SQUARE, SQUARE_16 = Dense(torch.ones(2, 3)), Dense(torch.eye(2)), Dense(torch.eye(2).bfloat16())
TALL = LowRank(torch.ones(3, 1), torch.ones(2, 1))
BATCH = LowRank(torch.ones(5, 6, 1), torch.ones(6, 1))
HUGE = Sum(Diagonal(torch.arange(1.0, 4098.0)), LowRank(torch.ones(4097, 1), torch.ones(4097, 1)))
NAN = Dense(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
LARGEST = Dense(3e38 * torch.eye(2))


def trained() -> LowRank:
    return LowRank(torch.nn.Parameter(torch.ones(6, 1)), torch.ones(6, 1))


def through_vectors(A: Dense | LowRank | ScaledIdentityPlusLowRank, i: int) -> None:
    """Ask for the derivative of an entry of the i-th left singular vector."""
    svd(A).U[0, i].backward()


def too_large() -> LinearOperator:
    """A trained c I + U V^T of more than 4096^2 entries behind a reflection."""
    U = torch.nn.Parameter(torch.ones(4097, 1) / 100)
    return Product(Householder(torch.ones(1, 4097)), ScaledIdentityPlusLowRank(1.0, U, torch.ones(4097, 1) / 100))


def second_derivative(A: LinearOperator, f: Callable[[LinearOperator], torch.Tensor] = norm) -> None:
    """Ask for the derivative of the derivative of a function of A, at the first parameter of A."""
    (U,) = A.parameters()
    (gradient,) = torch.autograd.grad(f(A), U, create_graph=True)
    gradient.sum().backward()


def not_formed(f: Callable[[LinearOperator], object]) -> Case:
    return Case(TooLarge, r"4097 x 4097.* 4096\^2 entries.*Dense\(A.matrix\(limit=4097\)\).*: Sum\(Diagonal", lambda: f(HUGE))


ALL: tuple[Callable[[LinearOperator], object], ...] = (
    svd,
    pinv,
    inverse,
    polar,
    kernel,
    image,
    rank,
    cond,
    slogdet,
    eigenvalues,
    exp,
)
CASES = [
    *(not_formed(f) for f in ALL),
    not_formed(lambda A: norm(A, "nuclear")),
    not_formed(lambda A: solve(A, torch.ones(4097), rtol=1e-3)),
    Case(DtypeError, r"the svd needs float32 or float64, got .* torch.bfloat16: .*A.float\(\)", lambda: svd(SQUARE_16)),
    Case(
        DtypeError,
        r"a solution needs float32 or float64, got .* torch.bfloat16",
        lambda: solve(SQUARE_16, torch.ones(2).bfloat16()),
    ),
    Case(DtypeError, r"the svd is that of a LinearOperator, got Tensor; as_operator", lambda: svd(torch.eye(2))),  # type: ignore[arg-type]
    Case(
        DtypeError,
        r"a batch of multiples have the operator's dtype torch.float32, got torch.float64",
        lambda: SQUARE * torch.ones(2).double(),
    ),
    Case(TooLarge, r"no closed form .* more than 4096\^2 entries; .*: Product", lambda: polar(too_large())),
    Case(
        DomainError,
        r"second derivatives of singular values and vectors need independent columns: .* \[U V\]",
        lambda: second_derivative(ScaledIdentityPlusLowRank(1.0, torch.nn.Parameter(torch.ones(6, 1)), torch.ones(6, 1))),
    ),
    Case(
        DomainError,
        r"eigenvalues have no derivative where they repeat",
        lambda: second_derivative(Dense(torch.nn.Parameter(torch.eye(3))), lambda A: eigenvalues(A).real.pow(3).sum()),
    ),
    Case(
        DomainError,
        r"singular values found by products have first derivatives only",
        lambda: second_derivative(Dense(torch.nn.Parameter(torch.eye(3))), lambda A: truncated_svd(A, 1)[0].values.sum()),
    ),
    Case(DomainError, r"the operator given to the svd holds 1 non-finite value\(s\) out of 4", lambda: svd(NAN)),
    Case(DomainError, r"the operator given to the rank holds 1 non-finite value\(s\) out of 4", lambda: rank(NAN)),
    Case(
        DomainError,
        r"rtol, a cut-off relative to \|\|A\|\|, must be a finite number >= 0, got -1",
        lambda: pinv(SQUARE, rtol=-1.0),
    ),
    Case(
        DomainError,
        r"rtol, a cut-off relative to \|\|A\|\|, must be a finite number >= 0, got inf",
        lambda: rank(SQUARE, rtol=torch.inf),
    ),
    Case(
        DomainError,
        r"rtol, a cut-off relative to \|\|A\|\|, must be a finite number >= 0, got nan",
        lambda: kernel(SQUARE, rtol=torch.nan),
    ),
    Case(DomainError, r"the determinant overflows torch.float32; slogdet has its logarithm", lambda: det(LARGEST)),
    Case(DomainError, r"the trace overflows torch.float32", lambda: trace(LARGEST)),
    Case(DomainError, r"the Frobenius norm overflows torch.float32", lambda: norm(LARGEST, "frobenius")),
    Case(ShapeError, r"the number of eigenvalues .* 0..2, got 3", lambda: eigenvalues(SQUARE, 3)),
    Case(ShapeError, r"the number of eigenvalues .* integer in 0..2, got 1.5", lambda: eigenvalues(SQUARE, 1.5)),  # type: ignore[arg-type]
    Case(
        SingularOperator,
        r"0 times an operator has no inverse; pinv gives 0: Scaled\(0 \* LowRank",
        lambda: inverse(Scaled(0.0, TALL @ TALL.H)),
    ),
    Case(DomainError, r"a norm is 'spectral', 'frobenius' or 'nuclear', got 'fro'", lambda: norm(SQUARE, "fro")),  # type: ignore[arg-type]
    Case(NotSquare, r"the trace needs a square operator, got shape \(2, 3\)", lambda: trace(WIDE)),
    Case(NotSquare, r"the trace needs a square operator, got shape \(3, 2\)", lambda: trace(TALL)),
    Case(NotSquare, r"the trace needs a square operator, got shape \(3, 2\)", lambda: trace(Product(TALL, SQUARE))),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(2, 3\)", lambda: det(WIDE)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(3, 2\)", lambda: det(TALL)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(2, 3\)", lambda: slogdet(WIDE)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(3, 2\)", lambda: slogdet(TALL)),
    Case(ShapeError, r"the rank takes one operator, not a batch of them of shape \(5,\)", lambda: rank(BATCH)),
    Case(ShapeError, r"the kernel takes one operator, not a batch of them of shape \(5,\)", lambda: kernel(BATCH)),
    Case(ShapeError, r"the image takes one operator, not a batch of them of shape \(5,\)", lambda: image(BATCH)),
    Case(ShapeError, r"the right-hand side must have shape \(\*batch, 2\), got \(3,\)", lambda: solve(SQUARE, torch.ones(3))),
    Case(
        DtypeError,
        r"the right-hand side: got torch.float64 .* expected torch.float32",
        lambda: solve(SQUARE, torch.ones(2).double()),
    ),
    Case(ShapeError, r"one operator is compressed, not a batch of them of shape \(5,\)", lambda: BATCH.compressed()),
    Case(DomainError, r"a truncation has no derivative; compress under torch.no_grad\(\)", lambda: trained().compressed()),
    Case(
        DomainError,
        r"singular vectors have no derivative where values repeat",
        lambda: through_vectors(Dense(torch.eye(3).requires_grad_()), 0),
    ),
    Case(
        DomainError,
        r"singular vectors have no derivative where values repeat, are zero",
        lambda: through_vectors(trained(), 2),
    ),
]
