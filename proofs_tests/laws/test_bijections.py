"""Charts: round trips, determinants and identity. Oracles: autograd for Jacobians, mpmath for elementary functions."""

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from induced import InducedSpace
from induced.bijections import (
    ActNorm,
    Affine,
    Arctanh,
    Composition,
    ConditionalBijection,
    Conv1x1,
    DirectSum,
    Identity,
    Log,
    Logit,
    Sinh,
    Squeeze,
    glow,
    real_nvp,
    rounding,
)
from induced.bijections.conditional import ConditionalActNorm
from induced.bijections.elementwise import Elementwise
from induced.checks import check_bijection, require
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, agree, shaken

every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
EPS = torch.finfo(torch.float64).eps


@pytest.mark.fast
@every_dtype
@every_chart
def test_the_checks_of_a_bijection_pass(case: ChartCase, dtype: torch.dtype) -> None:
    g = case.make(dtype)
    reports = check_bijection(g, case.points(g, (5,), dtype))
    require(reports)
    assert "g^-1(g(x)) = x" in [report.law for report in reports]


@every_dtype
@every_chart
def test_shapes_and_dtypes_are_kept_for_every_batch(case: ChartCase, dtype: torch.dtype) -> None:
    g = case.make(dtype)
    for batch in ((), (1,), (0,), (3, 2)):
        x = case.points(g, batch, dtype)
        z = g(x)
        assert z.shape == (*batch, *g.coord_shape) and z.dtype == dtype
        assert g.inverse(z).shape == x.shape and g.inverse(z).dtype == dtype
        assert g.log_abs_det(x).shape == batch and g.log_abs_det(x).dtype == dtype


@every_chart
def test_a_batch_is_mapped_sample_by_sample(case: ChartCase) -> None:
    g = case.make()
    x = case.points(g, (3, 2))
    z, log_det = g.forward_and_log_abs_det(x)
    agree(z, torch.stack([torch.stack([g(p) for p in row]) for row in x]))
    agree(log_det, torch.stack([torch.stack([g.log_abs_det(p) for p in row]) for row in x]))
    agree(g.inverse(z), torch.stack([torch.stack([g.inverse(p) for p in row]) for row in z]), 10)


@every_chart
def test_round_trips_stay_within_the_amplification(case: ChartCase) -> None:
    g = case.make()
    x = case.points(g, (8,))
    with torch.no_grad():
        error = (g.inverse(g(x)) - x).reshape(8, -1).norm(dim=-1).max()
    bound = 100 * EPS * rounding(g, x)
    assert error <= bound
    assert bound < 1e-10  # the amplification itself stays useful at these points


@pytest.mark.fast
@every_chart
def test_log_abs_det_is_that_of_the_jacobian(case: ChartCase) -> None:
    g = case.make()
    entries, dim = math.prod(g.shape), math.prod(g.coord_shape)
    for x in case.points(g, (3,)):
        z = g(x).detach()
        if entries == dim:
            expected = torch.linalg.slogdet(torch.autograd.functional.jacobian(g, x).reshape(dim, dim))[1]
        else:  # the surface of a constrained set: what g^-1 does to volume
            J = torch.autograd.functional.jacobian(g.inverse, z).reshape(entries, dim)
            expected = -torch.linalg.slogdet(J.mT @ J)[1] / 2
        agree(g.log_abs_det(x).detach(), expected, 100)
        agree(g.inv.log_abs_det(z).detach(), -expected, 100)


@every_chart
def test_no_chart_is_at_the_identity_unless_it_only_moves_entries(case: ChartCase) -> None:
    g = case.make()
    x = case.points(g, (3,))
    assert torch.equal(g(x).flatten().sort().values, x.flatten().sort().values) == case.only_moves_entries


@every_chart
def test_the_inverse_of_the_inverse_is_the_chart(case: ChartCase) -> None:
    g = case.make()
    assert (g.inv.inv is g) != case.is_inverse  # an Inverse unwraps to what it inverts, whose inverse is an equal chart
    assert g.inv.inv.identity() == g.identity()
    assert (g.inv.shape, g.inv.coord_shape) == (g.coord_shape, g.shape)
    z = g(case.points(g, (2,)))
    assert torch.equal(g.inv(z), g.inverse(z)) and torch.equal(g.inv.inverse(z := g.inverse(z)), g(z))
    assert g.inv.identity() == g.inv.identity() != g.identity()


def test_composition_is_right_to_left_and_flat() -> None:
    f, g, h = Affine((2,), 2.0), Affine((2,), 1.0, 3.0), Sinh((2,))
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)
    agree((h @ g @ f)(x), torch.sinh(2 * x + 3))
    agree(Composition(f, g, h)(x), torch.sinh(2 * x + 3))
    assert [type(p) for p in ((h @ g) @ f).parts] == [Affine, Affine, Sinh]
    assert (h @ g @ f).layers() == (f, g, h)
    assert [layer.inv for layer in (h @ g @ f).inv.layers()] == [h, g, f]


# ------------------------------------------------------------------------------------------------------------------ identity
def test_charts_at_equal_contexts_are_one_chart() -> None:
    parent, other = real_nvp(2, 2, 4, context=1), real_nvp(2, 2, 4, context=1)
    assert isinstance(parent, ConditionalBijection) and isinstance(other, ConditionalBijection)
    context = torch.tensor([0.5])
    assert parent.at(0.5).identity() == parent.at(0.5).identity()
    assert parent.at(1).identity() == parent.at(1.0).identity()
    assert parent.at(context).identity() == parent.at(context).identity()
    assert parent.at(0.5).inv.identity() == parent.at(0.5).inv.identity()
    assert InducedSpace(parent.at(0.5)) == InducedSpace(parent.at(0.5))
    assert hash(InducedSpace(parent.at(context))) == hash(InducedSpace(parent.at(context)))
    assert parent.at(0.5).identity() != parent.at(0.6).identity()
    assert parent.at(0.5).identity() != other.at(0.5).identity()
    assert parent.at(context).identity() != parent.at(context.clone()).identity()
    assert parent.at(0.5).identity() != parent.at(0.5).inv.identity()


def test_a_batch_of_contexts_meets_the_batch_of_points() -> None:
    for parent, shape in (
        (shaken(real_nvp(3, 2, 8, context=2)), (3,)),
        (shaken(glow((2, 4, 4), 1, 4, context=2), 0.05), (2, 4, 4)),
    ):
        assert isinstance(parent, ConditionalBijection)
        contexts = torch.randn(4, 2)
        parent.at(contexts[0]).initialize(torch.randn(8, *shape))
        x = torch.randn(4, *shape)
        together = parent.at(contexts)
        agree(together(x), torch.stack([parent.at(c)(p) for c, p in zip(contexts, x, strict=True)]))
        agree(together.inverse(x), torch.stack([parent.at(c).inverse(p) for c, p in zip(contexts, x, strict=True)]))
        agree(together.log_abs_det(x), torch.stack([parent.at(c).log_abs_det(p) for c, p in zip(contexts, x, strict=True)]))


def test_a_context_changes_the_chart() -> None:
    parent, x = shaken(real_nvp(3, 2, 8, context=1)), torch.randn(5, 3)
    assert isinstance(parent, ConditionalBijection)
    assert (parent.at(0.0)(x) - parent.at(1.0)(x)).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------------- ActNorm
def test_initialization_gives_mean_0_and_variance_1_a_channel() -> None:
    g = ActNorm((3, 4, 4)).double()
    batch = torch.randn(64, 3, 4, 4).double() * torch.tensor([1.0, 5.0, 0.1]).double()[:, None, None] + 7
    g.initialize(batch)
    std, mean = torch.std_mean(g(batch), dim=(0, 2, 3))
    agree(mean, torch.zeros(3).double(), 100)
    agree(std, torch.ones(3).double(), 100)


def test_a_constant_channel_keeps_its_scale() -> None:
    g = ActNorm((2,)).double()
    g.initialize(torch.tensor([[3.0, 0.0], [3.0, 2.0]]).double())
    agree(g(torch.tensor([4.0, 1.0]).double()), torch.tensor([1.0, 0.0]).double())


def test_a_loaded_state_needs_no_initialization() -> None:
    source, target = ActNorm((3,)), ActNorm((3,))
    source.initialize(torch.randn(8, 3) * 4)
    target.load_state_dict(source.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(target(x), source(x))


def test_initialization_passes_through_a_composition() -> None:
    g = glow((1, 8, 8), 2, 4, levels=2).double()
    batch = 5 * torch.randn(32, 1, 8, 8).double() + 2
    g.initialize(batch)
    first_norm = next(i for i, part in enumerate(g.parts) if isinstance(part, ActNorm))
    x = batch
    for part in g.parts[: first_norm + 1]:
        x = part(x)
    agree(x.std(dim=(0, 2, 3)), torch.ones(4).double(), 100)
    assert 0.5 < float(g(batch).detach().std()) < 2


def test_a_conditional_actnorm_is_initialized_at_two_contexts() -> None:
    parent = ConditionalActNorm((2,), context=1).double()
    batches = {0.0: torch.randn(64, 2).double() * 4 + 1, 1.0: torch.randn(64, 2).double() / 3 - 5}
    for context, batch in batches.items():
        parent.at(context).initialize(batch)
    for context, batch in batches.items():
        std, mean = torch.std_mean(parent.at(context)(batch), dim=0)
        agree(mean, torch.zeros(2).double(), 100)
        agree(std, torch.ones(2).double(), 100)


# --------------------------------------------------------------------------------------------------- charts of known formulas
def test_a_direct_sum_is_its_charts_side_by_side() -> None:
    parts = shaken(real_nvp(3, 2, 8)).double(), Sinh((2,))
    g, x = DirectSum(*parts), torch.randn(4, 5, dtype=torch.float64)
    pieces = x.split([3, 2], -1)
    assert torch.equal(g(x), torch.cat([part(piece) for part, piece in zip(parts, pieces, strict=True)], -1))
    each = (part.log_abs_det(piece) for part, piece in zip(parts, pieces, strict=True))
    assert torch.equal(g.log_abs_det(x), sum(each, torch.zeros(())))
    J = torch.func.jacrev(g)(x[0])
    assert torch.equal(J[:3, 3:], torch.zeros(3, 2)) and torch.equal(J[3:, :3], torch.zeros(2, 3))
    last = g.layers()[-1]
    assert isinstance(last, DirectSum)
    deepest = DirectSum(*last.charts)
    assert len(g.layers()) == 2 and torch.equal(deepest(x)[:, 3:], pieces[1])  # the second chart has one layer alone
    torch.testing.assert_close(Composition(*g.layers())(x), g(x), rtol=0, atol=0)


def test_a_direct_sum_is_initialized_part_by_part() -> None:
    g, batch = DirectSum(ActNorm((2,)), Identity((1,))), 3 + 2 * torch.randn(50, 3)
    g.initialize(batch)
    z = g(batch)
    assert torch.allclose(z[:, :2].mean(0), torch.zeros(2), atol=1e-5) and torch.equal(z[:, 2], batch[:, 2])


def test_squeeze_gathers_patches_into_channels() -> None:
    x = torch.arange(16.0).reshape(1, 4, 4)
    assert torch.equal(Squeeze((1, 4, 4))(x), torch.stack([x[0, i::2, j::2] for i in (0, 1) for j in (0, 1)]))


def test_a_1x1_convolution_is_a_matrix_at_every_position() -> None:
    g = shaken(Conv1x1((3, 2, 5))).double()
    x = torch.randn(2, 3, 2, 5).double()
    agree(g(x).detach(), torch.nn.functional.conv2d(x, g.weight.detach()[:, :, None, None]))


def test_a_1x1_convolution_starts_orthogonal() -> None:
    W = Conv1x1((4, 1, 1)).weight.detach()
    agree(W @ W.mT, torch.eye(4))


def test_couplings_keep_one_half_and_change_the_other() -> None:
    for flip in (False, True):
        g = shaken(real_nvp(5, 2, 8)).parts[int(flip)]
        x = torch.randn(4, 5)
        changed = ((g(x) - x).abs() > 1e-6).all(0).tolist()
        assert changed == ([True, True, False, False, False] if flip else [False, False, True, True, True])


def elementwise_oracle(
    make: Callable[[tuple[int, ...]], Elementwise],
    value: Callable[[mpmath.mpf], mpmath.mpf],
    slope: Callable[[mpmath.mpf], mpmath.mpf],
    x: float,
) -> None:
    """g(x), its log-slope and its inverse against mpmath at 50 digits."""
    g, point = make((1,)), torch.tensor([x], dtype=torch.float64)
    with mpmath.workdps(50):
        z, log_slope = value(mpmath.mpf(x)), mpmath.log(slope(mpmath.mpf(x)))
        amplified = abs(slope(mpmath.mpf(x)) * x) + abs(z) + 1
    assert abs(g(point).item() - float(z)) <= 8 * EPS * float(amplified)
    assert abs(g.log_abs_det(point).item() - float(log_slope)) <= 8 * EPS * float(amplified)
    back = g.inverse(torch.tensor([float(z)], dtype=torch.float64)).item()
    assert abs(back - x) <= 8 * EPS * (abs(x) + (1 + abs(float(z))) / math.exp(float(log_slope)))


@given(st.floats(1e-3, 1e3))
def test_log_is_the_logarithm(x: float) -> None:
    elementwise_oracle(Log, mpmath.log, lambda t: 1 / t, x)


@given(st.floats(1e-3, 0.999))
def test_logit_is_the_log_odds(x: float) -> None:
    elementwise_oracle(Logit, lambda t: mpmath.log(t / (1 - t)), lambda t: 1 / (t * (1 - t)), x)


@given(st.floats(-0.999, 0.999, allow_subnormal=False))
def test_arctanh_is_the_area_tangent(x: float) -> None:
    elementwise_oracle(Arctanh, mpmath.atanh, lambda t: 1 / (1 - t**2), x)


@given(st.floats(-20, 20, allow_subnormal=False))
def test_sinh_is_the_hyperbolic_sine(x: float) -> None:
    elementwise_oracle(Sinh, mpmath.sinh, mpmath.cosh, x)


@given(st.floats(0.01, 100), st.booleans(), st.floats(-10, 10, allow_subnormal=False), st.floats(-10, 10, allow_subnormal=False))
def test_affine_is_its_formula(scale: float, negative: bool, shift: float, x: float) -> None:
    a = -scale if negative else scale
    elementwise_oracle(
        lambda shape: Affine(shape, a, shift), lambda t: mpmath.mpf(a) * t + mpmath.mpf(shift), lambda t: mpmath.mpf(scale), x
    )


def test_sinh_has_a_log_slope_where_cosh_overflows() -> None:
    x = torch.tensor([800.0], dtype=torch.float64)
    assert Sinh((1,)).log_slope(x).item() == pytest.approx(800 - math.log(2), rel=1e-15)


# --------------------------------------------------------------------------------------------------------------- amplification
def test_the_amplification_sees_cancellation_inside_a_composition() -> None:
    # x + 1e6 - 1e6 is the identity, with a Jacobian of condition 1, and loses six digits
    g = Affine((1,), shift=-1e6) @ Affine((1,), shift=1e6)
    x = torch.randn(16, 1)
    assert rounding(g, x) > 1e5
    error = float((g.inverse(g(x)) - x).abs().max())
    assert 1e-4 < error <= 100 * torch.finfo(torch.float32).eps * rounding(g, x)


def test_the_amplification_of_the_identity_is_a_few_roundings_of_a_point() -> None:
    x = torch.randn(5, 3)
    largest = float(x.norm(dim=-1).max())
    assert largest <= rounding(Identity((3,)), x) < 4 * largest


def test_the_amplification_of_no_points_is_0() -> None:
    assert rounding(Identity((3,)), torch.zeros(0, 3)) == 0


def test_the_amplification_of_a_scaling_does_not_depend_on_the_scale() -> None:
    assert 1 <= rounding(Affine((2,), 1e-3), torch.ones(4, 2, dtype=torch.float64)) < 4
