"""Euclidean linear operators: the cores of Linearizers."""

from induced.operators.base import Dense, LinearOperator
from induced.operators.blocks import BlockDiagonal, RotationScaling
from induced.operators.circulant import BlockCirculant
from induced.operators.convolution import Convolution
from induced.operators.diagonal import Diagonal, Projection, Selection
from induced.operators.exponential import exp_multiply
from induced.operators.functions import exp, function, log, power, resolvent, sqrt
from induced.operators.interop import as_operator, to_scipy
from induced.operators.invariants import cond, det, eigenvalues, norm, rank, singular_values, slogdet, trace
from induced.operators.linalg import image, inverse, kernel, pinv, polar, solve, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, identity
from induced.operators.orthogonal import Householder, Orthogonal, OrthogonalOperator, Permutation, SkewExponential
from induced.operators.triangular import LU

__all__ = [
    "LU", "BlockCirculant", "BlockDiagonal", "Convolution", "Dense", "Diagonal", "Householder", "LinearOperator",
    "LowRank", "Orthogonal", "OrthogonalOperator", "Permutation", "Projection", "RotationScaling",
    "ScaledIdentityPlusLowRank", "Selection", "SkewExponential", "as_operator", "cond", "det", "eigenvalues", "exp",
    "exp_multiply", "function", "identity", "image", "inverse", "kernel", "log", "norm", "pinv", "polar", "power",
    "rank", "resolvent", "singular_values", "slogdet", "solve", "sqrt", "svd", "to_scipy", "trace",
]  # fmt: skip
