"""Linear algebra over induced vector spaces: networks that are exactly linear between spaces that charts induce."""

from induced.checks import Report, check, require
from induced.errors import InducedError
from induced.linearizer import SVD, Linearizer, LinearizerOperator
from induced.operators import LinearOperator
from induced.serialization import load
from induced.spaces import EuclideanSpace, HilbertSpace, InducedSpace, ProductSpace, Vector
from induced.subspaces import PrincipalComponents, Subspace, principal_components

__version__ = "0.2.0"

__all__ = [
    "SVD",
    "EuclideanSpace",
    "HilbertSpace",
    "InducedError",
    "InducedSpace",
    "LinearOperator",
    "Linearizer",
    "LinearizerOperator",
    "PrincipalComponents",
    "ProductSpace",
    "Report",
    "Subspace",
    "Vector",
    "check",
    "load",
    "principal_components",
    "require",
]
