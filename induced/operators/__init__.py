"""Euclidean linear operators: the cores of Linearizers."""

from induced.operators.base import Adjoint, LinearOperator, Product, Scaled, Sum
from induced.operators.dense import Dense, Diagonal
from induced.operators.families import LowRankFamily, OperatorFamily, gaussian_rate
from induced.operators.linalg import Inverse, SVDFactors, exp, inverse, pinv, power, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, identity
from induced.operators.propagate import integrate, propagator

__all__ = [
    "Adjoint",
    "Dense",
    "Diagonal",
    "Inverse",
    "LinearOperator",
    "LowRank",
    "LowRankFamily",
    "OperatorFamily",
    "Product",
    "SVDFactors",
    "Scaled",
    "ScaledIdentityPlusLowRank",
    "Sum",
    "exp",
    "gaussian_rate",
    "identity",
    "integrate",
    "inverse",
    "pinv",
    "power",
    "propagator",
    "svd",
]
