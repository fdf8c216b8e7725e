"""Lattice couplings: round trips, idempotency and addition bit for bit. Oracle: numpy's rounding, integers, plain couplings."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from induced import InducedSpace, Linearizer
from induced.bijections import (
    AdditiveCoupling,
    Affine,
    Bijection,
    Composition,
    Flatten,
    Identity,
    LatticeCoupling,
    PixelShuffle,
    RandomSplit,
    Squeeze,
    rounding,
)
from induced.bijections.networks import MLP
from induced.errors import DomainError
from induced.operators import Diagonal
from proofs_tests.registry import agree, shaken

DIM, DEPTH, BITS = 64, 12, 12
Build = Callable[[nn.Module, bool], Bijection]


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Equal to the last bit: -0 is not +0."""
    view = torch.int32 if x.dtype == torch.float32 else torch.int64
    return x.dtype == y.dtype and torch.equal(x.view(view), y.view(view))


def on_lattice(x: Tensor, bits: int = BITS) -> Tensor:
    """x rounded to the lattice by numpy, without -0."""
    return torch.from_numpy(np.round(x.double().numpy() * 2.0**bits) / 2.0**bits + 0.0).to(x.dtype)


def lattice(conditioner: nn.Module, flip: bool) -> Bijection:
    return LatticeCoupling((DIM,), conditioner, flip=flip, bits=BITS)


def ordinary(conditioner: nn.Module, flip: bool) -> Bijection:
    return AdditiveCoupling((DIM,), conditioner, flip=flip)


def couplings(build: Build = lattice, depth: int = DEPTH) -> Composition:
    torch.manual_seed(1)
    return Composition(*(build(shaken(MLP(DIM // 2, DIM // 2, 32), 0.15), bool(k % 2)) for k in range(depth)))


def trained(g: Bijection, steps: int = 5) -> Bijection:
    """The chart after some steps of an optimiser, each of which changes every parameter."""
    optimizer = torch.optim.Adam(g.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        g(torch.randn(32, DIM, dtype=next(g.parameters()).dtype)).square().mean().backward()
        optimizer.step()
    return g


# ------------------------------------------------------------------------------------------------------------- bit for bit
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [0, 5])
def test_round_trips_are_exact_to_the_bit(dtype: torch.dtype, steps: int) -> None:
    g = trained(couplings().to(dtype), steps)
    with torch.no_grad():
        x = on_lattice(3 * torch.randn(256, DIM, dtype=dtype))
        assert (g(x) - x).abs().max() > 0.5
        assert same_bits(g.inverse(g(x)), x)
        assert same_bits(g(g.inverse(x)), x)
        assert same_bits(g(x), on_lattice(g(x)))


def test_ordinary_couplings_are_not_exact() -> None:
    g = couplings(ordinary)
    x = on_lattice(3 * torch.randn(256, DIM))
    with torch.no_grad():
        back = g.inverse(g(x))
    assert not same_bits(back, x)
    assert 0 < (back - x).abs().max() < 1e-3


def test_points_off_the_lattice_are_rounded_to_it() -> None:
    g = couplings()
    x = torch.randn(64, DIM)
    with torch.no_grad():
        assert same_bits(g.inverse(g(x)), on_lattice(x))
        assert same_bits(g(g.inverse(x)), on_lattice(x))
        assert same_bits(g(x), g(on_lattice(x)))


@pytest.mark.parametrize("value", [-0.0, -1e-9, -(2.0**-14), 2.0**-13, 3 * 2.0**-13, -3 * 2.0**-13])
def test_ties_go_to_even_and_minus_zero_becomes_zero(value: float) -> None:
    g = couplings()
    x = torch.full((DIM,), value)
    with torch.no_grad():
        assert same_bits(g.inverse(g(x)), on_lattice(x))
        assert same_bits(g(g.inverse(x)), on_lattice(x))


def test_a_global_projector_is_idempotent_to_the_bit() -> None:
    g = trained(couplings())
    mask = torch.rand(DIM) < 0.5
    X = InducedSpace(g)
    product = Linearizer(Diagonal(mask.float()), X)
    x = torch.randn(128, DIM)
    with torch.no_grad():
        once = g.inverse(torch.where(mask, g(x), 0.0))
        assert same_bits(g.inverse(torch.where(mask, g(once), 0.0)), once)
        # a product gives -0 where the mask is 0, which the chart takes for +0
        assert same_bits(product(product(x)), product(x)) and same_bits(product(x), once)
        assert (once - x).abs().max() > 0.5


def test_the_ordinary_projector_is_not_idempotent_to_the_bit() -> None:
    g = couplings(ordinary)
    mask, x = torch.rand(DIM) < 0.5, torch.randn(128, DIM)
    with torch.no_grad():
        once = g.inverse(torch.where(mask, g(x), 0.0))
        assert not same_bits(g.inverse(torch.where(mask, g(once), 0.0)), once)


def test_images_split_into_streams_stay_exact() -> None:
    split = RandomSplit((1, 4, 4), seed=3)
    halves = [LatticeCoupling((4, 2, 2), shaken(nn.Conv2d(2, 2, 3, padding=1), 0.3), flip=flip) for flip in (False, True)]
    g = Composition(split, *halves, PixelShuffle((4, 2, 2)))
    x = on_lattice(torch.randn(16, 1, 4, 4))
    with torch.no_grad():
        assert same_bits(g.inverse(g(x)), x) and same_bits(g(g.inverse(x)), x)
    assert g.coord_shape == (1, 4, 4) and g.lattice_step == 2.0**-12


def test_the_size_of_the_batch_does_not_change_a_bit() -> None:
    g = couplings()
    x = torch.randn(512, DIM)
    with torch.no_grad():
        assert same_bits(g(x), torch.cat([g(row) for row in x.split(1)]))


# --------------------------------------------------------------------------------------------------------------- arithmetic
def test_addition_of_points_is_exact_and_multiples_are_rounded_by_half_a_step() -> None:
    g = couplings(depth=2)
    X = InducedSpace(g)
    with torch.no_grad():
        x, y, w = g.inverse(torch.randn(3, 64, DIM))
        assert same_bits(X.add(X.add(x, y), w), X.add(x, X.add(y, w)))
        assert same_bits(X.add(x, X.neg(x)), X.zero(64))
        assert same_bits(X.scale(3.0, x), X.add(X.add(x, x), x))
        error = (X.coords(X.scale(0.3, x)) - 0.3 * X.coords(x)).abs().max()
        assert 0.4 * g.lattice_step < error <= 0.5 * g.lattice_step * (1 + 1e-3)


def test_the_bound_is_sharp() -> None:
    g = LatticeCoupling((1,), net := MLP(0, 1, 4), bits=12)
    with torch.no_grad():
        net.last.weight.zero_()
        net.last.bias.fill_(1.0)
        last = torch.tensor([4096 - 2.0**-12])
        assert same_bits(g(last - 1), last) and same_bits(g.inverse(last), last - 1)
        with pytest.raises(DomainError, match="got a value of size 4097"):
            g(last)
        with pytest.raises(DomainError, match="got a value of size 4096"):
            g.inverse(torch.tensor([-4095.5]))
        # beyond it neighbouring floats are more than a step apart
        assert torch.nextafter(torch.tensor(4096.0), torch.tensor(math.inf)) - 4096 > g.lattice_step


# ----------------------------------------------------------------------------------------------------------------- training
def test_gradients_pass_through_the_rounding() -> None:
    torch.manual_seed(0)
    conditioner = shaken(MLP(DIM // 2, DIM // 2, 8)).double()
    g, smooth = LatticeCoupling((DIM,), conditioner, bits=40), AdditiveCoupling((DIM,), copy.deepcopy(conditioner))
    x = torch.randn(16, DIM, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(g(x).square().sum(), [x, *g.parameters()])
    expected = torch.autograd.grad(smooth(x).square().sum(), [x, *smooth.parameters()])
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= 1e3 * g.lattice_step * float(b.norm())
        assert (b != 0).any()


def test_training_lowers_the_loss() -> None:
    g, x = couplings(depth=2), torch.randn(64, DIM)

    def loss() -> Tensor:
        return (g(x) - 0.5 * x.flip(-1)).square().mean()

    before, optimizer = loss().item(), torch.optim.Adam(g.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.9 * before


def test_transforms_and_autocast_do_not_change_a_bit() -> None:
    g = couplings(depth=3)
    x = on_lattice(torch.randn(5, DIM))
    with torch.no_grad():
        expected = g(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert same_bits(g(x), expected)
        assert same_bits(torch.func.vmap(g)(x), expected)
        torch._dynamo.reset()
        assert same_bits(torch.compile(g, fullgraph=True, backend="aot_eager")(x), expected)
        assert same_bits(torch.export.export(g, (x,)).module()(x), expected)
        tangent = torch.func.jvp(g, (x,), (torch.ones_like(x),))[1]
    agree(tangent[0], torch.func.jacrev(g)(x[0]).detach().sum(-1), 10)


# --------------------------------------------------------------------------------------------------------------- lattice_step
def test_a_chart_has_the_coarsest_resolution_of_its_parts() -> None:
    fine, coarse = (LatticeCoupling((2,), MLP(1, 1, 4), bits=bits) for bits in (20, 8))
    assert (fine.lattice_step, fine.inv.lattice_step, (fine @ coarse).lattice_step) == (2.0**-20, 2.0**-20, 2.0**-8)
    assert Identity((2,)).lattice_step == (Identity((2,)) @ Affine((2,), 2.0)).lattice_step == 0


def half_steps(g: Bijection, x: Tensor) -> float:
    """The amplification in half steps of a lattice of 12 bits, each of which counts 3/10."""
    with torch.no_grad():
        return rounding(g, x) * torch.finfo(x.dtype).eps / (0.3 * 2.0**-13)


def test_the_amplification_counts_the_rounding_to_a_lattice_once() -> None:
    x = torch.randn(8, DIM, dtype=torch.float64)
    for depth in (1, 12):
        g = couplings(depth=depth).double()
        assert half_steps(g, x) == pytest.approx(math.sqrt(DIM), rel=1e-6)
        assert half_steps(g.inv, x) == pytest.approx(math.sqrt(DIM), rel=1e-6)


def test_the_amplification_counts_the_rounding_again_where_the_lattice_was_left() -> None:
    x = torch.randn(8, DIM, dtype=torch.float64)
    one = couplings(depth=1).double()
    tenfold = Affine((DIM,), 10.0)
    once = math.sqrt(DIM)
    moved = Flatten((DIM,))
    assert half_steps(one @ moved @ one, x) == pytest.approx(once, rel=1e-6)
    assert half_steps(tenfold @ one, x) == pytest.approx(once, rel=1e-6)
    # coordinates ten times as long are rounded by a tenth, as seen from the points
    assert half_steps(one @ tenfold, x) == pytest.approx(once / 10, rel=1e-6)
    assert half_steps(one @ tenfold @ one, x) > 1.005 * once


def test_a_finer_lattice_after_a_coarser_one_rounds_nothing() -> None:
    x = torch.randn(8, 2, dtype=torch.float64)
    fine, coarse = (LatticeCoupling((2,), MLP(1, 1, 4), bits=bits).double() for bits in (20, 12))
    assert half_steps(fine @ coarse, x) == pytest.approx(math.sqrt(2), rel=1e-6)
    with torch.no_grad():
        assert same_bits((fine @ coarse).inverse((fine @ coarse)(x)), on_lattice(x))
    assert half_steps(coarse @ fine, x) > math.sqrt(2)


# ------------------------------------------------------------------------------------------------- charts that move entries
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_squeeze_and_pixel_shuffle_are_torchs(factor: int) -> None:
    x, z = torch.randn(2, 3, 6, 12), torch.randn(2, 2 * factor**2, 3, 4)
    assert same_bits(Squeeze((3, 6, 12), factor)(x), nn.functional.pixel_unshuffle(x, factor))
    assert same_bits(PixelShuffle((2 * factor**2, 3, 4), factor)(z), nn.functional.pixel_shuffle(z, factor))


def test_a_random_split_deals_two_pixels_of_each_patch_to_either_stream() -> None:
    patterns = set()
    for seed in range(30):
        g = RandomSplit((1, 4, 6), seed)
        x = torch.arange(4).reshape(2, 2).repeat(2, 3)[None].float()
        z = g(x)
        assert z.shape == (4, 2, 3) and (z == z[:, :1, :1]).all()
        patterns.add(tuple(z[:, 0, 0].tolist()))
        assert g.order.tolist() == z[:, 0, 0].tolist() == RandomSplit((2, 2, 2), seed).order.tolist()
    assert len(patterns) > 10


def test_a_random_split_keeps_the_channels_of_a_pixel_in_one_stream() -> None:
    g = RandomSplit((3, 2, 2))
    pixels = torch.arange(4.0).reshape(1, 2, 2) + 10 * torch.arange(3.0)[:, None, None]
    z = g(pixels).flatten()
    assert z.tolist() == [i + 10 * c for i in g.order.tolist() for c in range(3)]


def test_a_random_split_is_saved_with_its_pattern() -> None:
    source, target = RandomSplit((1, 2, 2), seed=0), RandomSplit((1, 2, 2), seed=1)
    x = torch.randn(1, 2, 2)
    assert not torch.equal(source(x), target(x))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(x), target(x)) and torch.equal(target.inverse(source(x)), x)
