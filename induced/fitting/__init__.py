"""Fitting: the core of a Linearizer for fixed charts, in closed form, and a Linearizer through given pairs of points."""

from induced.fitting.cores import LeastSquares, least_squares
from induced.fitting.interpolation import interpolate

__all__ = ["LeastSquares", "interpolate", "least_squares"]
