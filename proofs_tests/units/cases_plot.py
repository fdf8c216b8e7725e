"""Errors of plots."""

import runpy
import sys
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

from induced import EuclideanSpace, InducedSpace, Linearizer, plot
from induced.bijections import Log, Simplex
from induced.errors import DomainError, MissingExtra, ShapeError, SpaceMismatch
from induced.plot import plot_singular_vectors, plot_space, plot_spectrum, plot_trajectory
from proofs_tests.units.case import Case


def load_without_matplotlib() -> None:
    with patch.dict(sys.modules, {"matplotlib": None}):
        runpy.run_path(str(plot.__file__))


R2, R3, CUBE = EuclideanSpace(2), EuclideanSpace(3), EuclideanSpace((2, 2, 2))
TURN, WIDE = Linearizer(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), R2), Linearizer(torch.ones(2, 3), R3, R2)
X = torch.ones(1, 2)


def trajectory(**options: object) -> Callable[[], object]:
    return lambda: plot_trajectory(TURN, X, **options)  # type: ignore[arg-type]


CASES = [
    Case(MissingExtra, r"plots need matplotlib \(.*\): install induced\[plot\]", load_without_matplotlib),
    Case(ShapeError, r"a space of dimension 2, EuclideanSpace\(\(3,\)\) has dimension 3", lambda: plot_space(R3)),
    Case(DomainError, r"lines >= 2 and a finite extent > 0, got lines=1 and extent=2.0", lambda: plot_space(R2, lines=1)),
    Case(DomainError, r"a finite extent > 0, got lines=9 and extent=-1.0", lambda: plot_space(R2, extent=-1.0)),
    Case(DomainError, r"a finite extent > 0, got lines=9 and extent=inf", lambda: plot_space(R2, extent=float("inf"))),
    Case(DomainError, r"must lie in the positive numbers", lambda: plot_space(InducedSpace(Log((2,))), extent=1e4)),
    Case(
        ShapeError,
        r"the pairs of sums must have shape \(\*batch, 2, 2\), got \(3, 2\)",
        lambda: plot_space(R2, sums=torch.ones(3, 2)),
    ),
    Case(
        ShapeError,
        r"there are no segments to draw: got pairs of shape \(0, 2, 2\)",
        lambda: plot_space(R2, segments=torch.ones(0, 2, 2)),
    ),
    Case(
        ShapeError,
        r"drawn in the plane as \(\*batch, 2\), got \(9, 101, 3\) .* of InducedSpace\(Simplex\(3,\)\): give a `view`",
        lambda: plot_space(InducedSpace(Simplex(3))),
    ),
    Case(
        ShapeError,
        r"as \(\*batch, 2\), got \(2,\) for a batch \(9, 101\) of EuclideanSpace",
        lambda: plot_space(R2, view=lambda x: x[0, 0]),
    ),
    Case(SpaceMismatch, r"the spectrum needs one space on both sides", lambda: plot_spectrum(WIDE)),
    Case(ShapeError, r"there are no values to draw: SVD\(0 triplets", lambda: plot_spectrum(TURN.svd(0))),
    Case(ShapeError, r"k lies in 1\.\.2, the number of singular vectors, got 3", lambda: plot_singular_vectors(WIDE, 3)),
    Case(ShapeError, r"k lies in 1\.\.2, the number of singular vectors, got 0", lambda: plot_singular_vectors(TURN, 0)),
    Case(
        ShapeError,
        r"2 right and 2 left singular vectors are drawn on 4 axes, got 3",
        lambda: plot_singular_vectors(TURN, 2, ax=np.empty(3, dtype=object)),
    ),
    Case(
        ShapeError,
        r"as vectors \(n,\) or images .* have shape \(2, 2, 2\)",
        lambda: plot_singular_vectors(Linearizer(torch.eye(8), CUBE), 1),
    ),
    Case(
        SpaceMismatch,
        r"a trajectory needs one space on both sides, got EuclideanSpace\(\(3,\)\) and EuclideanSpace\(\(2,\)\)",
        lambda: plot_trajectory(WIDE, torch.ones(3), steps=2),
    ),
    Case(DomainError, r"one of both; got steps=None and times=None", trajectory()),
    Case(DomainError, r"one of both; got steps=2 and times=\[1.0\]", trajectory(steps=2, times=[1.0])),
    Case(DomainError, r"steps >= 1 of powers .* got steps=0", trajectory(steps=0)),
    Case(ShapeError, r"needs a start and a time: got 1 points and 0 times", trajectory(times=[])),
    Case(
        ShapeError,
        r"needs a start and a time: got 0 points and 3 times",
        lambda: plot_trajectory(TURN, torch.ones(0, 2), steps=2),
    ),
    Case(
        ShapeError,
        r"drawn in the plane as \(\*batch, 2\), got \(3, 1, 3\)",
        lambda: plot_trajectory(Linearizer(torch.eye(3), R3), torch.ones(3), steps=2),
    ),
]
