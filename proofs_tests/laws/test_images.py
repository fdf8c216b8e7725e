"""Charts of images: U-Nets as conditioners, glow made of them, recomputation, memory formats and autocast."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import assert_type

import pytest
import torch
from torch import Tensor, nn

from induced.bijections import (
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    Composition,
    ConditionalBijection,
    ConditionalComposition,
    RationalQuadraticCoupling,
    Reversible,
    glow,
    real_nvp,
    rounding,
)
from induced.bijections.conditional import ConditionalCoupling
from induced.bijections.coupling import Coupling
from induced.bijections.networks import ConvNet, UNet
from induced.bijections.networks.convnet import LocalNorm
from induced.bijections.networks.mlp import Modulation
from induced.serialization import load, save
from proofs_tests.registry import DTYPES, agree, initialized, shaken

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_norms = pytest.mark.parametrize("norm", [True, False], ids=["group norm", "no norm"])
SHAPE, EPS = (1, 8, 8), torch.finfo(torch.float32).eps


def labelled_glow(dtype: torch.dtype = torch.float32, blocks: int = 1) -> ConditionalBijection:
    """A glow of U-Nets at a context of two numbers, far from its start."""
    parent = glow(SHAPE, blocks, 8, context=2, conditioner=UNet)
    assert isinstance(parent, ConditionalBijection)
    parent.at(torch.zeros(2)).initialize(torch.randn(16, *SHAPE))
    return shaken(parent, 0.03).to(dtype)


# -------------------------------------------------------------------------------------------------------------- the network
@both_norms
@every_dtype
def test_an_image_and_its_context_do_not_see_the_others(norm: bool, dtype: torch.dtype) -> None:
    net = shaken(UNet((2, 8, 8), 3, 8, context=2, norm=norm)).to(dtype)
    x, c = torch.randn(2, 3, 2, 8, 8, dtype=dtype), torch.randn(2, 3, 2, dtype=dtype)
    y = net(x, c).detach()
    alone = torch.stack([torch.stack([net(x[i, j], c[i, j]) for j in range(3)]) for i in range(2)]).detach()
    agree(y, alone, 10)
    agree(net(x, c[0, 0]).detach(), net(x, c[0, 0].expand(2, 3, 2)).detach(), 10)
    assert net(x[:0], c[:0]).shape == (0, 3, 3, 8, 8)


@pytest.mark.parametrize(
    ("sides", "halved"),
    [((1, 1), 0), ((2, 2), 0), ((4, 4), 1), ((8, 8), 2), ((16, 16), 3), ((64, 64), 4), ((6, 6), 1), ((8, 3), 0), ((64, 4), 1)],
)
def test_sides_are_halved_while_they_are_even_and_at_least_4(sides: tuple[int, int], halved: int) -> None:
    net = UNet((1, *sides), 2, 1, depth=4)
    assert net.depth == halved and UNet((1, *sides), 2, 1, depth=1).depth == min(halved, 1)
    assert net.bottom.first.in_channels == 2**halved
    assert net(torch.randn(1, *sides)).shape == (2, *sides)
    assert not [name for name, p in net.named_parameters() if _gradient(net, p, sides) is None], "parameters without use"


def _gradient(net: UNet, p: Tensor, sides: tuple[int, int]) -> Tensor | None:
    return torch.autograd.grad(net(torch.randn(1, *sides)).sum(), p, allow_unused=True)[0]


def test_every_residual_block_is_told_the_context() -> None:
    net = shaken(UNet((2, 8, 8), 2, 8, context=1))
    blocks = [module.affine for module in net.modules() if isinstance(module, Modulation) and module.affine is not None]
    assert len(blocks) == 2 * net.depth + 1 == 5
    x, weights = torch.randn(3, 2, 8, 8), [block.weight.detach().clone() for block in blocks]
    for told in (*range(len(blocks)), None):
        with torch.no_grad():
            for k, block in enumerate(blocks):
                block.weight.copy_(weights[k] * (k == told))
        differs = not torch.equal(net(x, torch.tensor([0.0])), net(x, torch.tensor([1.0])))
        assert differs == (told is not None)


def test_each_level_sends_its_images_past_those_below() -> None:
    net, x = UNet((2, 8, 8), 2, 8), torch.randn(2, 2, 8, 8)
    for closed in net.widen:
        nn.init.zeros_(closed.get_parameter("weight"))
    y = net(x)
    assert len(net.widen) == 2 and not torch.equal(y[0], y[1])
    nn.init.zeros_(net.first.weight)
    assert torch.equal(*net(x))


def test_without_a_norm_a_pixel_depends_on_its_surroundings_alone() -> None:
    x = torch.randn(1, 2, 64, 64, dtype=torch.float64)
    changed = x.clone()
    changed[..., :4, :4] += 1
    for norm in (False, True):
        net = shaken(UNet((2, 64, 64), 2, 8, depth=1, norm=norm)).double()
        far = (net(changed) - net(x))[..., 32:, 32:]
        assert bool(far.any()) == norm
        # a translation by the cell of the coarsest grid is one of the result, away from the edges
        moved = net(x.roll((2, 4), (-2, -1))).roll((-2, -4), (-2, -1))
        inner = (slice(None), slice(None), slice(28, 36), slice(28, 36))
        if not norm:
            agree(moved[inner].detach(), net(x)[inner].detach(), 10)


def test_training_and_evaluation_are_the_same_function() -> None:
    net, x = shaken(UNet((2, 8, 8), 2, 8, context=1)), torch.randn(4, 2, 8, 8)
    context = torch.ones(1)
    assert torch.equal(net.train()(x, context), net.eval()(x, context)) and not list(net.buffers())


@both_norms
def test_a_constant_image_is_no_edge_case(norm: bool) -> None:
    net, x = UNet((1, 8, 8), 2, 8, norm=norm), torch.zeros(2, 1, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x).square().sum(), x)
    assert grad.isfinite().all() and float(grad.norm()) < 10


@both_norms
def test_a_coupling_of_u_nets_starts_near_the_identity_and_not_at_it(norm: bool) -> None:
    g, x = AffineCoupling((4, 16, 16), UNet((2, 16, 16), 4, 16, norm=norm)), torch.randn(8, 4, 16, 16)
    assert 0.01 < float((g(x) - x).detach().norm() / x.norm()) < 0.3


# ---------------------------------------------------------------------------------------------------------------- the charts
@pytest.mark.parametrize("context", [0, 2])
def test_a_glow_asks_for_each_conditioner_by_the_half_that_it_sees(context: int) -> None:
    asked = []

    def conditioner(shape: Sequence[int], outputs: int, width: int, k: int) -> nn.Module:
        asked.append((tuple(shape), outputs, width, k))
        return UNet(shape, outputs, width, k)

    parent = glow((3, 8, 8), 3, (4, 8), levels=2, context=context, conditioner=conditioner, max_log_scale=0.25)
    first, second = (((1, 8, 8), 4, 4, context), ((2, 8, 8), 2, 4, context)), (((6, 4, 4), 12, 8, context),) * 2
    assert asked == [*first, *first, *second]
    g = parent.at(torch.zeros(2)) if isinstance(parent, ConditionalBijection) else parent
    couplings = [part for part in g.layers() if isinstance(part, AffineCoupling)]
    assert len(couplings) == 6 and {part.max_log_scale for part in couplings} == {0.25}


def test_the_tensors_of_a_glow_keep_their_names() -> None:
    g = glow((1, 4, 4), 1, 4, context=1)
    assert isinstance(g, ConditionalBijection)
    layers = ("first", "modulation.affine", "second", "last")
    coupling = [f"parts.{k}.conditioner.{layer}.{kind}" for k in (2, 3) for layer in layers for kind in ("weight", "bias")]
    norm = [f"parts.1.{name}" for name in ("offset", "weight", "first", "initialized")]
    assert list(g.state_dict()) == [*norm, *coupling, "parts.4.weight"]


@every_dtype
def test_recomputed_gradients_of_a_labelled_glow_agree(dtype: torch.dtype) -> None:
    parent, x = labelled_glow(dtype), torch.randn(4, *SHAPE, dtype=dtype)
    for context in (torch.randn(2, dtype=dtype), torch.randn(4, 2, dtype=dtype)):
        found = []
        for wrap in (Reversible, lambda g: g):
            point, label = x.clone().requires_grad_(), context.clone().requires_grad_()
            z, log_det = wrap(parent.at(label)).forward_and_log_abs_det(point)
            loss = z.pow(3).sum() - log_det.sum()
            grads = torch.autograd.grad(loss, [point, label, *parent.parameters()])
            assert all(grad.any() for grad in grads[:2])
            found.append(torch.cat([grad.flatten() for grad in grads]))
        error = float((found[0] - found[1]).norm() / found[1].norm())
        # the points are recomputed with the rounding of the inverse
        assert error <= rounding(parent.at(context), x) * torch.finfo(dtype).eps


class Held:
    """A saved tensor, counted in `total` while autograd holds it."""

    total = peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.size = 0 if tensor.is_leaf and tensor.requires_grad else tensor.numel()
        Held.total += self.size
        Held.peak = max(Held.peak, Held.total)

    def __del__(self) -> None:
        Held.total -= self.size


def test_memory_of_a_labelled_glow_does_not_grow_with_depth() -> None:
    x, peaks = torch.randn(16, *SHAPE), []
    wraps: tuple[Callable[[Bijection], Bijection], ...] = (lambda g: g, Reversible)
    for wrap in wraps:
        for blocks in (1, 4):
            chart = wrap(labelled_glow(blocks=blocks).at(torch.ones(2)))
            Held.total = Held.peak = 0
            with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
                z, log_det = chart.forward_and_log_abs_det(x)
                (z.square().sum() - log_det.sum()).backward()
            peaks.append(Held.peak)
    kept, kept_deep, recomputed, recomputed_deep = peaks
    assert kept_deep > 3 * kept and recomputed_deep < 1.05 * recomputed < kept


def test_channels_last_is_the_same_chart_and_is_saved_as_such(tmp_path: Path) -> None:
    g, x = shaken(initialized(glow((3, 8, 8), 2, 8, levels=2, conditioner=UNet)), 0.03), torch.randn(4, 3, 8, 8)
    z = g(x).detach()
    g.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for point in (x, x.contiguous(memory_format=torch.channels_last)):
        agree(g(point).detach(), z, rounding(g, x))
        agree(g.inverse(g(point)).detach(), x, rounding(g, x))
    save(g, tmp_path)
    assert torch.allclose(load(tmp_path)(x), z, atol=1e-4)


# -------------------------------------------------------------------------------------------------------- local normalization
@every_dtype
@pytest.mark.parametrize("sides", [(1, 1), (2, 3), (5, 7)])
def test_a_local_norm_is_its_formula_about_each_position(sides: tuple[int, int], dtype: torch.dtype) -> None:
    norm, h = shaken(LocalNorm(2, 3)).to(dtype), torch.randn(2, 3, *sides, dtype=dtype)
    y = norm(h).detach()
    assert norm.gain is not None and norm.bias is not None and y.dtype == dtype
    for i in range(sides[0]):
        for j in range(sides[1]):
            square = h[..., max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
            spread = (square.var((-2, -1), correction=0) + norm.EPS).sqrt()
            expected = (h[..., i, j] - square.mean((-2, -1))) / spread * norm.gain[:, 0, 0] + norm.bias[:, 0, 0]
            # the variance is a difference of squares
            condition = 1 + float((square.square().mean((-2, -1)) / spread.square()).max())
            agree(y[..., i, j], expected.detach(), condition)
    assert norm(h[:0]).shape == h[:0].shape and torch.equal(LocalNorm(0, 3)(h), h)


@every_dtype
def test_a_net_with_a_window_sees_that_much_farther_and_no_more(dtype: torch.dtype) -> None:
    net, x = shaken(ConvNet(2, 3, 4, window=2)).to(dtype), torch.randn(1, 2, 15, 15, dtype=dtype)
    other = x.clone()
    other[..., 0] += 1
    moved = (net(other) - net(x)).detach().abs().amax((0, 1, 2))
    assert float(moved[5]) > 1e-6 > 100 * float(moved[6:].max())  # three entries and the window


@every_dtype
def test_a_coupling_with_a_window_inverts_and_is_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    g = AffineCoupling((4, 6, 6), shaken(ConvNet(2, 4, 8, window=1))).to(dtype)
    x = torch.randn(3, 4, 6, 6, dtype=dtype)
    agree(g.inverse(g(x)).detach(), x, rounding(g, x))
    save(g, tmp_path)
    assert torch.equal(load(tmp_path)(x), g(x))
    torch.testing.assert_close(torch.vmap(g)(x), g(x))
    assert g.to("meta")(x.to("meta")).shape == x.shape


# ------------------------------------------------------------------------------------------------------------------ autocast
KINDS: dict[str, tuple[type[Coupling], int]] = {
    "affine": (AffineCoupling, 2),
    "additive": (AdditiveCoupling, 1),
    "spline": (partial(RationalQuadraticCoupling, bins=3), 8),  # type: ignore[dict-item]
}
NETS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "UNet": lambda shape, outputs: UNet(shape, outputs, 8, 1),
    "ConvNet": lambda shape, outputs: ConvNet(shape[0], outputs, 8, 1),
    "ConvNet, normalized": lambda shape, outputs: ConvNet(shape[0], outputs, 8, 1, window=2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_under_autocast_a_coupling_inverts_in_the_precision_of_its_points(kind: str, net: str) -> None:
    cls, per_entry = KINDS[kind]
    conditioner = shaken(NETS[net]((2, 8, 8), 2 * per_entry), 0.05)
    g = ConditionalCoupling((4, 8, 8), conditioner, kind=cls).at(torch.tensor([0.5]))
    x = torch.randn(8, 4, 8, 8)
    dtypes = []
    conditioner.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    exact = g(x).detach()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        z, log_det = g.forward_and_log_abs_det(x)
        back, log_det_back = g.inverse(z), g.inv.log_abs_det(z)
    assert dtypes[0] == torch.float32 and set(dtypes[1:]) == {torch.bfloat16}
    assert z.dtype == back.dtype == log_det.dtype == torch.float32
    assert float((back - x).abs().max()) < 1e-5
    # bfloat16 would keep three digits of these sums
    assert float((log_det + log_det_back).abs().max()) <= 1e-5 * max(1.0, float(log_det.abs().max()))
    assert 1e-6 < float((z - exact).norm() / exact.norm()) < 2e-2


def test_under_autocast_log_determinants_are_those_of_the_map_that_runs() -> None:
    # the slopes of the changed half are numbers that finite differences see exactly: the coupling is affine in it
    g, x = AffineCoupling((4, 4, 4), shaken(UNet((2, 4, 4), 4, 8))), torch.randn(3, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        shifted = x.clone()
        shifted[:, 2:] += 1
        slopes = (g(shifted).double() - g(x).double())[:, 2:]
        agree(g.log_abs_det(x), slopes.log().sum((1, 2, 3)).float(), 10)


def test_under_autocast_a_chain_inverts_in_the_lower_precision() -> None:
    g = shaken(initialized(glow((3, 16, 16), 4, 16, levels=2, conditioner=UNet)), 0.05)
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        full = float((g.inverse(g(x)) - x).abs().max())
        with torch.autocast("cpu", torch.bfloat16):
            z = g(x)
            error = float((g.inverse(z) - x).abs().max())
    # a half that comes back with an error of float32 may fall into another bfloat16, and moves what it conditions
    assert z.dtype == torch.float32
    assert full <= rounding(g, x) * EPS and 100 * full < error <= rounding(g, x) * torch.finfo(torch.bfloat16).eps


def test_a_type_checker_tells_a_chart_from_a_family_of_charts() -> None:
    """mypy reads this; where the context is a variable, it knows neither."""
    assert isinstance(assert_type(real_nvp(2), Composition), Composition)
    assert isinstance(assert_type(glow((1, 4, 4), 1, 4), Composition), Composition)
    assert isinstance(assert_type(real_nvp(2, context=1), ConditionalComposition), ConditionalComposition)
    assert isinstance(assert_type(glow((1, 4, 4), 1, 4, context=2), ConditionalComposition), ConditionalComposition)
