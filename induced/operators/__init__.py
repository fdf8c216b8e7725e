"""Euclidean linear operators: the cores of Linearizers."""

from induced.operators.base import LinearOperator
from induced.operators.circulant import BlockCirculant
from induced.operators.convolution import Convolution
from induced.operators.dense import Dense, Diagonal
from induced.operators.exponential import exp_multiply
from induced.operators.functions import exp, function, log, power, resolvent, sqrt
from induced.operators.interop import ForeignOperator, as_operator, from_scipy, to_scipy
from induced.operators.invariants import cond, det, norm, rank, singular_values, slogdet, trace
from induced.operators.linalg import Inverse, inverse, pinv, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, identity
from induced.operators.orthogonal import Householder, Orthogonal, OrthogonalOperator, Permutation, SkewExponential
from induced.operators.projection import Projection
from induced.operators.solutions import image, kernel, solve
from induced.operators.spectral import eigenvalues, invariant_subspaces, polar
from induced.operators.triangular import LU

__all__ = [
    "LU",
    "BlockCirculant",
    "Convolution",
    "Dense",
    "Diagonal",
    "ForeignOperator",
    "Householder",
    "Inverse",
    "LinearOperator",
    "LowRank",
    "Orthogonal",
    "OrthogonalOperator",
    "Permutation",
    "Projection",
    "ScaledIdentityPlusLowRank",
    "SkewExponential",
    "as_operator",
    "cond",
    "det",
    "eigenvalues",
    "exp",
    "exp_multiply",
    "from_scipy",
    "function",
    "identity",
    "image",
    "invariant_subspaces",
    "inverse",
    "kernel",
    "log",
    "norm",
    "pinv",
    "polar",
    "power",
    "rank",
    "resolvent",
    "singular_values",
    "slogdet",
    "solve",
    "sqrt",
    "svd",
    "to_scipy",
    "trace",
]
