"""Euclidean linear operators: the cores of Linearizers."""

from induced.operators.adaptive import AdaptiveGrid, adaptive_grid
from induced.operators.base import Adjoint, LinearOperator, Product, Scaled, Sum
from induced.operators.circulant import BlockCirculant, ShiftInvariant
from induced.operators.convolution import Convolution
from induced.operators.dense import Dense, Diagonal
from induced.operators.exponential import exp_multiply
from induced.operators.families import LowRankFamily, OperatorFamily, Restriction, SharedBasisFamily, gaussian_rate
from induced.operators.functions import exp, function, log, power, resolvent, sqrt
from induced.operators.interop import Wrapped, as_operator, from_scipy, to_scipy
from induced.operators.invariants import Norm, SignLogDet, SingularValues, cond, det, norm, rank, singular_values, slogdet, trace
from induced.operators.krylov import Convergence, iterative_solve, truncated_eigenvalues, truncated_svd
from induced.operators.linalg import Inverse, SVDFactors, inverse, pinv, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, identity
from induced.operators.orthogonal import Householder, Orthogonal, OrthogonalOperator, Permutation, SkewExponential
from induced.operators.projection import Projection
from induced.operators.propagate import Stepwise, integrate, propagator
from induced.operators.solutions import column_space, kernel, solve
from induced.operators.spectral import InvariantSubspace, Polar, eigenvalues, invariant_subspaces, polar
from induced.operators.triangular import LU

__all__ = [
    "LU",
    "AdaptiveGrid",
    "Adjoint",
    "BlockCirculant",
    "Convergence",
    "Convolution",
    "Dense",
    "Diagonal",
    "Householder",
    "InvariantSubspace",
    "Inverse",
    "LinearOperator",
    "LowRank",
    "LowRankFamily",
    "Norm",
    "OperatorFamily",
    "Orthogonal",
    "OrthogonalOperator",
    "Permutation",
    "Polar",
    "Product",
    "Projection",
    "Restriction",
    "SVDFactors",
    "Scaled",
    "ScaledIdentityPlusLowRank",
    "SharedBasisFamily",
    "ShiftInvariant",
    "SignLogDet",
    "SingularValues",
    "SkewExponential",
    "Stepwise",
    "Sum",
    "Wrapped",
    "adaptive_grid",
    "as_operator",
    "column_space",
    "cond",
    "det",
    "eigenvalues",
    "exp",
    "exp_multiply",
    "from_scipy",
    "function",
    "gaussian_rate",
    "identity",
    "integrate",
    "invariant_subspaces",
    "inverse",
    "iterative_solve",
    "kernel",
    "log",
    "norm",
    "pinv",
    "polar",
    "power",
    "propagator",
    "rank",
    "resolvent",
    "singular_values",
    "slogdet",
    "solve",
    "sqrt",
    "svd",
    "to_scipy",
    "trace",
    "truncated_eigenvalues",
    "truncated_svd",
]
