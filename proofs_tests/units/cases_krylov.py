"""Errors of foreign operators, iterative methods and propagators."""

import numpy as np
import scipy.sparse
import torch

from induced.errors import DomainError, DtypeError, MissingAdjoint, NotConverged, NotSquare, ShapeError
from induced.operators import Dense, Diagonal, LinearOperator, as_operator, exp_multiply, to_scipy
from induced.operators.krylov import iterative_solve, truncated_eigenvalues, truncated_svd
from induced.propagators import LowRankFamily, OperatorFamily, adaptive_grid, propagator
from proofs_tests.units.case import Case

BATCH = Dense(torch.ones(2, 3, 3))
WIDE = Dense(torch.ones(2, 3))
MATRIX = Dense(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))
FAMILY = LowRankFamily(4, 1)
PRECISE = LowRankFamily(4, 1).double()


class Product:
    """Products of a wrong length, and no adjoint."""

    shape = (2, 2)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        return np.ones(3)


class Unfinished(Product):
    """An adjoint that is not implemented."""

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Singular(OperatorFamily):
    """A_t = 1 / (1 - t), as of a model that predicts the end point."""

    def at(self, t: float | torch.Tensor) -> LinearOperator:
        return Diagonal(1.0 / (1.0 - torch.as_tensor(t)).expand(2))


CASES = [
    Case(ShapeError, r"not a batch of them of shape \(2,\)", lambda: to_scipy(BATCH)),
    Case(ShapeError, "not a batch", lambda: truncated_svd(BATCH, 1)),
    Case(DtypeError, "a list is no operator: expected", lambda: as_operator([[1.0]])),
    Case(DtypeError, "operators are real", lambda: as_operator(np.eye(2, dtype=complex))),
    Case(DtypeError, "operators are real", lambda: as_operator(scipy.sparse.eye_array(2, dtype=complex))),
    Case(ShapeError, r"must have shape \(2, 1\), got \(3, 1\)", lambda: as_operator(Product())(torch.ones(2).double())),
    Case(MissingAdjoint, "has no rmatvec", lambda: as_operator(Product()).H(torch.ones(2).double())),
    Case(MissingAdjoint, "has no rmatvec", lambda: as_operator(Unfinished()).H(torch.ones(2).double())),
    Case(DomainError, "unknown method 'power' of truncated_svd", lambda: truncated_svd(WIDE, 1, method="power")),
    Case(ShapeError, "rank must lie in 0..2", lambda: truncated_svd(WIDE, 3)),
    Case(ShapeError, r"rank must lie in 0..2 .* got -1", lambda: truncated_svd(WIDE, -1)),
    Case(
        NotConverged,
        "randomized: NOT converged after 1 products",
        lambda: truncated_svd(MATRIX, 2, method="randomized", max_iterations=1, strict=True),
    ),
    Case(NotSquare, "only a square operator has eigenvalues", lambda: truncated_eigenvalues(WIDE, 1)),
    Case(DomainError, "unknown order 'XX'", lambda: truncated_eigenvalues(MATRIX, 1, which="XX")),
    Case(ShapeError, "must lie in 0..40, got 41", lambda: truncated_eigenvalues(MATRIX, 41)),
    Case(NotSquare, "only a square operator has an exponential", lambda: exp_multiply(WIDE, torch.ones(3))),
    Case(ShapeError, "right side", lambda: iterative_solve(WIDE, torch.ones(3))),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[0.0, 0.6, 0.5, 1.0])),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[0.0, 0.5])),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[])),
    Case(DomainError, "unknown integrator 'leapfrog'", lambda: adaptive_grid(FAMILY, method="leapfrog")),
    Case(DomainError, r"use family.double\(\)", lambda: adaptive_grid(FAMILY, tolerance=1e-8)),
    Case(NotConverged, "singular or not smooth", lambda: adaptive_grid(Singular(2), method="magnus4", tolerance=1e-3)),
    Case(
        NotConverged, "10 rk4 steps reached", lambda: adaptive_grid(LowRankFamily(4, 1).double(), tolerance=1e-12, max_steps=10)
    ),
]
