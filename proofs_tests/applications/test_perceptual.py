"""Perceptual distances: ST-LPIPS against a forward pass in numpy, laws of both, and how the one is chosen."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.perceptual import (
    MIN_SIDE,
    ST_LPIPS,
    PerceptualDistance,
    PyramidDistance,
    ShiftTolerantLPIPS,
    directions,
    perceptual,
)
from induced.errors import DataError, DomainError, DtypeError, ShapeError

weights_needed = pytest.mark.skipif(
    not os.environ.get("INDUCED_DATA"), reason="INDUCED_DATA is not set: the weights of ST-LPIPS are elsewhere"
)
KINDS = [pytest.param("st-lpips", marks=weights_needed), "pyramid"]


@pytest.fixture(scope="module", params=KINDS)
def distance(request: pytest.FixtureRequest) -> PerceptualDistance:
    return perceptual(name=request.param)


@pytest.fixture(scope="module")
def lpips() -> ShiftTolerantLPIPS:
    net = perceptual(name="st-lpips")
    assert isinstance(net, ShiftTolerantLPIPS)
    return net


def pictures(n: int, side: int) -> Tensor:
    """Smooth coloured blobs with edges, in [-1, 1): more like pictures than noise is."""
    coarse = torch.rand((n, 3, 5, 5), generator=torch.Generator().manual_seed(7))
    smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 0.99)
    return torch.where(smooth > 0.6, smooth, smooth / 2) * 2 - 1


def blurred(images: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """A convolution layer with zero padding, as one sum over windows."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4))) + bias[:, None, None]


def reduced(x: np.ndarray) -> np.ndarray:
    """Reflect by 2, blur by 1 2 1, keep every other pixel."""
    x = np.pad(x, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    for axis in (1, 2):
        x = ndimage.convolve1d(x, [0.25, 0.5, 0.25], axis=axis)
    return x[:, 1:-1:2, 1:-1:2]


def largest(x: np.ndarray) -> np.ndarray:
    """Maximum over 3 x 3 pixels."""
    return ndimage.maximum_filter(x, (1, 3, 3))[:, 1:-1, 1:-1]


def stages_by_numpy(image: np.ndarray, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The stages of the net from its layout, without torch."""

    def layer(x: np.ndarray, name: str, padding: int) -> np.ndarray:
        return convolved(x, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], padding)

    x = (image - weights["scaling_layer.shift"][0]) / weights["scaling_layer.scale"][0]
    stages = [np.maximum(reduced(layer(x, "slice1.0", 2)), 0)]
    stages.append(np.maximum(layer(reduced(largest(stages[-1])), "slice2.5", 2), 0))
    stages.append(np.maximum(layer(reduced(largest(stages[-1])), "slice3.9", 1), 0))
    stages.append(np.maximum(layer(stages[-1], "slice4.11", 1), 0))
    stages.append(np.maximum(layer(stages[-1], "slice5.13", 1), 0))
    return stages


@weights_needed
def test_st_lpips_is_its_layout_by_numpy(lpips: ShiftTolerantLPIPS) -> None:
    weights = {name: value.double().numpy() for name, value in load_file(Path(os.environ["INDUCED_DATA"], *ST_LPIPS)).items()}
    a, b = pictures(2, 22).split(1)
    found = lpips(a, b).item()
    expected = 0.0
    pairs = [stages_by_numpy(x[0].double().numpy(), weights) for x in (a, b)]
    for k, (x, y) in enumerate(zip(*pairs, strict=True)):
        x, y = (f / np.sqrt((f**2).sum(0, keepdims=True)) for f in (x, y))
        expected += np.einsum("c,chw->", weights[f"lin{k}.model.1.weight"].ravel(), (x - y) ** 2) / x[0].size
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0.1


@weights_needed
def test_st_lpips_has_maps_of_these_shapes(lpips: ShiftTolerantLPIPS) -> None:
    shapes = {64: (30, 15, 8), 32: (14, 7, 4), MIN_SIDE: (9, 5, 3)}
    for side, (first, second, third) in shapes.items():
        found = [tuple(maps.shape) for maps in lpips.maps(torch.zeros(2, 3, side, side))]
        assert found == [
            (2, c, s, s) for c, s in zip((64, 192, 384, 256, 256), (first, second, third, third, third), strict=True)
        ]


@weights_needed
def test_st_lpips_needs_its_shortest_side_and_enlarges_below_it(lpips: ShiftTolerantLPIPS) -> None:
    a, b = pictures(2, MIN_SIDE - 1).split(1)
    with pytest.raises(RuntimeError, match="[Pp]adding"):
        x = (a - lpips.shift) / lpips.scale
        for stage in lpips.stages:
            x = stage(x)
    by_hand = [F.interpolate(x, (MIN_SIDE, MIN_SIDE), mode="bilinear", align_corners=False) for x in (a, b)]
    assert torch.allclose(lpips(a, b), lpips(*by_hand), rtol=1e-5)
    assert lpips(a[:, :, :1, :1], b[:, :, :1, :1]).isfinite()


@weights_needed
def test_st_lpips_hardly_sees_a_shift_that_moves_a_net_without_blur(lpips: ShiftTolerantLPIPS) -> None:
    aliased = perceptual(name="st-lpips")
    for layer in aliased.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.weight.zero_()[:, :, 1, 1] = 1
    a = pictures(8, 65)
    left, right = a[..., 1:], a[..., :-1]
    others = lpips(left, left.roll(1, 0)).mean()
    assert lpips(left, right).mean() < 0.05 * others
    assert lpips(left, right).mean() < 0.7 * aliased(left, right).mean()


@weights_needed
def test_st_lpips_repeats_grey_channels(lpips: ShiftTolerantLPIPS) -> None:
    a, b = pictures(2, 32)[:, :1].split(1)
    assert torch.allclose(lpips(a, b), lpips(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)), rtol=1e-5)
    assert 0.01 < lpips(a, b).item() < 2


def test_a_pixel_without_any_response_has_no_direction_and_no_gradient() -> None:
    maps = torch.stack((torch.zeros(4), torch.tensor([3.0, 0, 4, 0])), 1).view(1, 4, 1, 2).requires_grad_()
    found = directions(maps)
    assert torch.allclose(found, torch.tensor([[0, 0, 0, 0], [0.6, 0, 0.8, 0]]).mT.view(1, 4, 1, 2))
    (gradient,) = torch.autograd.grad(found[..., 0].square().sum(), maps)
    assert not gradient.any()


@weights_needed
def test_st_lpips_is_frozen_and_has_a_finite_gradient_at_equal_and_blank_images(lpips: ShiftTolerantLPIPS) -> None:
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    for a in (pictures(2, 32), torch.zeros(2, 3, 32, 32)):
        x = a.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(lpips(x, a).sum(), x)
        assert gradient.isfinite().all()


def test_distance_is_zero_for_equal_images_positive_for_others_and_symmetric(distance: PerceptualDistance) -> None:
    a = pictures(6, 32)
    b = a.roll(1, 0)
    assert torch.equal(distance(a, a), torch.zeros(6))
    assert (distance(a, b) > 0).all()
    assert torch.allclose(distance(a, b), distance(b, a), rtol=1e-6)


def test_distance_grows_with_noise_and_with_blur(distance: PerceptualDistance) -> None:
    a = pictures(3, 64)
    noise = torch.randn(a.shape)
    noisy = [float(distance(a, a + s * noise).mean()) for s in (0.01, 0.03, 0.1, 0.3)]
    smooth = [float(distance(a, blurred(a, s)).mean()) for s in (0.5, 1.0, 2.0, 4.0)]
    assert noisy == sorted(noisy) and noisy[0] < 0.2 * noisy[-1]
    assert smooth == sorted(smooth) and smooth[0] < 0.5 * smooth[-1]


def test_distance_does_not_depend_on_the_batch(distance: PerceptualDistance) -> None:
    a = pictures(5, 32)
    b = a.flip(0) * 0.9
    alone = torch.cat([distance(a[i : i + 1], b[i : i + 1]) for i in range(5)])
    assert torch.allclose(distance(a, b), alone, rtol=1e-5)
    assert distance(a[:0], b[:0]).shape == (0,)


def test_distance_has_the_gradient_that_differences_find(distance: PerceptualDistance) -> None:
    a, b = pictures(2, 24).double().split(1)
    distance = distance.double()
    x = a.clone().requires_grad_()
    direction = torch.randn_like(a)
    (gradient,) = torch.autograd.grad(distance(x, b).sum(), x)
    h = 1e-6
    slope = (distance(a + h * direction, b) - distance(a - h * direction, b)).item() / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)
    distance.float()


def test_distance_is_one_graph_to_compile_and_takes_autocast(distance: PerceptualDistance) -> None:
    a, b = pictures(2, 32).split(1)
    expected = distance(a, b)
    assert torch.allclose(torch.compile(distance, backend="eager", fullgraph=True)(a, b), expected, rtol=1e-5)
    assert torch.allclose(torch.func.vmap(distance)(a[None], b[None])[0], expected, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(distance(a, b).float(), expected, rtol=0.05)


def test_distance_leads_from_noise_to_an_image(distance: PerceptualDistance) -> None:
    target = pictures(1, 24)
    x = torch.zeros_like(target).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.1)
    start = distance(x, target).item()
    for _ in range(12):
        optimizer.zero_grad()
        distance(x, target).sum().backward()
        optimizer.step()
    assert distance(x, target).item() < 0.6 * start


def test_distance_refuses_what_are_no_pairs_of_images(distance: PerceptualDistance) -> None:
    a = pictures(2, 32)
    with pytest.raises(ShapeError, match=r"of one shape, got \(2, 3, 32, 32\) and \(1, 3, 32, 32\)"):
        distance(a, a[:1])
    with pytest.raises(ShapeError, match=r"images \(N, C, H, W\)"):
        distance(a[0], a[0])
    with pytest.raises(DtypeError, match="one floating dtype, got torch.float32 and torch.float64"):
        distance(a, a.double())
    with pytest.raises(DtypeError, match="got torch.uint8 and torch.uint8"):
        distance(a.to(torch.uint8), a.to(torch.uint8))


def test_pyramid_distance_of_a_constant_is_its_size() -> None:
    a = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    assert PyramidDistance()(a, a - 0.3).numpy() == pytest.approx(0.3, rel=1e-12)


def test_pyramid_distance_is_a_norm_of_the_difference() -> None:
    a, b, c = torch.randn(3, 20, 1, 16, 16, dtype=torch.float64).unbind()
    zero = torch.zeros_like(a)
    assert (PyramidDistance()(a, c) <= PyramidDistance()(a, b) + PyramidDistance()(b, c)).all()
    assert torch.allclose(PyramidDistance()(a, b), PyramidDistance()(a - b, zero), rtol=1e-12)
    assert torch.allclose(PyramidDistance()(-2 * a, zero), 2 * PyramidDistance()(a, zero), rtol=1e-12)


def test_pyramid_distance_of_one_level_is_the_size_and_the_edges() -> None:
    a = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    x = a.numpy()
    expected = np.abs(x).mean() + np.abs(np.diff(x, axis=2)).mean() + np.abs(np.diff(x, axis=3)).mean()
    assert PyramidDistance()(a, torch.zeros_like(a)).item() == pytest.approx(expected, rel=1e-12)


def test_pyramid_distance_of_two_levels_is_that_of_scipy() -> None:
    x = torch.randn(9, 8, dtype=torch.float64).numpy()
    coarse = ndimage.convolve1d(
        ndimage.convolve1d(x, np.array([1, 4, 6, 4, 1]) / 16, 0, mode="nearest"),
        np.array([1, 4, 6, 4, 1]) / 16,
        1,
        mode="nearest",
    )[::2, ::2]
    rows, columns = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(x.shape, coarse.shape, strict=True))
    up = ndimage.map_coordinates(coarse, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
    expected = np.abs(coarse).mean() + np.abs(x - up).mean()
    expected += sum(np.abs(np.diff(level, axis=axis)).mean() for level in (x, coarse) for axis in (0, 1))
    found = PyramidDistance()(torch.from_numpy(x)[None, None], torch.zeros(1, 1, 9, 8, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_pyramid_distance_sees_the_scale_that_a_pixelwise_distance_does_not() -> None:
    zero = torch.zeros(1, 1, 32, 32)
    fine = torch.full_like(zero, 0.5)
    fine[..., ::2] = -0.5
    coarse = torch.full_like(zero, 0.5)
    coarse[..., :16] = -0.5
    assert fine.abs().mean() == coarse.abs().mean()
    assert PyramidDistance()(zero, fine).item() > 1.2 * PyramidDistance()(zero, coarse).item()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 40), (0, 1, 8, 8)])
def test_pyramid_distance_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    found = PyramidDistance()(torch.ones(shape), torch.zeros(shape))
    assert torch.equal(found, torch.ones(shape[0]))


def test_perceptual_falls_back_to_the_pyramid_where_there_are_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    assert perceptual().name == perceptual(tmp_path).name == perceptual(name="pyramid").name == "pyramid distance"
    with pytest.raises(DataError, match="lpips/alex_shift_tolerant.safetensors are needed and no folder was given"):
        perceptual(name="st-lpips")
    with pytest.raises(DataError, match="found no weights at .*lpips.alex_shift_tolerant.safetensors or"):
        perceptual(tmp_path, "st-lpips")
    with pytest.raises(DomainError, match="no perceptual distance is called 'lpips'; there are auto, pyramid, st-lpips"):
        perceptual(tmp_path, "lpips")


def test_perceptual_never_falls_back_from_damaged_weights(tmp_path: Path) -> None:
    path = tmp_path / ST_LPIPS[1]
    path.write_bytes(b"no safetensors")
    with pytest.raises(DataError, match="cannot be read as weights of ShiftTolerantLPIPS"):
        perceptual(tmp_path)
    save_file({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1), "extra": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="does not hold the weights of ShiftTolerantLPIPS"):
        perceptual(tmp_path)


@weights_needed
def test_perceptual_takes_the_weights_where_they_are() -> None:
    assert perceptual().name == "ST-LPIPS (alex)"
