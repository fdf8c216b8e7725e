"""Style transfer: styles are linear maps between two spaces, with their algebra, and act in tiles as on the whole."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from applications.style_transfer.algebra import (
    distances,
    interpolate,
    low_rank,
    mix,
    principal_styles,
    remove,
    restyle,
    strength,
)
from applications.style_transfer.model import build
from applications.style_transfer.sampling import stylise, unstylise
from applications.style_transfer.tiles import cuts, framed, in_tiles
from induced.checks import check_adjoint, check_linear, check_penrose, require
from induced.errors import DomainError, ShapeError
from proofs_tests.applications.style_transfer.models import TINY, made, pictures


# -------------------------------------------------------------------------------------------------------------------- model
def test_the_untrained_model_is_near_the_identity_but_no_style_is_it() -> None:
    torch.manual_seed(0)
    model, x = build(TINY), pictures(2).float()
    with torch.no_grad():
        for style in TINY.names:
            y = model.operator(style, 16, 20)(x)
            assert 1e-4 < (y - x).abs().mean() < 0.2


def test_all_styles_are_linear_between_the_same_two_spaces() -> None:
    styles, x = made().at(16, 20), pictures(3)
    f = styles["candy"]
    assert f.domain == styles["udnie"].domain and f.codomain == styles["udnie"].codomain and f.domain != f.codomain
    require(check_linear(f, x), check_adjoint(f, x, f(x)), check_penrose(f, x, f(x)))


def test_a_batch_of_styles_is_each_picture_in_its_own() -> None:
    model, x = made(), pictures(3)
    y = model(x, torch.tensor([2, 0, 1]))
    for i, style in enumerate(("udnie", "identity", "candy")):
        assert torch.allclose(y[i : i + 1], model.operator(style, 16, 20)(x[i : i + 1]), atol=1e-12)
    assert model.operator("candy", 16, 20)(x[:0]).shape == (0, 3, 16, 20)


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_a_core_is_the_convolution_of_its_kernel_in_groups_of_channels(groups: int) -> None:
    config = replace(TINY, groups=groups)
    styles, x = made(config).at(16, 20), pictures(2)
    kernel = styles.kernels[1]
    assert kernel.shape == (12, 12 // groups, 3, 3)
    z = styles.domain.coords(x).reshape(2, 12, 8, 10)
    w = F.conv2d(F.pad(z, (1, 1, 1, 1), mode="circular"), kernel, groups=groups)
    assert torch.allclose(styles["candy"](x), styles.codomain.point(w.flatten(1)), atol=1e-12)


def test_gradients_reach_every_parameter() -> None:
    model = made().requires_grad_(True)
    model(pictures(3), torch.tensor([0, 1, 2])).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"styles": ("candy", "candy")}, "names of their own"),
        ({"styles": ("identity",)}, "none is 'identity'"),
        ({"styles": ()}, "at least one style"),
        ({"kernel": 0}, "kernel must be at least 1, got 0"),
        ({"window": -1}, "window must be at least 0, got -1"),
        ({"groups": 5}, "12 channels do not divide into 5 groups"),
    ],
)
def test_a_model_without_meaning_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(DomainError, match=said):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_unknown_styles_and_odd_sides_are_refused() -> None:
    with pytest.raises(DomainError, match="no style is called 'monet'; this model has identity, candy, udnie"):
        made().at(16, 16)["monet"]
    with pytest.raises(ShapeError, match="even"):
        made().at(16, 15)


# ------------------------------------------------------------------------------------------------------------------ algebra
def test_the_algebra_of_styles_is_that_of_their_coordinates() -> None:
    styles, x = made().at(16, 20), pictures(2)
    X, Y = styles.domain, styles.codomain
    identity, candy, udnie = (styles[name] for name in TINY.names)
    z = X.coords(x)
    expected = {
        "mix": (mix(styles, {"candy": 0.2, "udnie": 0.5}), 0.2 * candy.core(z) + 0.5 * udnie.core(z)),
        "interpolate": (interpolate(styles, "candy", "udnie", 0.3), 0.7 * candy.core(z) + 0.3 * udnie.core(z)),
        "strength": (strength(styles, candy, 1.5), 1.5 * candy.core(z) - 0.5 * identity.core(z)),
    }
    for name, (f, w) in expected.items():
        assert torch.allclose(Y.coords(f(x)), w, atol=1e-10), name
    with pytest.raises(DomainError, match="at least one style of identity, candy, udnie"):
        mix(styles, {})


def test_removal_and_restyling_undo_a_style() -> None:
    styles, x = made().at(16, 20), pictures(2)
    candy, udnie = styles["candy"], styles["udnie"]
    assert float(candy.cond()) < 1e6
    y = candy(x)
    assert (y - x).abs().mean() > 0.05
    assert torch.allclose(remove(candy)(y), x, atol=1e-6)
    assert torch.allclose(restyle(candy, udnie)(y), udnie(x), atol=1e-6)
    assert restyle(candy, udnie).domain == restyle(candy, udnie).codomain == styles.codomain


def test_the_low_rank_part_goes_from_the_identity_to_the_style_and_is_the_best_of_its_rank() -> None:
    styles, x = made().at(8, 12), pictures(2, 8, 12)
    candy, identity = styles["candy"], styles["identity"]
    ends = [low_rank(styles, candy, r)(x) for r in (0, 12)]
    assert torch.allclose(ends[0], identity(x), atol=1e-10) and torch.allclose(ends[1], candy(x), atol=1e-10)
    D = (candy - identity).core.matrix()
    errors = [float(torch.linalg.matrix_norm(D - (low_rank(styles, candy, r) - identity).core.matrix())) for r in range(0, 13, 3)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-10 < errors[-2]
    # Eckart-Young: no operator of 3 * 24 dimensions is nearer than the tail of the singular values
    s = torch.linalg.svdvals(D)
    assert float(s[3 * 24 :].square().sum().sqrt()) <= errors[1] + 1e-10
    # frequency by frequency, by a Fourier transform of the differences of the kernels
    kernel = styles.kernels[1] - styles.kernels[0]
    tails = torch.linalg.svdvals(torch.fft.fft2(kernel, s=(4, 6)).permute(2, 3, 0, 1))[..., 3:].square().sum().sqrt()
    assert abs(errors[1] - float(tails)) < 1e-9


def test_a_low_rank_part_needs_a_cyclic_core_and_a_rank_that_exists() -> None:
    with pytest.raises(DomainError, match="the rank of a style lies in 0..12, got 13"):
        low_rank((styles := made().at(8, 8)), styles["candy"], 13)
    with pytest.raises(DomainError, match="the core must be circular"):
        low_rank((styles := made(replace(TINY, padding="zeros")).at(8, 8)), styles["candy"], 3)


def test_distances_and_principal_styles_are_those_of_the_matrices() -> None:
    styles = made().at(8, 12)
    matrices = torch.stack([styles[name].core.matrix() for name in TINY.names])
    n = matrices.shape[-1]
    flat = matrices.flatten(1) / n**0.5
    assert torch.allclose(distances(styles), torch.cdist(flat, flat), atol=1e-9)
    found = principal_styles(styles)
    expected = torch.linalg.svdvals(flat - flat.mean(0)).square()[:2]
    assert torch.allclose(found.explained, expected / expected.sum(), atol=1e-9)
    rebuilt = found.mean + torch.tensordot(found.scores, found.components, dims=1)
    assert torch.allclose(rebuilt, styles.kernels, atol=1e-9)
    components = torch.stack([styles.operator(kernel).core.matrix().flatten() for kernel in found.components]) / n**0.5
    assert torch.allclose(components @ components.mT, torch.eye(2, dtype=torch.float64), atol=1e-9)


# -------------------------------------------------------------------------------------------------------------------- tiles
@pytest.mark.parametrize(
    ("length", "tile", "margin"), [(40, 16, 4), (41, 16, 4), (16, 16, 4), (17, 16, 7), (100, 24, 8), (5, 24, 8)]
)
def test_tiles_cover_an_axis_once_with_a_margin(length: int, tile: int, margin: int) -> None:
    found = cuts(length, tile, margin)
    assert [i for _, first, end in found for i in range(first, end)] == list(range(length))
    for start, first, end in found:
        stop = min(start + tile, length)
        assert 0 <= start and end <= stop <= length
        assert (start == 0 and first == 0) or first - start >= margin
        assert end == stop == length or stop - end >= margin


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_tiles_agree_with_the_whole_in_the_interior(padding: str) -> None:
    model = made(replace(TINY, padding=padding))  # type: ignore[arg-type]
    reach = model.reach
    assert reach == 2 * (2 * (3 * 2 + 1 + 1) - 1) + 2  # two conditioners, a window and the squeeze in each chart; the core
    margin = -(-reach // 2) * 2
    tile = 2 * margin + 8
    x = pictures(1, 2 * tile + 6, tile + 10)

    def f(part: Tensor) -> Tensor:
        return model.operator("candy", *part.shape[-2:])(part)

    whole, tiled = f(x), in_tiles(f, x, tile=tile, margin=reach, stride=2)
    inner = (..., slice(reach, -reach), slice(reach, -reach))
    # equal but for the order in which a convolution adds
    assert (whole - tiled)[inner].abs().max() < 1e-11
    if padding == "zeros":
        assert (whole - tiled).abs().max() < 1e-11
    # counterexample: with next to no margin the seams show
    torn = in_tiles(f, x, tile=tile, margin=2, stride=2)
    assert (whole - torn)[inner].abs().max() > 1e-6


def test_tiles_that_do_not_fit_are_refused() -> None:
    x = pictures(1, 16, 16)
    for tile in (15, 8):
        with pytest.raises(DomainError, match=f"larger than two margins of 4, got {tile}"):
            in_tiles(torch.neg, x, tile=tile, margin=3, stride=2)
    with pytest.raises(ShapeError, match="sides of 15x16 are no multiples of the stride 2"):
        in_tiles(torch.neg, x[..., :15, :], tile=16, margin=2, stride=2)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 3), (5, 40), (1, 1), (2, 9)])
def test_a_frame_is_cut_off_again(size: tuple[int, int]) -> None:
    x, seen = pictures(2, *size), list[tuple[int, ...]]()

    def f(whole: Tensor) -> Tensor:
        seen.append(tuple(whole.shape[-2:]))
        return 2 * whole

    assert torch.equal(framed(f, x, frame=8, stride=4), 2 * x)
    assert all(side % 4 == 0 for side in seen[0])


@pytest.mark.parametrize("size", [(33, 47), (16, 90)])
def test_pictures_of_any_size_are_stylised_and_large_ones_in_tiles(size: tuple[int, int]) -> None:
    model, x = made(), pictures(1, *size)
    whole = stylise(model, x, {"candy": 0.4, "udnie": 0.6}, 1.2)
    assert whole.shape == x.shape
    tiled = stylise(model, x, {"candy": 0.4, "udnie": 0.6}, 1.2, tile=72)
    # the frame of 32 pixels is as wide as the reach: what wraps around stays in it, but where a picture is too small for one
    if min(size) > 32:
        assert (whole - tiled).abs().max() < 1e-11
    assert stylise(model, x, {"candy": 1.0}, rank=12).allclose(stylise(model, x, {"candy": 1.0}), atol=1e-9)


def test_a_picture_loses_its_style_but_at_its_border() -> None:
    model, x = made(), pictures(1, 96, 96)
    y = stylise(model, x, {"candy": 1.0})
    back, other = unstylise(model, y, {"candy": 1.0}), unstylise(model, y, {"candy": 1.0}, {"udnie": 1.0})
    middle = (..., slice(40, 56), slice(40, 56))
    before = float((y - x)[middle].square().mean())
    assert float((back - x)[middle].square().mean()) < 0.05 * before
    assert float((other - stylise(model, x, {"udnie": 1.0}))[middle].square().mean()) < 0.05 * before
    y = stylise(model, x, {"candy": 1.0}, frame=0)
    assert unstylise(model, y, {"candy": 1.0}, frame=0).allclose(x, atol=1e-6)
    with pytest.raises(DomainError, match="no pseudoinverse at any size"):
        unstylise(made(replace(TINY, padding="zeros")), y, {"candy": 1.0})
