"""Errors of strategies."""

import runpy
import sys
from unittest.mock import patch

import torch

from induced import EuclideanSpace, strategies
from induced.errors import DomainError, DtypeError, MissingExtra, ShapeError
from induced.strategies import coordinates, linearizers, matrices, operators, points, scalars
from proofs_tests.units.case import Case


def load_without_hypothesis() -> None:
    with patch.dict(sys.modules, {"hypothesis": None}):
        runpy.run_path(str(strategies.__file__))


CASES = [
    Case(MissingExtra, r"strategies need hypothesis \(.*\): install induced\[test\]", load_without_hypothesis),
    Case(DomainError, r"the bound of scalars is a finite number above 2\^-20, got 0", lambda: scalars(0.0)),
    Case(DomainError, r"the radius of coordinates is a finite .* got inf", lambda: coordinates(2, radius=float("inf"))),
    Case(ShapeError, r"dim >= 1 and count >= 1, got dim=0 and count=5", lambda: coordinates(0)),
    Case(ShapeError, r"dim >= 1 and count >= 1, got dim=2 and count=0", lambda: points(EuclideanSpace(2), count=0)),
    Case(DtypeError, r"points takes a HilbertSpace or a Bijection, got Tensor", lambda: points(torch.ones(2))),  # type: ignore[arg-type]
    Case(ShapeError, r"a rank in 0\.\.min\(m, n\), got \(2, 3\) of rank 3", lambda: operators(2, 3, rank=3)),
    Case(ShapeError, r"sides >= 1 .* got \(0, 3\) of rank None", lambda: matrices(0, 3)),
    Case(
        DomainError,
        r"a condition number is a finite number >= 1, got 0.5",
        lambda: linearizers(EuclideanSpace(2), condition=0.5),
    ),
]
