"""Adapted flows: every law on flows of zuko, FrEIA, normflows and nflows, trained a little.

Oracles: the libraries' own forward, inverse and log-determinant, and autograd's Jacobian.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import transforms as T

from induced import InducedSpace, Linearizer
from induced.bijections import (
    Composition,
    from_callables,
    from_freia,
    from_nflows,
    from_normflows,
    from_transform,
    from_zuko,
    rounding,
)
from induced.checks import check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd, require
from induced.errors import InducedError, LawViolation, NotInvertible
from proofs_tests.laws.flows import FLOWS, FlowCase, callables, freia, freia_module, library, mlp, nflows_layer, zuko
from proofs_tests.registry import DTYPES, agree

DOUBLE = torch.float64
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
pytestmark = [  # the libraries use functions that torch has deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:(?s).*deprecated in favor of torch\.linalg"),
]


every_flow = pytest.mark.parametrize("case", FLOWS, ids=str)


@every_dtype
@every_flow
def test_a_trained_flow_is_a_chart(case: FlowCase, dtype: torch.dtype) -> None:
    g = case.trained(dtype)
    require(check_bijection(g, 0.5 * torch.randn(3, *g.shape, dtype=dtype)))


@pytest.mark.parametrize("case", [case for case in FLOWS if case.all_laws], ids=str)
def test_the_laws_of_spaces_and_linearizers_hold_on_a_trained_flow(case: FlowCase) -> None:
    X = InducedSpace(case.trained(DOUBLE))
    points = X.point(0.3 * torch.randn(3, X.dim, dtype=DOUBLE)).detach()  # near the data that the flow has seen
    others = points.roll(1, 0)
    f = Linearizer(torch.linalg.qr(torch.randn(X.dim, X.dim, dtype=DOUBLE))[0], X)
    require(check_space(X, points))
    require(check_linear(f, points), check_adjoint(f, points, others), check_penrose(f, points, others), check_svd(f, 2))


@every_flow
def test_shapes_and_dtypes_are_kept_for_every_batch(case: FlowCase) -> None:
    for dtype in DTYPES:
        g = case.trained(dtype)
        for batch in ((), (1,), (0,), (3, 2)):
            x = torch.randn(*batch, *g.shape, dtype=dtype)
            z, log_det = g.forward_and_log_abs_det(x)
            assert z.shape == (*batch, *g.coord_shape) and z.dtype == log_det.dtype == dtype
            assert log_det.shape == batch and g.inverse(z).shape == x.shape and g.inverse(z).dtype == dtype
            agree(g(x).detach(), z.detach(), 100)


def test_adapted_charts_work_under_vmap_and_compile_where_the_library_does() -> None:
    affine = from_transform(T.AffineTransform(nn.Parameter(torch.ones(4)), 2.0), (4,))
    for g in (affine, zuko("NICE"), freia("GLOWCouplingBlock"), nflows_layer(lambda F: F.ActNorm(4)).eval(), callables()):
        g.initialize(torch.randn(8, 4))
        x = torch.randn(3, 4) / 2
        agree(torch.func.vmap(g)(x), g(x), 10)
        agree(torch.func.vmap(g.inverse)(x), g.inverse(x), 10)
        torch.compiler.reset()
        agree(torch.compile(g, fullgraph=True, backend="eager")(x), g(x), 10)
        agree(torch.compile(g.inverse, fullgraph=True, backend="eager")(x), g.inverse(x), 10)


def test_showing_a_chart_draws_no_random_numbers() -> None:
    g, state = zuko("NSF"), torch.get_rng_state()
    assert "_Zuko(MaskedAutoregressiveTransform, (4,))" in repr(g)
    assert torch.equal(torch.get_rng_state(), state)


@every_flow
def test_every_parameter_gets_a_gradient_both_ways_in_both_modes(case: FlowCase) -> None:
    g = case.trained(torch.float32)
    assert bool([p for p in g.parameters() if p.requires_grad]) == case.trains
    parameters = [p for p in g.parameters() if p.requires_grad]
    for mode in (True, False) if case.trains else ():
        g.train(mode)
        z, log_det = g.forward_and_log_abs_det(torch.randn(16, *g.shape))
        x = g.inverse(torch.randn(16, *g.coord_shape))
        for loss in (z.sin().sum() + log_det.sum(), x.sin().sum()):
            gradients = torch.autograd.grad(loss, parameters)
            assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
            assert sum(bool(gradient.any()) for gradient in gradients) > 0.5 * len(parameters)


@every_flow
def test_state_and_copies_carry_the_flow(case: FlowCase) -> None:
    g = case.trained(torch.float32)
    x = torch.randn(3, *g.shape)
    torch.manual_seed(1)
    other = case.trained(torch.float32) if case.waits else case.build()
    other.load_state_dict(g.state_dict())
    agree(other(x).detach(), g(x).detach())
    agree(copy.deepcopy(g)(x).detach(), g(x).detach())
    agree(copy.deepcopy(g).double()(x.double()).detach(), g(x).detach().double(), 1e10)


@every_flow
def test_a_flow_that_waits_for_data_says_so_until_it_is_initialised(case: FlowCase) -> None:
    g = case.build()
    x = torch.randn(8, *g.shape) * 3 + 1
    if not case.waits:
        before = {name: value.clone() for name, value in g.state_dict().items()}
        g.initialize(x)
        assert all(torch.equal(value, before[name]) for name, value in g.state_dict().items())
        return
    state = copy.deepcopy(g).state_dict()
    for use in (g, g.inverse, g.log_abs_det):
        with pytest.raises(InducedError, match=r"call chart\.initialize\(batch\) once"):
            use(x.reshape(8, *g.shape))
    assert all(torch.equal(value, state[name]) for name, value in g.state_dict().items())  # trying it set nothing
    g.initialize(x)
    z = g(x).detach()
    g.initialize(100 * x)  # the second batch changes nothing
    assert torch.equal(g(x).detach(), z)
    if "ActNorm" in case.name:
        agree(z.mean(0), torch.zeros(4), 100)
        agree(z.std(0), torch.ones(4), 100)


@pytest.mark.parametrize("case", [case for case in FLOWS if case.waits], ids=str)
@pytest.mark.parametrize("ulps", [0, 1])
def test_a_channel_that_is_constant_but_for_rounding_is_not_scaled_up(case: FlowCase, ulps: int) -> None:
    """The libraries divide by its deviation: nflows and FrEIA by 0, normflows by 1e-6."""
    g = case.build()
    x = torch.randn(32, *g.shape)
    x[:, 0] = 0.5
    x[0, 0] += ulps * 2**-24
    g.initialize(x)
    z = g(torch.randn(32, *g.shape)).detach()
    assert z.abs().max() < 20
    if "ActNorm" in case.name:
        agree(g(x).detach()[:, 0], torch.zeros(32), 100)
        agree(g(x).detach()[:, 1:].std(0), torch.ones(3), 100)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "PiecewiseLinearCDF"])
def test_a_flow_that_is_not_onto_is_refused(name: str) -> None:
    with pytest.raises(NotInvertible, match=f"{name} does not map coordinates around 0 to points of shape .* and back"):
        nflows_layer(lambda T: getattr(T, name)(*([(4,)] if name.endswith("CDF") else [])))


def test_a_flow_that_has_lost_its_inverse_is_refused() -> None:
    layer = library("normflows").flows.AffineConstFlow((4,))
    with torch.no_grad():
        layer.s.fill_(-math.inf)
    with pytest.raises(NotInvertible, match="AffineConstFlow does not map coordinates around 0"):
        from_normflows(layer, (4,))


def test_zuko_maps_data_to_noise_with_its_own_determinant_and_context() -> None:
    flows = library("zuko").flows
    flow, x, c = flows.NSF(3, context=2, transforms=2), torch.randn(5, 3), nn.Parameter(torch.tensor([0.3, 2.0]))
    g = from_zuko(flow, (3,), c)
    z, log_det = g.forward_and_log_abs_det(x)
    base = Normal(0.0, 1.0).log_prob(z).sum(-1)
    agree((base + log_det).detach(), flow(c).log_prob(x).detach(), 10)
    z.sum().backward()
    assert c.grad is not None and bool(c.grad.any())
    agree(from_zuko(flow.transform, (3,), c)(x).detach(), z.detach())
    agree(from_zuko(flow.transform.inv, (3,), c).inverse(x).detach(), z.detach(), 10)


def test_nflows_maps_data_to_noise_with_its_own_density() -> None:
    library("nflows")
    from nflows import distributions, flows, transforms

    layers = [transforms.LULinear(3), transforms.CompositeTransform([transforms.AffineTransform(2.0, 1.0)])]
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([3]))
    g, x = from_nflows(flow, (3,)), torch.randn(5, 3)
    z, log_det = g.forward_and_log_abs_det(x)
    agree((Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det).detach(), flow.log_prob(x).detach(), 10)
    assert isinstance(g, Composition) and len(g.layers()) == 2


def test_normflows_maps_data_to_noise_with_its_own_density() -> None:
    nf = library("normflows")
    flow = nf.NormalizingFlow(
        nf.distributions.base.DiagGaussian(4, trainable=False),
        [nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 8, 4], init_zeros=False)), nf.flows.LULinearPermute(4)],
    )
    g, x = from_normflows(flow, (4,)), torch.randn(5, 4)
    z, log_det = g.forward_and_log_abs_det(x)
    agree((Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det).detach(), flow.log_prob(x).detach(), 10)


def test_freia_is_taken_in_its_forward_direction() -> None:
    library("FrEIA")
    from FrEIA import framework, modules

    flow = framework.SequenceINN(4)
    for _ in range(2):
        flow.append(modules.AllInOneBlock, subnet_constructor=mlp)
    g, x = from_freia(flow), torch.randn(5, 4)
    z, log_det = g.forward_and_log_abs_det(x)
    expected, jac = flow(x)
    agree(z.detach(), expected.detach())
    agree(log_det.detach(), jac.detach(), 10)
    assert {id(p) for p in g.parameters()} == {id(p) for p in flow.parameters()}


def test_a_point_that_a_module_would_overwrite_is_left_alone() -> None:
    g = freia_module("HaarDownsampling", (1, 2, 2))
    z = torch.randn(3, 4, 1, 1)
    before = z.clone()
    g.inverse(z)
    assert torch.equal(z, before)


def test_the_amplification_sees_every_layer_of_a_flow() -> None:
    g = freia("GLOWCouplingBlock").double()
    large, small = from_callables(lambda x: x + 1e6, lambda z: z - 1e6, (4,)), torch.randn(3, 4, dtype=DOUBLE)
    assert len(g.layers()) == 2
    assert rounding(large.inv @ g @ large, small - 1e6) > 1e3 * rounding(g, small)


def test_a_flow_with_a_wrong_inverse_or_determinant_is_rejected() -> None:
    library("nflows")
    from nflows import transforms

    class WrongInverse(transforms.AffineTransform):
        def inverse(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
            x, log_det = super().inverse(inputs, context)
            return 1.001 * x, log_det

    class WrongDeterminant(transforms.AffineTransform):
        def forward(self, inputs: Tensor, context: None = None) -> tuple[Tensor, Tensor]:
            z, log_det = super().forward(inputs, context)
            return z, 1.001 * log_det

    x = torch.randn(3, 2)
    for kind, laws in ((WrongInverse, ["g^-1(g(x)) = x", "g(g^-1(z)) = z"]), (WrongDeterminant, ["log|det J|"])):
        failed = [report.law for report in check_bijection(from_nflows(kind(1.0, 2.0), (2,)), x) if not report.ok]
        assert failed[: len(laws)] == laws and all(law in failed or law.split(": ")[-1] in laws for law in failed)


def test_constants_that_a_library_made_in_float32_show_in_float64() -> None:
    g, x = freia("AllInOneBlock", permute_soft=True), torch.randn(5, 4)
    require(check_bijection(g, x))
    with pytest.raises(LawViolation):  # the soft permutation and its inverse are stored as float32 matrices
        require(check_bijection(g.double(), x.double()))


def test_an_inverse_found_by_bisection_is_no_chart_to_rounding() -> None:
    flows = library("zuko").flows
    g = from_zuko(flows.NAF(2, transforms=1, network={"hidden_features": (8,)}), (2,)).double()
    x = torch.randn(5, 2, dtype=DOUBLE)
    difference = (g.inverse(g(x)) - x).abs().max()
    assert 1e-12 < difference < 1e-5  # zuko searches to 1e-6
    with pytest.raises(InducedError, match=r"torch\.func does not take, so that it has no amplification"):
        rounding(g, x)


def test_dropout_and_batch_statistics_stay_off_in_training_mode() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    g = from_callables(lambda x: x, lambda z: z, (2,), log_abs_det=network)
    g.train()
    x = torch.randn(4, 2)
    assert g.training and torch.equal(g.log_abs_det(x), g.log_abs_det(x))
    assert torch.equal(network[2].get_buffer("running_mean"), torch.zeros(2))
