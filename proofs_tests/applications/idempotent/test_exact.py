"""f(f(x)) == f(x) to the last bit: the lattice, arithmetic that does not round, and what fails without them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from applications.idempotent.basis import LatticeRotation, reflections
from applications.idempotent.config import ModelConfig
from applications.idempotent.evaluate import bits, same_bits
from applications.idempotent.fixed_point import LIMIT, Conditioner, FixedPoint
from applications.idempotent.inputs import KINDS, inputs
from applications.idempotent.model import Idempotent, build
from applications.idempotent.record import APPLICATION
from applications.idempotent.sampling import project
from induced import InducedSpace, Linearizer, check
from induced.bijections import Bijection
from induced.checks import check_bijection, check_idempotent, check_linear, require
from induced.errors import DomainError
from induced.operators import Householder

SMALL = ModelConfig(shape=(1, 16, 16), blocks=2, widths=(6, 8), rank=9)
PLAIN = replace(SMALL, basis="coordinates")


def made(config: ModelConfig, stretch: float = 1.5) -> Idempotent:
    """A model whose couplings do much: weights are larger than at the start."""
    torch.manual_seed(2)
    model = build(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.mul_(stretch)
        elif parameter.dim() == 1 and len(parameter) < model.dim:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def digits(n: int, shape: tuple[int, int, int] = SMALL.shape) -> Tensor:
    """Images of thick strokes in [-1, 1)."""
    u = torch.rand(n, shape[0], *(side // 4 for side in shape[1:]), generator=torch.Generator().manual_seed(4))
    return 2 * ((u > 0.7).float().repeat_interleave(4, -1).repeat_interleave(4, -2) * 255 + 0.5) / 256 - 1


# ------------------------------------------------------------------------------------------------------------- bit for bit
@pytest.mark.parametrize("kind", KINDS)
def test_the_projector_is_idempotent_bit_for_bit_and_blind_to_the_batch(kind: str) -> None:
    f, x = made(SMALL).operator(), inputs(kind, digits(20), seed=1)
    found = bits(f, x)
    assert found.ok and found.largest == 0 and found.compared == {1: 20, 7: 20}
    assert not same_bits(project(f, x), x).any()
    once = project(f, x)
    assert torch.equal(f(f(x)), f(x)) and torch.equal(f(x), once)


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["rotated", "coordinates"])
def test_without_the_lattice_it_is_not(config: ModelConfig) -> None:
    model, x = made(config), digits(20)
    found = bits(model.operator(exact=False), x)
    assert not found.ok and found.idempotent < 20 and 0 < found.largest < 1e-3
    assert bits(model.operator(), x).ok


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        replace(PLAIN, rank=0),
        replace(PLAIN, rank=256),
        replace(PLAIN, rank=None),
        replace(SMALL, rank=1),
        replace(SMALL, rank=255),
        replace(SMALL, rank=256),
        replace(SMALL, shape=(1, 8, 8)),
        replace(SMALL, shape=(1, 4, 4), widths=(3,), rank=2),
        replace(SMALL, shape=(3, 8, 16), blocks=1),
        replace(SMALL, bits=1),
        replace(SMALL, bits=20, activation_bits=3, weight_bits=4),
    ],
    ids=lambda c: f"{c.shape} {c.basis} rank {c.rank} bits {c.bits}",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_rank_shape_and_lattice_is_exact(config: ModelConfig, dtype: torch.dtype) -> None:
    f = made(config, stretch=1.1).operator().to(dtype)
    x = torch.randn(9, *config.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = bits(f, x, sizes=(1, 3))
    assert found.ok
    on = torch.round(f(x) * 2.0**config.bits) / 2.0**config.bits + 0.0
    assert same_bits(on, f(x)).all()
    full = config.rank in (None, math.prod(config.shape))
    assert bool(same_bits(f(x), torch.round(x * 2.0**config.bits) / 2.0**config.bits + 0.0).all()) == full
    if config.rank == 0:
        assert same_bits(f(x), f(x[:1]).expand_as(x)).all()


def test_other_batch_dimensions_give_the_same_bits() -> None:
    f, x = made(SMALL).operator(), digits(6)
    whole = f(x)
    assert torch.equal(f(x.reshape(2, 3, *SMALL.shape)), whole.reshape(2, 3, *SMALL.shape))
    assert torch.equal(f(x[0]), whole[0])
    assert f(x[:0]).shape == x[:0].shape and bits(f, x[:0]).ok


def test_the_number_of_threads_changes_no_bit() -> None:
    f, x, threads = made(SMALL).operator(), digits(40), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(f(x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_it_is_the_projector_that_was_trained_up_to_a_few_steps_of_the_lattice() -> None:
    for config in (SMALL, PLAIN):
        model, x = made(replace(config, bits=14), stretch=1.0), digits(20)
        difference = (model.operator()(x) - model.operator(exact=False)(x)).abs().max()
        assert 0 < difference < 50 * 2.0**-14


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["rotated", "coordinates"])
def test_it_keeps_the_laws_of_the_library_and_its_bits_on_disk(config: ModelConfig, tmp_path: Path) -> None:
    f, x = made(replace(config, shape=(1, 8, 8)), stretch=1.0).operator(), digits(5, (1, 8, 8))
    assert isinstance(f.domain, InducedSpace)
    require(check_idempotent(f, x, exact=True), check_bijection(f.domain.chart, x), check_linear(f, x))
    loaded = Linearizer.from_pretrained(f.save_pretrained(tmp_path))
    assert torch.equal(loaded(x), f(x)) and bits(loaded, x).ok


def test_all_laws_are_judged_on_the_lattice_where_its_roundings_are_small() -> None:
    f = APPLICATION.operator(made(replace(SMALL, shape=(1, 8, 8)), stretch=1.0))
    assert isinstance(f.domain, InducedSpace)
    assert f.domain.chart.lattice_step == 2.0**-12, "the map that is judged is the one in use"
    found = check(f, samples=2)
    assert found.ok and found.counts()["unjudgeable"] == 0
    broken = Linearizer(f.core, InducedSpace(Shrinking(f.domain.chart)))
    assert check_idempotent(broken, f.domain.point(torch.eye(64)[:2])).counts()["violated"] == 1


class Shrinking(Bijection):
    """A chart of a lattice whose inverse loses a sixteenth of the coordinates."""

    def __init__(self, g: Bijection) -> None:
        super().__init__(g.shape, g.coord_shape)
        self.g, self.lattice_step = g, g.lattice_step

    def forward(self, x: Tensor) -> Tensor:
        return self.g(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.g.inverse((15 / 16 * z / self.lattice_step).round() * self.lattice_step)


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["rotated", "coordinates"])
def test_gradients_pass_through_the_rounding(config: ModelConfig) -> None:
    model, x = made(replace(config, bits=20), stretch=1.0), digits(5).requires_grad_()
    found, expected = (torch.autograd.grad((model.operator(exact)(x) ** 3).sum(), x)[0].flatten() for exact in (True, False))
    assert torch.cosine_similarity(found, expected, 0) > 0.99 and 0.9 < found.norm() / expected.norm() < 1.1


# ----------------------------------------------------------------------------------------------------------- out of range
def test_an_input_out_of_range_is_an_error_that_names_the_layer_and_the_remedy() -> None:
    f = made(SMALL).operator()
    x = digits(2)
    x[1, 0, 3, 5] = -4096.0
    message = r"lattice coupling 1 with bits=12 .* \|z\| < 2\^\(24 - 12\) = 4096 in torch.float32, got a value of size 4096: "
    with pytest.raises(DomainError, match=message + "use fewer bits, smaller values or float64"):
        f(x)
    assert bits(made(replace(SMALL, bits=10)).operator(), x).ok
    assert bits(f.double(), x.double()).ok


def test_coordinates_out_of_range_are_an_error_of_the_layer_where_they_arise() -> None:
    model = made(PLAIN)
    third: Any = model.chart.parts[5]
    third.conditioner.layers[-1].bias.fill_(5000.0)
    with pytest.raises(DomainError, match="lattice coupling 3 with bits=12 .*got a value of size 50.*use fewer bits"):
        model.operator()(digits(2))
    model = made(SMALL, stretch=0.0)
    with pytest.raises(DomainError, match="the change of basis with bits=12 .*got a value of size "):
        model.operator()(torch.full((1, *SMALL.shape), 4000.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(DomainError, match=r"lattice coupling 1 .*got a value of size (nan|inf)"):
        made(SMALL).operator()(torch.full((1, *SMALL.shape), value))


def test_weights_too_large_for_exact_sums_are_an_error_that_names_the_layer() -> None:
    model = made(PLAIN)
    second: Any = model.chart.parts[2]
    second.conditioner.layers[3].weight.fill_(1e6)
    message = r"layer 4 of the conditioner of coupling 2 adds up integers of absolute values up to .* below 2\^53 = 9.01e\+15: "
    with pytest.raises(DomainError, match=message + "use fewer bits than activation_bits=16, weight_bits=16, or smaller weights"):
        model.operator()
    second.conditioner.layers[3].weight.fill_(math.nan)
    with pytest.raises(
        DomainError, match="layer 4 of the conditioner of coupling 2 adds up integers of absolute values up to nan"
    ):
        model.operator()
    with pytest.raises(DomainError, match="the change of basis adds up .*use fewer bits than weight_bits=30"):
        LatticeRotation(torch.linalg.qr(torch.randn(64, 8))[0], bits=12, weight_bits=30)


# ------------------------------------------------------------------------------------------- arithmetic that does not round
def layers_of(net: Conditioner) -> list[Any]:
    return list(net.layers)


def by_python(net: Conditioner, x: Tensor, a: int, w: int) -> list[int]:
    """The conditioner of an image (C, H, W), pixel by pixel in Python's integers; outputs in steps of 2^-(a + w)."""

    def nearest(value: int, shift: int) -> int:
        """value / 2^shift, ties to even."""
        low, rest = value >> shift, value & ((1 << shift) - 1)
        return low + (rest > 1 << (shift - 1) or (rest == 1 << (shift - 1) and low % 2 == 1))

    top = int(LIMIT) << a
    h: Any = np.array([round(v * 2**a) for v in x.double().flatten().tolist()], dtype=object).reshape(x.shape)
    h = np.minimum(np.maximum(h, -top), top)
    for k, layer in enumerate(layers_of(net)):
        if k:
            h = np.vectorize(lambda v: min(max(nearest(int(v), w), 0), top), otypes=[object])(h)
        weight: Any = np.array([round(v * 2**w) for v in layer.weight.double().flatten().tolist()], dtype=object)
        weight = weight.reshape(layer.weight.shape)
        up, (_, H, W) = isinstance(layer, nn.ConvTranspose2d), h.shape
        sides = (2 * H, 2 * W) if up else (H // 2, W // 2)
        y: Any = np.zeros((layer.out_channels, *sides), dtype=object)
        for o, bias in enumerate(layer.bias.double().tolist()):
            y[o] += round(bias * 2 ** (a + w))
        for c, o, i, j, s, t in np.ndindex(h.shape[0], layer.out_channels, H, W, 4, 4):
            # torch's definitions: a window of 4, a stride of 2, a padding of 1
            if up and 0 <= 2 * i + s - 1 < sides[0] and 0 <= 2 * j + t - 1 < sides[1]:
                y[o, 2 * i + s - 1, 2 * j + t - 1] += h[c, i, j] * weight[c, o, s, t]
            elif not up and (i + 1 - s) % 2 == 0 and (j + 1 - t) % 2 == 0:
                p, q = (i + 1 - s) // 2, (j + 1 - t) // 2
                if 0 <= p < sides[0] and 0 <= q < sides[1]:
                    y[o, p, q] += h[c, i, j] * weight[o, c, s, t]
        h = y
    return [int(v) for v in h.flatten()]


@pytest.mark.parametrize(("a", "w"), [(16, 16), (7, 9)])
def test_every_sum_is_that_of_pythons_integers(a: int, w: int) -> None:
    torch.manual_seed(0)
    net = Conditioner(2, 2, (4, 4), (3, 4))
    with torch.no_grad():
        for layer in layers_of(net):
            layer.weight.copy_(torch.randn(layer.weight.shape))
            layer.bias.copy_(torch.randn(layer.bias.shape))
    fixed = FixedPoint(net, activation_bits=a, weight_bits=w)
    x = torch.cat([torch.randn(2, 2, 4, 4), 60 * torch.randn(1, 2, 4, 4)])
    found = fixed(x) * 2.0 ** (a + w)
    for image, outputs in zip(x, found, strict=True):
        assert outputs.flatten().tolist() == by_python(net, image, a, w)


def permuted(net: Conditioner) -> Conditioner:
    """The same function: inner channels in another order, in which products are then summed."""
    torch.manual_seed(1)
    other = Conditioner(4, 4, (8, 8), (48, 64))
    other.load_state_dict(net.state_dict())
    first, second = layers_of(other)[1:3]
    order = torch.randperm(64)
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        second.weight.copy_(second.weight[order])
    return other


def test_the_order_of_summation_changes_no_bit_but_does_in_floating_point() -> None:
    torch.manual_seed(3)
    net = Conditioner(4, 4, (8, 8), (48, 64))
    other, x = permuted(net), torch.randn(30, 4, 8, 8)
    a, b = (FixedPoint(n, activation_bits=16, weight_bits=16)(x) for n in (net, other))
    assert torch.equal(a, b)
    assert not torch.equal(net(x), other(x))
    assert not torch.equal(net.double()(x.double()), other.double()(x.double()))


def test_fixed_point_is_near_the_conditioner_that_was_trained() -> None:
    torch.manual_seed(5)
    net = Conditioner(4, 4, (8, 8), (16, 24)).double().requires_grad_(False)
    x, step = torch.randn(50, 4, 8, 8, dtype=torch.float64), 2.0**-17
    # |round(a)| errs by half a step, and so does each weight; each layer passes errors on by the sum of its weights
    error, h = step, x
    for k, layer in enumerate(layers_of(net)):
        axes = (0, 2, 3) if isinstance(layer, nn.ConvTranspose2d) else (1, 2, 3)
        products = layer.weight.abs().sum(axes).max(), layer.weight.numel() / layer.out_channels
        error = float(products[0] * error + products[1] * step * (h.abs().max() + error) + step)
        h = layer(h) if k == len(net.layers) - 1 else layer(h).clamp(0, LIMIT)
    difference = (FixedPoint(net, activation_bits=16, weight_bits=16)(x) - net(x)).abs().max()
    assert torch.equal(h, net(x)) and 0 < difference <= error
    assert difference < 1e-3


def test_activations_beyond_the_limit_are_held_to_it_in_training_too() -> None:
    net = Conditioner(2, 2, (4, 4), (3,)).requires_grad_(False)
    x = torch.full((1, 2, 4, 4), 1000.0)
    assert torch.equal(net(x), net(torch.full_like(x, LIMIT)))
    first, last = layers_of(net)
    first.weight.fill_(100.0)
    fixed = FixedPoint(net, activation_bits=16, weight_bits=16)
    # 12 products of the limit with a weight that is rounded by at most half a step
    assert (fixed(x) - net(x)).abs().max() <= 12 * LIMIT * 2.0**-17 + 1e-5
    shut = nn.functional.conv_transpose2d(torch.full((1, 3, 2, 2), LIMIT), last.weight, last.bias, 2, 1)
    assert torch.allclose(net(x), shut)


# ------------------------------------------------------------------------------------------------------- the change of basis
@pytest.mark.parametrize(("n", "r"), [(12, 1), (12, 5), (12, 6), (12, 9), (12, 12), (1, 1)])
def test_a_rotation_of_the_lattice_is_undone_bit_for_bit(n: int, r: int) -> None:
    torch.manual_seed(n + r)
    V = torch.linalg.qr(torch.randn(n, r))[0]
    g = LatticeRotation(V, bits=12, weight_bits=16)
    x = torch.round(torch.randn(500, n) * 2**12) / 2**12
    assert same_bits(g.inverse(g(x)), x).all() and same_bits(g(g.inverse(x)), x).all()
    # a rotation but for a rounding of at most half a step in each of three shears, none of which stretches by more than 2
    loss = 6 * math.sqrt(n) * 2.0**-13 + 1e-3 * x.norm(dim=1)
    assert ((g(x).norm(dim=1) - x.norm(dim=1)).abs() <= loss).all()
    inside = x @ V @ V.mT
    assert (g(inside)[:, r:].norm(dim=1) <= loss).all()
    if r < n:
        assert g(x)[:, r:].norm(dim=1).mean() > 0.1


def test_a_span_that_is_there_already_is_not_turned() -> None:
    g = LatticeRotation(torch.eye(6)[:, :2], bits=12, weight_bits=16)
    x = torch.round(torch.randn(5, 6) * 2**12) / 2**12
    assert same_bits(g(x), x).all()


def test_a_rotation_out_of_range_is_an_error() -> None:
    g = LatticeRotation(torch.tensor([[0.6], [0.8]]), bits=20, weight_bits=16)
    with pytest.raises(DomainError, match="the change of basis with bits=20 is exact for .* = 16 in torch.float32, got a value"):
        g(torch.tensor([9.0, 15.0]))


@pytest.mark.parametrize(("n", "r"), [(7, 1), (7, 3), (7, 7), (1, 1)])
def test_reflections_take_a_span_to_the_first_unit_vectors(n: int, r: int) -> None:
    V = torch.linalg.qr(torch.randn(n, r, dtype=torch.float64))[0]
    Q = Householder(reflections(V)).matrix()
    assert (Q @ V)[r:].abs().max() <= 1e-14 if r < n else True
    assert torch.allclose((Q @ V)[:r].abs(), torch.eye(r, dtype=torch.float64), atol=1e-13)
