"""Errors of foreign operators, iterative methods and propagators."""

import numpy as np
import scipy.sparse
import torch

from induced import EuclideanSpace
from induced.errors import DomainError, DtypeError, MissingAdjoint, NotConverged, NotSquare, ShapeError
from induced.operators import Dense, Diagonal, LinearOperator, as_operator, exp_multiply, to_scipy
from induced.operators.krylov import iterative_solve, truncated_eigenvalues, truncated_svd
from induced.propagators import LowRankFamily, OperatorFamily, adaptive_grid, propagator
from proofs_tests.units.case import Case

BATCH = Dense(torch.ones(2, 3, 3))
WIDE = Dense(torch.ones(2, 3))
NAN, INF = torch.nan, torch.inf
BAD = Dense(torch.eye(3).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(NAN)))
MATRIX = Dense(torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))
SPARSE = torch.eye(3).to_sparse()
HALF = Dense(torch.eye(3, dtype=torch.bfloat16))
TURN = Dense(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
FAMILY = LowRankFamily(4, 1)
PRECISE = LowRankFamily(4, 1).double()


class Product:
    """Products of a wrong length, and no adjoint."""

    shape = (2, 2)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        return np.ones(3)


class Fourier:
    """A real operator, so its dtype says, of complex products."""

    shape, dtype = (2, 2), np.dtype(np.float64)

    def matvec(self, x: np.ndarray) -> np.ndarray:
        return np.fft.fft(x)


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
    Case(
        DtypeError,
        "the ndarray is complex128, .* a real dtype, float32 or float64",
        lambda: as_operator(np.eye(2, dtype=complex)),
    ),
    Case(
        DtypeError,
        "csr_array is complex128|dia_array is complex128",
        lambda: as_operator(scipy.sparse.eye_array(2, dtype=complex)),
    ),
    Case(DtypeError, r"must be a dense tensor, got one of layout torch.sparse_coo: .*as_operator", lambda: Dense(SPARSE)),
    Case(DtypeError, r"must be a dense tensor, got one of layout torch.sparse_coo", lambda: EuclideanSpace(3).coords(SPARSE)),
    Case(
        DtypeError,
        r"no gradient reaches the entries of a torch.sparse_coo tensor: .*S.to_dense\(\)",
        lambda: as_operator(SPARSE.clone().requires_grad_()),
    ),
    Case(DtypeError, "whose power -1 is asked for is torch.bfloat16, .* float32 or float64", lambda: HALF**-1),
    Case(DtypeError, r"the matrix of a Dense .* got ndarray: convert it, e.g. with torch.tensor\(a\)", lambda: Dense(np.eye(2))),  # type: ignore[arg-type]
    Case(DtypeError, "the diagonal must be a torch.Tensor, got list", lambda: Diagonal([1.0])),  # type: ignore[arg-type]
    Case(DtypeError, "coordinates that Dense.* takes must be a torch.Tensor, got ndarray", lambda: HALF(np.ones(3))),  # type: ignore[arg-type]
    Case(DtypeError, "the ndarray is float16", lambda: as_operator(np.eye(2, dtype=np.float16))),
    Case(DtypeError, "the ndarray is object", lambda: as_operator(np.eye(2, dtype=object))),
    Case(DtypeError, "is torch.bfloat16, .* float32 or float64", lambda: to_scipy(HALF)),
    Case(DtypeError, "is torch.bfloat16, .* float32 or float64", lambda: truncated_svd(HALF, 1)),
    Case(DtypeError, "is torch.bfloat16, .* float32 or float64", lambda: truncated_eigenvalues(HALF, 1)),
    Case(DtypeError, "is torch.bfloat16, .* float32 or float64", lambda: iterative_solve(HALF, torch.ones(3).bfloat16())),
    Case(DtypeError, "is torch.bfloat16, .* float32 or float64", lambda: exp_multiply(HALF, torch.ones(3).bfloat16())),
    Case(DtypeError, "product of a real foreign operator is complex", lambda: as_operator(Fourier())(torch.ones(2).double())),
    Case(DtypeError, "the right side .* got torch.float64", lambda: iterative_solve(WIDE, torch.ones(2).double())),
    Case(DtypeError, "the state of exp_multiply: got torch.float64", lambda: exp_multiply(MATRIX, torch.ones(40).double())),
    Case(DomainError, "A holds nan or inf", lambda: truncated_svd(BAD, 1)),
    Case(DomainError, "A holds nan or inf", lambda: truncated_eigenvalues(BAD, 1)),
    Case(DomainError, "A holds nan or inf", lambda: iterative_solve(BAD, torch.ones(3))),
    Case(DomainError, "A holds nan or inf", lambda: exp_multiply(BAD, torch.ones(3))),
    Case(DomainError, "A holds nan or inf", lambda: exp_multiply(BAD, torch.ones(3), norm=1.0)),
    Case(DomainError, "the right side .* 1 non-finite", lambda: iterative_solve(WIDE, torch.tensor([1.0, NAN]))),
    Case(DomainError, "the right side .* 1 non-finite", lambda: iterative_solve(WIDE, torch.tensor([[1.0, 1.0], [1.0, INF]]))),
    Case(DomainError, "the state of exp_multiply holds 1 non-finite", lambda: exp_multiply(TURN, torch.tensor([1.0, INF]))),
    Case(DomainError, "it overflows torch.float32", lambda: iterative_solve(Dense(1e-30 * torch.eye(2)), torch.full((2,), 1e30))),
    Case(DomainError, "it overflows torch.float32", lambda: exp_multiply(Diagonal(torch.tensor([0.0, 100.0])), torch.ones(2))),
    Case(DomainError, "no digit of exp", lambda: exp_multiply(Diagonal(torch.tensor([-1e9, 0.0])), torch.ones(2))),
    Case(ShapeError, r"must have shape \(2, 1\), got \(3, 1\)", lambda: as_operator(Product())(torch.ones(2).double())),
    Case(MissingAdjoint, "has no rmatvec", lambda: as_operator(Product()).H(torch.ones(2).double())),
    Case(MissingAdjoint, "has no rmatvec", lambda: as_operator(Unfinished()).H(torch.ones(2).double())),
    Case(DomainError, "unknown method 'power' of truncated_svd", lambda: truncated_svd(WIDE, 1, method="power")),
    Case(ShapeError, r"the rank of .*\(2, 3\) must be an integer in 0..2, got 3", lambda: truncated_svd(WIDE, 3)),
    Case(ShapeError, "be an integer in 0..2, got 1.5", lambda: truncated_svd(WIDE, 1.5)),  # type: ignore[arg-type]
    Case(
        ShapeError,
        "max_iterations must be an integer in 1..inf, got 10.0",
        lambda: truncated_svd(WIDE, 1, max_iterations=10.0),  # type: ignore[arg-type]
    ),
    Case(
        ShapeError,
        "max_iterations must be an integer in 1..inf, got -1",
        lambda: iterative_solve(WIDE, torch.ones(2), max_iterations=-1),
    ),
    Case(ShapeError, r"must be an integer in 0..2, got -1", lambda: truncated_svd(WIDE, -1)),
    Case(
        NotConverged,
        "randomized: NOT converged after 1 products",
        lambda: truncated_svd(MATRIX, 2, method="randomized", max_iterations=1, strict=True),
    ),
    Case(NotSquare, "only a square operator has eigenvalues", lambda: truncated_eigenvalues(WIDE, 1)),
    Case(DomainError, "unknown order 'XX'", lambda: truncated_eigenvalues(MATRIX, 1, which="XX")),
    Case(ShapeError, "the number of eigenvalues .*0..40.*, got 41", lambda: truncated_eigenvalues(MATRIX, 41)),
    Case(NotSquare, "only a square operator has an exponential", lambda: exp_multiply(WIDE, torch.ones(3))),
    Case(ShapeError, "right side", lambda: iterative_solve(WIDE, torch.ones(3))),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[0.0, 0.6, 0.5, 1.0])),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[0.0, 0.5])),
    Case(DomainError, "must lead from t0=0.0 to t1=1.0", lambda: propagator(FAMILY, steps=[])),
    Case(ShapeError, r"t0 and t1 are one number each.*\(3,\)", lambda: propagator(FAMILY, t1=torch.ones(3))),  # type: ignore[arg-type]
    Case(ShapeError, r"t0 and t1 are one number each.*\(3,\)", lambda: adaptive_grid(FAMILY, torch.ones(3))),  # type: ignore[arg-type]
    Case(DomainError, "unknown integrator 'leapfrog'", lambda: adaptive_grid(FAMILY, method="leapfrog")),
    Case(DomainError, r"use family.double\(\)", lambda: adaptive_grid(FAMILY, tolerance=1e-8)),
    Case(NotConverged, "singular or not smooth", lambda: adaptive_grid(Singular(2), method="magnus4", tolerance=1e-3)),
    Case(
        NotConverged, "10 rk4 steps reached", lambda: adaptive_grid(LowRankFamily(4, 1).double(), tolerance=1e-12, max_steps=10)
    ),
]
