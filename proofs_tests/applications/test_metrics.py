"""Metrics against scipy, numpy, closed forms and brute force; that batches do not matter; and what they refuse."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from applications.common import metrics
from applications.common.metrics import auroc, class_balance, frechet_distance, precision_recall, psnr
from experiments.stylised import ssim
from induced.errors import DomainError, DtypeError, ShapeError


def test_psnr_is_its_formula_for_images_of_width_2() -> None:
    a, b = 2 * torch.rand(2, 5, 3, 8, 8) - 1
    x, y = a.double().numpy(), b.double().numpy()
    expected = [10 * np.log10(2**2 / np.mean((x[i] - y[i]) ** 2)) for i in range(5)]
    assert psnr(a, b).numpy() == pytest.approx(expected, rel=1e-13)
    assert psnr(a, b)[0].item() == pytest.approx(peak_signal_noise_ratio(x[0], y[0], data_range=2), rel=1e-13)


def test_psnr_of_one_pixel_value_everywhere_is_known() -> None:
    a = torch.zeros(1, 1, 4, 4)
    assert psnr(a, a + 0.2).item() == pytest.approx(20.0, abs=1e-6)


def test_psnr_of_equal_images_is_infinite_and_others_are_not_affected() -> None:
    a = torch.rand(2, 1, 4, 4)
    b = a.clone()
    b[1, 0, 0, 0] += 0.5
    values = psnr(a, b)
    assert values[0] == torch.inf
    assert values[1].isfinite()


def test_psnr_does_not_depend_on_the_batch() -> None:
    a, b = torch.rand(7, 1, 16, 16), torch.rand(7, 1, 16, 16)
    alone = torch.cat([psnr(a[i : i + 1], b[i : i + 1]) for i in range(7)])
    assert alone.numpy() == pytest.approx(psnr(a, b).numpy(), rel=1e-14)


def test_psnr_refuses_what_cannot_be_compared() -> None:
    a = torch.rand(2, 1, 4, 4)
    with pytest.raises(ShapeError, match=r"one shape, got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"):
        psnr(a, a[:1])
    with pytest.raises(ShapeError, match=r"images \(N, ...\) of one shape, got \(4,\) and \(4,\)"):
        psnr(a[0, 0, 0], a[0, 0, 0])
    with pytest.raises(DtypeError, match=r"in \[-1, 1\], got torch.float32 and torch.uint8: to_unit makes"):
        psnr(a, a.to(torch.uint8))


def ssim_by_scipy(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    """SSIM of one plane by scipy's Gaussian filter, which a radius of 5 makes Wang's window; the border is cut off."""

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return float(np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 11, 11), (1, 28, 32), (3, 17, 12)])
def test_ssim_is_that_of_scipys_gaussian_filter(channels: int, height: int, width: int) -> None:
    a = 2 * torch.rand(3, channels, height, width) - 1
    b = 0.7 * a + 0.3 * torch.rand(a.shape)
    x, y = a.double().numpy(), b.double().numpy()
    expected = [np.mean([ssim_by_scipy(x[i, c], y[i, c], 2) for c in range(channels)]) for i in range(3)]
    assert ssim(a, b).numpy() == pytest.approx(expected, rel=1e-10)
    assert ssim(a, a).numpy() == pytest.approx(1, abs=1e-12)


def frechet_by_sqrtm(a: Tensor, b: Tensor) -> float:
    """The formula as it stands, by scipy's matrix square root."""
    x, y = a.double().numpy(), b.double().numpy()
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * root.real))


@pytest.mark.parametrize(("n", "m", "d"), [(50, 80, 2), (60, 60, 16), (300, 200, 40)])
def test_frechet_distance_is_that_of_scipys_matrix_square_root(n: int, m: int, d: int) -> None:
    mix = torch.randn(d, d)
    a, b = torch.randn(n, d) @ mix, torch.randn(m, d) * torch.linspace(0.1, 3, d) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_by_sqrtm(a, b), rel=1e-9)


def whitened(n: int, d: int) -> Tensor:
    """Points with mean 0 and covariance exactly the identity."""
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(n - 1)


def test_frechet_distance_of_diagonal_gaussians_is_its_closed_form() -> None:
    s, t, shift = (torch.rand(3, 12, dtype=torch.float64) + 0.1).unbind()
    a, b = whitened(40, 12) * s, whitened(70, 12) * t + shift
    expected = float((shift.square() + (s - t).square()).sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_exact_where_the_covariances_are_singular() -> None:
    a = torch.randn(10, 64, dtype=torch.float64) * 100
    total = float(a.var(0).sum())
    assert abs(frechet_distance(a, a)) <= 1e-12 * total
    assert frechet_distance(a, a + 3) == pytest.approx(64 * 9, abs=1e-12 * total)
    assert frechet_distance(a, 2 * a - a.mean(0)) == pytest.approx(total, rel=1e-12)


def test_frechet_distance_in_one_dimension_and_of_two_points() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]])
    assert frechet_distance(a, b) == pytest.approx(16 + 2, rel=1e-14)


def test_frechet_distance_refuses_what_is_no_pair_of_sets() -> None:
    a = torch.randn(5, 3)
    with pytest.raises(ShapeError, match=r"N and M >= 2; got \(1, 3\) and \(5, 3\)"):
        frechet_distance(a[:1], a)
    with pytest.raises(ShapeError, match=r"got \(5, 3\) and \(5, 2\)"):
        frechet_distance(a, a[:, :2])
    with pytest.raises(DomainError, match="1 values of the second set are not finite"):
        frechet_distance(a, torch.cat((a[:1] / a[:1, :1] * torch.tensor([torch.inf, 1, 1]), a)))


def precision_by_loops(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of y in some ball around an x that reaches to the k-th nearest other x."""
    inside = 0
    reach = [sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1] for i in range(len(x))]
    for point in y:
        inside += any(np.linalg.norm(point - x[i]) <= reach[i] for i in range(len(x)))
    return inside / len(y)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_plain_loops(k: int) -> None:
    real, generated = torch.randn(40, 2), 0.8 * torch.randn(53, 2) + 1
    x, y = real.double().numpy(), generated.double().numpy()
    found = precision_recall(real, generated, k)
    assert found == (precision_by_loops(x, y, k), precision_by_loops(y, x, k))
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_precision_and_recall_do_not_depend_on_the_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated, found = torch.randn(50, 3), torch.randn(41, 3) * 1.5, set()
    for rows in (1, 7, 50, 1000):
        monkeypatch.setattr(metrics, "_ROWS", rows)
        found.add(precision_recall(real, generated))
    assert len(found) == 1


def test_precision_and_recall_of_known_cases() -> None:
    real = torch.randn(60, 4)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real[torch.randperm(60)]) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_a_generator_that_repeats_one_real_image_is_precise_and_recalls_that_image_alone() -> None:
    real = torch.randn(60, 64, dtype=torch.float64)
    for i in range(60):
        assert precision_recall(real, real[i : i + 1].expand(60, -1)) == (1, 1 / 60)


@pytest.mark.parametrize("rows", [1, 5, 500])
def test_copies_lie_in_balls_of_radius_zero(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROWS", rows)
    real = torch.randn(13, 37, dtype=torch.float64).repeat(4, 1)
    assert precision_recall(real, real[torch.randperm(52)]) == (1, 1)


def test_precision_and_recall_do_not_depend_on_the_origin() -> None:
    real, generated = torch.randn(60, 8, dtype=torch.float64), torch.randn(60, 8, dtype=torch.float64) + 0.5
    assert precision_recall(real + 1e8, generated + 1e8) == precision_recall(real, generated)
    assert 0 < precision_recall(real, generated).recall < 1


def test_precision_recall_refuses_what_is_no_pair_of_sets() -> None:
    a = torch.randn(5, 3)
    with pytest.raises(ShapeError, match=r"N and M >= 4; got \(3, 3\) and \(5, 3\)"):
        precision_recall(a[:3], a)


def test_class_balance_against_a_reference_of_counts() -> None:
    classes = torch.tensor([0, 0, 1, 2])
    logits = torch.tensor([10.0, 10.0, 10.0, 0.1])[:, None] * torch.eye(4)[classes]
    assert class_balance(logits, torch.ones(4)) == pytest.approx((0.25, 0.75))
    logits = torch.eye(3)[torch.tensor([0, 1, 1, 2])]
    assert class_balance(logits, torch.tensor([10, 20, 10])).total_variation == 0
    assert class_balance(logits, torch.tensor([1.0, 0.0, 0.0])).total_variation == 0.75
    assert class_balance(torch.eye(10)[:1], torch.ones(10)).total_variation == pytest.approx(0.9)


def test_class_balance_is_sure_above_nine_tenths() -> None:
    logits = torch.tensor([[math.log(8.9), 0.0], [math.log(9.1), 0.0]])
    assert [class_balance(row[None], torch.ones(2)).confident for row in logits] == [0, 1]


def test_class_balance_refuses_what_are_no_logits() -> None:
    logits = torch.eye(3)
    with pytest.raises(ShapeError, match=r"logits \(N, K\) and shares \(K,\); got \[0, 3\], \[3\]"):
        class_balance(logits[:0], torch.ones(3))
    with pytest.raises(ShapeError, match=r"got \[3, 3\], \[2\]"):
        class_balance(logits, torch.ones(2))
    with pytest.raises(DomainError, match="1 logits that are not finite, of 9"):
        class_balance(logits.masked_fill(torch.arange(9).view(3, 3) == 4, torch.nan), torch.ones(3))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_auroc_is_that_of_all_pairs_with_ties(low: list[int], high: list[int]) -> None:
    pairs = [(b > a) + (a == b) / 2 for a in low for b in high]
    assert auroc(torch.tensor(low), torch.tensor(high)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-14)


def test_auroc_of_known_cases() -> None:
    a = torch.randn(30)
    assert auroc(a, a + 100) == 1
    assert auroc(a + 100, a) == 0
    assert auroc(a, a) == pytest.approx(0.5, rel=1e-14)
    assert auroc(torch.tensor([0.0, torch.inf]), torch.tensor([torch.inf])) == 0.75


def test_auroc_refuses_what_are_no_scores() -> None:
    a = torch.randn(3)
    with pytest.raises(ShapeError, match=r"two nonempty vectors, got \(0,\) and \(3,\)"):
        auroc(a[:0], a)
    with pytest.raises(DomainError, match="1 scores that are NaN, of 5"):
        auroc(a, torch.tensor([0.0, torch.nan]))
