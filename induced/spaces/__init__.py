"""Spaces: sets of points that are Hilbert spaces through their coordinates, and vectors of them."""

from induced.spaces.concrete import EuclideanSpace, InducedSpace, ProductSpace
from induced.spaces.hilbert import HilbertSpace, Vector

__all__ = ["EuclideanSpace", "HilbertSpace", "InducedSpace", "ProductSpace", "Vector"]
