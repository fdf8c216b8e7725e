"""Errors of fitting."""

import torch

from induced import EuclideanSpace
from induced.errors import DomainError, NotInvertible, ShapeError
from induced.fitting import interpolate, least_squares
from proofs_tests.units.case import Case

R2, R3 = EuclideanSpace(2), EuclideanSpace(3)
X, Y = torch.ones(4, 2), torch.ones(4, 3)
CLOSE = 1e4 * torch.tensor([[1.0, 1.0], [1.0 + 1e-7, 1.0 + 2e-7]])
LINE = torch.tensor([[0.0], [1.0], [2.0]])

CASES = [
    Case(ShapeError, r"as many x as y, at least one pair; got 4 and 3", lambda: least_squares(R2, R3, X, Y[:3])),
    Case(ShapeError, r"the rank of a core from .* lies in 0\.\.2, got 3", lambda: least_squares(R2, R3, X, Y, rank=3)),
    Case(DomainError, r"the ridge must be a finite number >= 0, got -1", lambda: least_squares(R2, R3, X, Y, ridge=-1.0)),
    Case(ShapeError, r"got 2 weights for 4 pairs", lambda: least_squares(R2, R3, X, Y, weights=torch.ones(2))),
    Case(DomainError, r"weights must be finite numbers >= 0", lambda: least_squares(R2, R3, X, Y, weights=-torch.ones(4))),
    Case(
        ShapeError,
        r"the targets y must have shape \(N, dim\), as many of both; got \(4, 2\) and \(3, 3\)",
        lambda: interpolate(X, Y[:3]),
    ),
    Case(
        DomainError,
        r"the pairs 0 and 2 give one point x two targets, \[0.0\] and \[2.0\]",
        lambda: interpolate(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), LINE),
    ),
    Case(
        DomainError,
        r"misses its targets by .*, more than eps = 1e-10: the least distance .* use float64 or rescale",
        lambda: interpolate(CLOSE, 1e8 * LINE[:2], eps=1e-10),
    ),
    Case(NotInvertible, r"constant or strictly monotone, and these data are neither", lambda: interpolate(LINE, (LINE - 1) ** 2)),
    Case(
        NotInvertible,
        r"several points have the target \[1.0, 1.0\]: add a coordinate",
        lambda: interpolate(LINE, ((LINE - 1) ** 2).expand(3, 2)),
    ),
]
