"""How samples of rows are judged and drawn: distances of samples, a classifier between them, corner plots."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from applications.common.figures import corner
from applications.common.metrics import classifier_test, energy_distance
from induced.errors import DomainError, ShapeError
from proofs_tests.applications.rows import generator, rows


# the two-sample figures
def test_the_energy_distance_is_its_formula_and_zero_in_the_mean() -> None:
    a, b = (torch.randn(n, 2, generator=generator(n), dtype=torch.float64) for n in (12, 15))
    b = b * 2 + 1

    def mean(x: Tensor, y: Tensor, *, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum(math.dist((x[i] / a.std(0)).tolist(), (y[j] / a.std(0)).tolist()) for i, j in pairs) / len(pairs)

    expected = 2 * mean(a, b, same=False) - mean(a, a, same=True) - mean(b, b, same=True)
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-9)
    null = [energy_distance(*torch.randn(2, 100, 2, generator=generator(seed))) for seed in range(30)]
    assert abs(float(np.mean(null))) < 3 * float(np.std(null)) / math.sqrt(30) and min(null) < 0
    assert energy_distance(*torch.randn(2, 100, 2, generator=generator())) < energy_distance(a, b) / 5


def test_a_classifier_tells_apart_what_differs_and_guesses_where_nothing_does() -> None:
    a, b = torch.randn(2, 300, 2, generator=generator())
    guess = classifier_test(a, b)
    assert guess.deviation == pytest.approx(0.5 / math.sqrt(600)) and abs(guess.accuracy - 0.5) < 4 * guess.deviation
    assert classifier_test(a, b + 1.5).accuracy > 0.75


@pytest.mark.parametrize("test", [energy_distance, classifier_test])
def test_samples_that_cannot_be_compared_are_refused(test: Callable[[Tensor, Tensor], object]) -> None:
    for a, b in (
        (torch.zeros(20, 2), torch.zeros(20, 3)),
        (torch.zeros(9, 2), torch.zeros(20, 2)),
        (torch.zeros(20), torch.zeros(20)),
    ):
        with pytest.raises(ShapeError, match=r"compares sets \(N, d\) and \(M, d\), N and M >= 10; got"):
            test(a, b)
    with pytest.raises(DomainError, match="2 values of the second set are not finite"):
        test(torch.zeros(20, 2), torch.full((20, 2), 0.0).index_fill(0, torch.tensor([3]), math.nan))


def test_a_corner_plot_has_a_picture_and_needs_a_number_for_each_column(tmp_path: Path) -> None:
    path = corner(tmp_path / "corner.png", {"data": rows(50), "samples": rows(60)}, ["a", "b", "c"])
    assert path.read_bytes()[:4] == b"\x89PNG"
    for wrong in ({}, {"data": rows(50)[:, :2]}, {"data": rows(50)[:0]}):
        with pytest.raises(ShapeError, match=r"corner draws rows \(N, 3\), one number for each of 3 columns; got"):
            corner(tmp_path / "no.png", wrong, ["a", "b", "c"])
