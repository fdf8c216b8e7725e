"""PSNR against its formula in numpy, and what it refuses."""

import numpy as np
import pytest
import torch

from applications.common.metrics import psnr
from induced.errors import DomainError, DtypeError, ShapeError


def test_psnr_is_its_formula_on_pixels() -> None:
    a = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    b = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    x, y = a.numpy().astype(float), b.numpy().astype(float)
    expected = [10 * np.log10(255**2 / np.mean((x[i] - y[i]) ** 2)) for i in range(5)]
    assert psnr(a, b, 255).numpy() == pytest.approx(expected, rel=1e-13)


def test_psnr_of_one_pixel_value_everywhere_is_known() -> None:
    a = torch.zeros(1, 1, 4, 4)
    assert psnr(a, a + 0.2, 2.0).item() == pytest.approx(20.0, abs=1e-6)


def test_psnr_of_equal_images_is_infinite_and_others_are_not_affected() -> None:
    a = torch.rand(2, 1, 4, 4)
    b = a.clone()
    b[1, 0, 0, 0] += 0.5
    values = psnr(a, b, 1.0)
    assert values[0] == torch.inf
    assert values[1].isfinite()


def test_psnr_does_not_depend_on_the_batch() -> None:
    a, b = torch.rand(7, 1, 16, 16), torch.rand(7, 1, 16, 16)
    alone = torch.cat([psnr(a[i : i + 1], b[i : i + 1], 1.0) for i in range(7)])
    assert alone.numpy() == pytest.approx(psnr(a, b, 1.0).numpy(), rel=1e-14)


def test_psnr_refuses_what_cannot_be_compared() -> None:
    a = torch.rand(2, 1, 4, 4)
    with pytest.raises(ShapeError, match=r"one shape, got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"):
        psnr(a, a[:1], 1.0)
    with pytest.raises(DtypeError, match="bring both to the same range"):
        psnr(a, a.double(), 1.0)
    with pytest.raises(DomainError, match="a positive number; got 0"):
        psnr(a, a, 0)
