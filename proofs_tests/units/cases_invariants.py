"""Errors of singular values, invariants, solutions and recompression."""

import torch

from induced.errors import DomainError, DtypeError, NotSquare, ShapeError
from induced.operators import (
    Dense,
    LowRank,
    ScaledIdentityPlusLowRank,
    det,
    image,
    kernel,
    norm,
    rank,
    slogdet,
    solve,
    svd,
    trace,
)
from induced.operators.base import Product
from proofs_tests.units.case import Case

WIDE, SQUARE = Dense(torch.ones(2, 3)), Dense(torch.eye(2))
TALL = LowRank(torch.ones(3, 1), torch.ones(2, 1))
BATCH = LowRank(torch.ones(5, 6, 1), torch.ones(6, 1))


def trained() -> LowRank:
    return LowRank(torch.nn.Parameter(torch.ones(6, 1)), torch.ones(6, 1))


def through_vectors(A: Dense | LowRank | ScaledIdentityPlusLowRank, i: int) -> None:
    """Ask for the derivative of an entry of the i-th left singular vector."""
    svd(A).U[0, i].backward()


CASES = [
    Case(DomainError, r"a norm is 'spectral', 'frobenius' or 'nuclear', got 'fro'", lambda: norm(SQUARE, "fro")),
    Case(NotSquare, r"the trace needs a square operator, got shape \(2, 3\)", lambda: trace(WIDE)),
    Case(NotSquare, r"the trace needs a square operator, got shape \(3, 2\)", lambda: trace(TALL)),
    Case(NotSquare, r"the trace needs a square operator, got shape \(3, 2\)", lambda: trace(Product(TALL, SQUARE))),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(2, 3\)", lambda: det(WIDE)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(3, 2\)", lambda: det(TALL)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(2, 3\)", lambda: slogdet(WIDE)),
    Case(NotSquare, r"the determinant needs a square operator, got shape \(3, 2\)", lambda: slogdet(TALL)),
    Case(ShapeError, r"the rank takes one operator, not a batch of them of shape \(5,\)", lambda: rank(BATCH)),
    Case(ShapeError, r"the kernel takes one operator, not a batch of them of shape \(5,\)", lambda: kernel(BATCH)),
    Case(ShapeError, r"the rank takes one operator, not a batch of them of shape \(5,\)", lambda: image(BATCH)),
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
        r"the singular vectors of a repeated value are any basis of their span",
        lambda: through_vectors(trained(), 2),
    ),
]
