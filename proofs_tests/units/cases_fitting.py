"""Errors of fitting."""

from functools import partial

import torch

from induced import EuclideanSpace, InducedSpace
from induced.bijections import Affine
from induced.errors import DomainError, DtypeError, NotInvertible, ShapeError, SpaceMismatch
from induced.fitting import LeastSquares, interpolate, least_squares
from proofs_tests.units.case import Case

R2, R3 = EuclideanSpace(2), EuclideanSpace(3)
X, Y = torch.ones(4, 2), torch.ones(4, 3)
CLOSE = 1e4 * torch.tensor([[1.0, 1.0], [1.0 + 1e-7, 1.0 + 2e-7]])
LINE = torch.tensor([[0.0], [1.0], [2.0]])
GAP = torch.where(torch.arange(4)[:, None] == 2, torch.nan, Y)
fit = partial(least_squares, R2, R3)


def twice_forward() -> None:
    def norm(t: torch.Tensor) -> torch.Tensor:
        return fit(t * X, Y, ridge=1.0).core.matrix().square().sum()

    torch.func.jacfwd(torch.func.jacfwd(norm))(torch.ones(()))


def changed() -> None:
    space = InducedSpace(Affine((2,), 2.0))
    problem = LeastSquares(space, R3)
    problem.update(X, Y)
    next(space.buffers()).mul_(2)
    problem.solve()


def batches(*x: torch.Tensor) -> None:
    problem = LeastSquares(R2, R3)
    for batch in (X, *x):
        problem.update(batch, Y)


CASES = [
    Case(
        DtypeError,
        r"the dtype of the coordinates of x is torch.bfloat16, but this needs",
        lambda: fit(X.bfloat16(), Y.bfloat16()),
    ),
    Case(DtypeError, r"weights must be a torch.Tensor, got list", lambda: fit(X, Y, weights=[1.0, 2.0, 1.0, 1.0])),  # type: ignore[arg-type]
    Case(
        ShapeError,
        r"the blocks of a core are given as sizes \(m_j, n_j\), or n_j for \(n_j, n_j\), got \[2.0\]",
        lambda: fit(X, Y, blocks=[2.0]),  # type: ignore[list-item]
    ),
    Case(SpaceMismatch, r"a chart has changed since the first batch, .* start a new LeastSquares", changed),
    Case(DtypeError, "the data of an interpolation is torch.float16", lambda: interpolate(X.half(), Y.half())),
    Case(DomainError, r"forward mode within forward mode .* torch\.func\.hessian", twice_forward),
    Case(ShapeError, r"x and y must have the same batch shape, got \(4,\) and \(3,\)", lambda: fit(X, Y[:3])),
    Case(ShapeError, r"at least one pair, or a prior", lambda: fit(X[:0], Y[:0])),
    Case(ShapeError, r"at least one pair, or a prior", lambda: LeastSquares(R2, R3).solve()),
    Case(ShapeError, r"the rank of a core from .* must be an integer in 0\.\.2, got 3", lambda: fit(X, Y, rank=3)),
    Case(ShapeError, r"the rank of a core from .* must be an integer in 0\.\.2, got 1\.5", lambda: fit(X, Y, rank=1.5)),  # type: ignore[arg-type]
    Case(DtypeError, r"the ridge must be a number or a tensor, got str", lambda: fit(X, Y, ridge="a")),  # type: ignore[arg-type]
    Case(ShapeError, r"a BlockDiagonal or a sequence of sizes, such as \[2\], got 2", lambda: fit(X, Y, blocks=2)),  # type: ignore[arg-type]
    Case(
        ShapeError,
        r"has a closed form only where .* f\.svd\(\)\.truncate\(rank\)",
        lambda: fit(X, Y, rank=1, ridge=torch.ones(3, 2)),
    ),
    Case(ShapeError, r"has a closed form only where", lambda: fit(X, Y, rank=1, weights=torch.ones(4, 3))),
    Case(DomainError, r"the ridge must be finite and >= 0, got -1", lambda: fit(X, Y, ridge=-1.0)),
    Case(DomainError, r"the ridge must be finite and >= 0, got nan", lambda: fit(X, Y, ridge=torch.tensor([1.0, torch.nan]))),
    Case(
        ShapeError,
        r"the ridge must be a number, or have shape \(2,\), .* or \(3, 2\), one per entry of the core; got \(3,\)",
        lambda: fit(X, Y, ridge=torch.ones(3)),
    ),
    Case(
        DomainError,
        r"the ridge must be > 0 to have a gradient, .*: detach zeros",
        lambda: fit(X, Y, ridge=torch.zeros((), requires_grad=True)),
    ),
    Case(
        ShapeError,
        r"weights must have shape \(4,\), one per pair, or \(4, 3\), one per coordinate of g_y\(y\); got \(2,\)",
        lambda: fit(X, Y, weights=torch.ones(2)),
    ),
    Case(DtypeError, r"weights are real numbers, got torch.complex64", lambda: fit(X, Y, weights=1j * torch.ones(4))),
    Case(
        DomainError,
        r"a QR of the coordinates .* their norm overflows float64",
        lambda: fit(1e308 * X.double().sign(), Y.double()),
    ),
    Case(DomainError, r"weights must be finite and >= 0, got -1", lambda: fit(X, Y, weights=-torch.ones(4))),
    Case(
        ShapeError,
        r"the prior must be one matrix or operator of shape \(3, 2\), got Dense",
        lambda: fit(X, Y, prior=torch.eye(2)),
    ),
    Case(
        ShapeError,
        r"the shapes of the blocks must add up to that of the core, \(3, 2\), got \[\(2, 2\)\]",
        lambda: fit(X, Y, blocks=[2]),
    ),
    Case(
        DomainError,
        r"1 of the points y hold nan or inf, the first at the index \(1, 0\) of the batch \(2, 2\)",
        lambda: fit(X.reshape(2, 2, 2), GAP.reshape(2, 2, 3)),
    ),
    Case(
        DomainError,
        r"2 of the points x hold nan or inf, the first at the index \(0,\)",
        lambda: fit(X / torch.tensor([[0.0], [1.0], [0.0], [1.0]]), Y),
    ),
    Case(DtypeError, r"the coordinates of x beside those of earlier batches: got torch.float64", lambda: batches(X.double())),
    Case(
        SpaceMismatch,
        r"merged problems need the same spaces, or copies with equal values",
        lambda: LeastSquares(R2, R3).merge(LeastSquares(R3, R3)),
    ),
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
