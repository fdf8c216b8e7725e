"""Adapted bijections: every law on flows of zuko, FrEIA, normflows and nflows, trained a little, and on torch's transforms.

Oracles: the libraries' own forward, inverse and log-determinant, and autograd's Jacobian.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, constraints
from torch.distributions import transforms as T

from induced import InducedSpace, Linearizer
from induced.bijections import (
    Affine,
    Bijection,
    Composition,
    from_callables,
    from_freia,
    from_nflows,
    from_normflows,
    from_transform,
    from_zuko,
    real_nvp,
    rounding,
)
from induced.checks import check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd, require
from induced.errors import DomainError, InducedError, LawViolation, NotInvertible
from proofs_tests.registry import DTYPES, agree, shaken

DOUBLE = torch.float64
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def foreign_warnings() -> Iterator[None]:
    """The libraries use functions that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"(?s).*deprecated in favor of torch\.linalg")
        yield


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed (extra `adapters`)")


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.SiLU(), nn.Linear(16, outputs))


# ------------------------------------------------------------------------------------------------------------------- flows
def zuko(kind: str, dim: int = 4, **options: Any) -> Bijection:
    options.setdefault("transforms", 2)
    return from_zuko(getattr(library("zuko").flows, kind)(dim, hidden_features=(16,), **options), (dim,))


def zuko_with_context(kind: str) -> Bijection:
    flow = getattr(library("zuko").flows, kind)(4, context=2, transforms=2, hidden_features=(16,))
    return from_zuko(flow, (4,), torch.tensor([0.5, -1.0]))


def freia(kind: str, dim: int = 4, **options: Any) -> Bijection:
    library("FrEIA")
    from FrEIA import framework, modules

    flow = framework.SequenceINN(dim)
    for _ in range(2):
        flow.append(getattr(modules, kind), subnet_constructor=mlp, **options)
    return from_freia(flow)


def freia_module(kind: str, shape: tuple[int, ...] = (4,), **options: Any) -> Bijection:
    return from_freia(getattr(library("FrEIA.modules"), kind)([shape], **options))


def freia_graph() -> Bijection:
    library("FrEIA")
    from FrEIA import framework as F
    from FrEIA import modules

    start = F.InputNode(4)
    block = F.Node(start, modules.GLOWCouplingBlock, {"subnet_constructor": mlp})
    return from_freia(F.GraphINN([start, block, F.OutputNode(block)]), (4,))


def normflows_couplings(dim: int = 4) -> Bijection:
    nf = library("normflows")
    layers = []
    for _ in range(2):
        layers += [nf.flows.AffineCouplingBlock(nf.nets.MLP([dim // 2, 16, dim], init_zeros=False))]
        layers += [nf.flows.Permute(dim, mode="swap")]
    return from_normflows(nf.NormalizingFlow(nf.distributions.base.DiagGaussian(dim), layers), (dim,))


def normflows_layer(make: Callable[[Any], Any], shape: tuple[int, ...] = (4,)) -> Bijection:
    return from_normflows(make(library("normflows").flows), shape)


def nflows(kind: str, **options: Any) -> Bijection:
    library("nflows")
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import ResidualNet

    def network(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=16, num_blocks=1, dropout_probability=0.3, use_batch_norm=True)

    layers: list[Any] = []
    for k in range(2):
        mask = [(i + k) % 2 for i in range(4)]
        layers.append(getattr(transforms, kind)(mask, network, **options))
    composite = transforms.CompositeTransform(layers)
    return from_nflows(flows.Flow(composite, distributions.StandardNormal([4])), (4,))


def nflows_layer(make: Callable[[Any], Any]) -> Bijection:
    library("nflows")
    from nflows import transforms

    return from_nflows(make(transforms), (4,))


def _callables() -> Bijection:
    return from_callables(torch.sinh, torch.asinh, (4,), log_abs_det=lambda x: x.cosh().log().sum(-1))


SPLINE = {"tails": "linear", "tail_bound": 3.0, "num_bins": 5}


@dataclass(frozen=True)
class FlowCase:
    """A foreign flow; `trains`: it has parameters; `waits`: an ActNorm in it waits for data; `all_laws`: the slower ones too."""

    name: str
    build: Callable[[], Bijection]
    trains: bool = True
    waits: bool = False
    all_laws: bool = False

    def trained(self, dtype: torch.dtype) -> Bijection:
        """The chart after a few steps of maximum likelihood."""
        g = self.build().to(dtype)
        data = torch.randn(64, *g.shape, dtype=dtype) * 0.7 + 0.3
        g.initialize(data)
        if self.trains:
            optimizer = torch.optim.Adam(g.parameters(), 1e-2)
            for _ in range(4):
                z, log_det = g.forward_and_log_abs_det(data)
                optimizer.zero_grad()
                (z.flatten(1).square().sum(-1) / 2 - log_det).mean().backward()
                optimizer.step()
        return g

    def __str__(self) -> str:
        return self.name


FLOWS = [
    FlowCase("zuko NICE", lambda: zuko("NICE"), all_laws=True),
    FlowCase("zuko RealNVP with context", lambda: zuko_with_context("RealNVP")),
    FlowCase("zuko MAF", lambda: zuko("MAF", 2), all_laws=True),
    FlowCase("zuko NSF", lambda: zuko("NSF", 2, transforms=1)),
    FlowCase("zuko NSF of couplings", lambda: zuko("NSF", 2, passes=2)),
    FlowCase("FrEIA GLOW", lambda: freia("GLOWCouplingBlock"), all_laws=True),
    FlowCase("FrEIA AllInOneBlock", lambda: freia("AllInOneBlock")),
    FlowCase("FrEIA one module", lambda: freia_module("RNVPCouplingBlock", (2,), subnet_constructor=mlp)),
    FlowCase("FrEIA GraphINN", freia_graph),
    FlowCase("FrEIA ActNorm", lambda: freia_module("ActNorm"), waits=True),
    FlowCase("FrEIA Haar", lambda: freia_module("HaarDownsampling", (2, 4, 4)), trains=False),
    FlowCase("normflows couplings", normflows_couplings),
    FlowCase("normflows couplings in the plane", lambda: normflows_couplings(2), all_laws=True),
    FlowCase("normflows spline", lambda: normflows_layer(lambda F: F.CoupledRationalQuadraticSpline(4, 1, 16))),
    FlowCase("normflows Glow block", lambda: normflows_layer(lambda F: F.GlowBlock(4, 8), (4, 2, 2)), waits=True),
    FlowCase("nflows affine coupling", lambda: nflows("AffineCouplingTransform"), all_laws=True),
    FlowCase("nflows RQ spline coupling", lambda: nflows("PiecewiseRationalQuadraticCouplingTransform", **SPLINE)),
    FlowCase("nflows MAF", lambda: nflows_layer(lambda F: F.MaskedAffineAutoregressiveTransform(4, 16))),
    FlowCase("nflows ActNorm", lambda: nflows_layer(lambda F: F.ActNorm(4)), waits=True),
    FlowCase("nflows BatchNorm", lambda: nflows_layer(lambda F: F.BatchNorm(4))),
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
    for g in (affine, zuko("NICE"), freia("GLOWCouplingBlock"), nflows_layer(lambda F: F.ActNorm(4)).eval(), _callables()):
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


@pytest.mark.parametrize("name", ["Sigmoid", "PiecewiseLinearCDF"])
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


@dataclass(frozen=True)
class ConditionalCase:
    """A flow with contexts of length 2, its chart for all of them, and its own map of points with a context each."""

    name: str
    build: Callable[[], tuple[Any, Callable[[Tensor | int | None], Any], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]]

    def __str__(self) -> str:
        return self.name


def conditional_zuko() -> Any:
    flow = library("zuko").flows.NSF(3, context=2, transforms=2, hidden_features=(8,))
    return flow, lambda c: from_zuko(flow, (3,), c), lambda x, c: flow.transform(c).call_and_ladj(x)


def conditional_freia() -> Any:
    library("FrEIA")
    from FrEIA import framework, modules

    flow = framework.SequenceINN(3)
    flow.append(modules.AllInOneBlock, cond=0, cond_shape=(2,), subnet_constructor=mlp)
    flow.append(modules.PermuteRandom)
    flow.append(modules.GLOWCouplingBlock, cond=0, cond_shape=(2,), subnet_constructor=mlp)
    return flow, lambda c: from_freia(flow, context=c), lambda x, c: flow(x, [c])


def conditional_graph() -> Any:
    library("FrEIA")
    from FrEIA import framework as F
    from FrEIA import modules

    start, condition = F.InputNode(3), F.ConditionNode(2)
    block = F.Node(start, modules.GLOWCouplingBlock, {"subnet_constructor": mlp}, conditions=condition)
    flow = F.GraphINN([start, condition, block, F.OutputNode(block)])
    return flow, lambda c: from_freia(flow, (3,), c), lambda x, c: flow(x, c=[c])


def conditional_normflows(every: bool) -> Any:
    nf = library("normflows")
    layers = [nf.flows.MaskedAffineAutoregressive(3, 8, context_features=2), nf.flows.LULinearPermute(3)]
    kind = nf.ConditionalNormalizingFlow if every else nf.NormalizingFlow
    flow = kind(nf.distributions.base.DiagGaussian(3, trainable=False), layers)

    def own(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z, first = layers[1].inverse(x)
        z, second = layers[0].inverse(z, context=c)
        return z, first + second

    return flow, lambda c: from_normflows(flow, (3,), c), own


def conditional_nflows(embedded: bool) -> Any:
    library("nflows")
    from nflows import distributions, flows, transforms

    layers = [
        transforms.MaskedAffineAutoregressiveTransform(3, 8, context_features=2),
        transforms.ReversePermutation(3),
        transforms.MaskedAffineAutoregressiveTransform(3, 8, context_features=2),
    ]
    embedding = nn.Sequential(nn.Linear(2, 2), nn.Tanh()) if embedded else None
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([3]), embedding)
    return flow, lambda c: from_nflows(flow, (3,), c), lambda x, c: flow._transform(x, flow._embedding_net(c))


CONDITIONAL = [
    ConditionalCase("zuko", conditional_zuko),
    ConditionalCase("FrEIA", conditional_freia),
    ConditionalCase("FrEIA GraphINN", conditional_graph),
    ConditionalCase("normflows", lambda: conditional_normflows(False)),
    ConditionalCase("normflows ConditionalNormalizingFlow", lambda: conditional_normflows(True)),
    ConditionalCase("nflows", lambda: conditional_nflows(False)),
    ConditionalCase("nflows with an embedding", lambda: conditional_nflows(True)),
]


@pytest.mark.parametrize("case", CONDITIONAL, ids=str)
def test_a_conditional_flow_has_a_chart_at_each_context(case: ConditionalCase) -> None:
    flow, adapted, own = case.build()
    with torch.no_grad():
        for p in flow.double().parameters():
            if p.requires_grad:  # permutations stay what they are
                p.add_(0.3 * torch.randn_like(p))
    parent = adapted(2)
    flow.eval()
    contexts, x = torch.randn(5, 2, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    expected, expected_log_det = own(x, contexts)
    together = parent.at(contexts)
    z, log_det = together.forward_and_log_abs_det(x)
    agree(z.detach(), expected.detach(), 10)
    agree(log_det.detach(), expected_log_det.detach(), 10)
    agree(together.inverse(z).detach(), x, 1e3)
    agree(together.inv.log_abs_det(z.detach()).detach(), -log_det.detach(), 1e3)
    assert together(x.expand(2, 5, 3)).shape == (2, 5, 3)
    for c, point, image in zip(contexts, x, expected.detach(), strict=True):
        agree(parent.at(c)(point).detach(), image, 10)
        agree(adapted(c)(point).detach(), image, 10)
    first, second = contexts[:2]
    assert parent.at(first).identity() == parent.at(first).identity() != parent.at(second).identity()
    assert {id(p) for p in parent.parameters()} == {id(p) for p in flow.parameters()}
    require(check_bijection(parent.at(first), 0.5 * x[:3]))


@pytest.mark.parametrize("case", CONDITIONAL, ids=str)
def test_a_conditional_flow_is_no_chart_without_its_context(case: ConditionalCase) -> None:
    _, adapted, _ = case.build()
    with pytest.raises(NotInvertible, match="context"):
        adapted(None)
    with pytest.raises(NotInvertible, match="context"):
        adapted(7)


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


# -------------------------------------------------------------------------------------------------------- torch transforms
def simplex(n: int) -> Callable[[], Tensor]:
    return lambda: torch.distributions.Dirichlet(torch.full((n,), 3.0, dtype=DOUBLE)).sample((4,))


def uniform(low: float, high: float, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.empty(4, *shape, dtype=DOUBLE).uniform_(low, high)


TRANSFORMS: list[tuple[str, Callable[[], T.Transform], Callable[[], Tensor]]] = [
    ("affine", lambda: T.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([-2.0, 0.5])), uniform(-1, 1, 2)),
    ("affine with numbers", lambda: T.AffineTransform(1.0, -3.0), uniform(-1, 1)),
    ("affine of vectors", lambda: T.AffineTransform(1.0, 3.0, event_dim=1), uniform(-1, 1, 3)),
    ("sigmoid inverse", lambda: T.SigmoidTransform().inv, uniform(0.2, 0.8, 3)),
    ("exp inverse", lambda: T.ExpTransform().inv, uniform(0.5, 2, 2, 2)),
    ("tanh inverse", lambda: T.TanhTransform().inv, uniform(-0.8, 0.8, 3)),
    ("softplus inverse", lambda: T.SoftplusTransform().inv, uniform(0.5, 2, 3)),
    ("normal quantile", lambda: T.CumulativeDistributionTransform(Normal(1.0, 2.0)).inv, uniform(0.2, 0.8, 2)),
    ("powers", lambda: T.ComposeTransform([T.PowerTransform(torch.tensor(2.0)), T.ExpTransform().inv]), uniform(0.5, 2, 2)),
    ("composition", lambda: T.ComposeTransform([T.AffineTransform(0.5, 0.25), T.SigmoidTransform().inv]), uniform(-1, 1, 3)),
    ("inverse of a composition", lambda: T.ComposeTransform([T.AffineTransform(0, 2), T.ExpTransform()]).inv, uniform(1, 3, 2)),
    ("one transform twice", lambda: T.CatTransform([T.AffineTransform(0.0, torch.tensor(2.0))] * 2, -1), uniform(-1, 1, 2)),
    ("nothing", lambda: T.identity_transform, uniform(-1, 1, 2)),
    ("independent", lambda: T.IndependentTransform(T.TanhTransform().inv, 1), uniform(-0.5, 0.5, 3)),
    ("reshape", lambda: T.ReshapeTransform(torch.Size((2, 3)), torch.Size((6,))), uniform(-1, 1, 2, 3)),
    ("concatenation", lambda: T.CatTransform([T.AffineTransform(0.0, 2.0), T.AffineTransform(1.0, 3.0)], -1, [1, 2]),
     uniform(-1, 1, 3)),
    ("concatenation of simplices", lambda: T.CatTransform([T.StickBreakingTransform().inv] * 2, -1, [3, 4]),
     lambda: torch.cat([simplex(3)(), simplex(4)()], -1)),
    ("inverse of a concatenation", lambda: T.CatTransform([T.StickBreakingTransform(), T.ExpTransform()], -1, [2, 1]).inv,
     lambda: torch.cat([simplex(3)(), torch.rand(4, 1, dtype=DOUBLE) + 0.5], -1)),
    ("concatenation of channels", lambda: T.CatTransform([T.SigmoidTransform().inv, T.ExpTransform().inv], -2, [1, 2]),
     uniform(0.2, 0.8, 3, 2)),
    ("concatenation along the last axis", lambda: T.CatTransform([T.TanhTransform().inv, T.identity_transform], -1, [1, 2]),
     uniform(-0.8, 0.8, 2, 3)),
    ("stack", lambda: T.StackTransform([T.ExpTransform().inv, T.AffineTransform(0.0, 2.0)], -1), uniform(0.5, 1, 2)),
    ("stack of simplices", lambda: T.StackTransform([T.StickBreakingTransform().inv] * 2, -2),
     lambda: torch.stack([simplex(3)(), simplex(3)()], -2)),
    ("stack of a simplex and a vector", lambda: T.StackTransform([T.StickBreakingTransform().inv, T.ExpTransform().inv], -2),
     lambda: torch.stack([simplex(3)(), torch.rand(4, 3, dtype=DOUBLE) + 0.5], -2)),
]  # fmt: skip
every_transform = pytest.mark.parametrize(
    ("build", "draw"), [case[1:] for case in TRANSFORMS], ids=[case[0] for case in TRANSFORMS]
)


@every_transform
def test_the_laws_hold_on_a_transform(build: Callable[[], T.Transform], draw: Callable[[], Tensor]) -> None:
    transform, x = build(), draw()
    g = from_transform(transform, x.shape[1:]).to(DOUBLE)
    if math.prod(g.shape) == math.prod(g.coord_shape):  # torch does not join what changes in length
        agree(g(x), transform(x), 10)
    agree(g.inverse(g(x)), x, 100)
    require(check_bijection(g, x), check_space(InducedSpace(g), g.inverse(0.2 * torch.randn_like(g(x)))))
    agree(g.inv.log_abs_det(g(x)), -g.log_abs_det(x), 100)
    for batch in ((), (0,), (2, 2)):
        part = x[:0] if batch == (0,) else x[0] if batch == () else x.reshape(2, 2, *g.shape)
        assert g(part).shape == (*batch, *g.coord_shape) and g.log_abs_det(part).shape == batch
    agree(copy.deepcopy(g)(x), g(x))


def test_transforms_of_blocks_are_those_of_each_block() -> None:
    stick, x, y = T.StickBreakingTransform().inv, simplex(3)(), simplex(4)()
    g = from_transform(T.CatTransform([stick, stick], -1, [3, 4]), (7,))
    agree(g(torch.cat([x, y], -1)), torch.cat([stick(x), stick(y)], -1))
    one, other = (from_transform(stick, (n,)) for n in (3, 4))
    agree(g.log_abs_det(torch.cat([x, y], -1)), one.log_abs_det(x) + other.log_abs_det(y), 10)
    h = from_transform(T.StackTransform([stick, stick], -2), (2, 3))
    agree(h(torch.stack([x, x.flip(0)], -2)), torch.stack([stick(x), stick(x.flip(0))], -2))
    assert h.coord_shape == (2, 2)


def test_the_edge_of_a_domain_is_no_point_whatever_torch_says_of_it() -> None:
    normal = T.CumulativeDistributionTransform(Normal(0.0, 1.0))
    for transform, at in ((T.SigmoidTransform(), (0.0, 1.0)), (T.TanhTransform(), (-1.0, 1.0)), (normal, (0.0, 1.0))):
        g = from_transform(transform.inv)
        for edge in at:
            with pytest.raises(DomainError):
                g(torch.tensor(edge))
            assert math.isfinite(float(g(torch.tensor(edge + (0.5 - edge) * 1e-3))))
        for z in (40.0, torch.inf):
            with pytest.raises(DomainError):
                g.inverse(torch.tensor(z))
    with pytest.raises(DomainError, match="interior"):
        from_transform(T.CorrCholeskyTransform().inv, (2, 2))(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(DomainError, match="does not clip"):
        from_transform(T.CorrCholeskyTransform().inv, (2, 2)).inverse(torch.tensor([20.0]))


def test_torch_clips_a_sigmoid_where_the_chart_does_not() -> None:
    x = 1 - 2.0**-24
    g = from_transform(T.SigmoidTransform().inv)
    assert float(g(torch.tensor(x))) == pytest.approx(math.log(x / 2.0**-24), rel=1e-6)
    assert abs(float(T.SigmoidTransform().inv(torch.tensor(x))) - math.log(x / 2.0**-24)) > 0.6


@pytest.mark.parametrize("n", [2, 5])
def test_stick_breaking_is_a_chart_of_the_simplex(n: int) -> None:
    g, x = from_transform(T.StickBreakingTransform().inv, (n,)), simplex(n)()
    assert (g.shape, g.coord_shape) == ((n,), (n - 1,))
    agree(g.inverse(g(x)), x, 100)
    z = torch.randn(4, n - 1, dtype=DOUBLE)
    agree(g(g.inverse(z)), z, 1e3)
    require(check_space(InducedSpace(g), x))
    require(check_bijection(g, x))
    # torch's base measure is that of the first n - 1 parts, on which the simplex projects with 1/sqrt(n) of its volume
    transform = T.StickBreakingTransform()
    expected = -transform.log_abs_det_jacobian(z, transform(z)) - math.log(n) / 2
    agree(g.log_abs_det(g.inverse(z)), expected, 1e3)


def test_correlation_matrices_have_a_chart() -> None:
    g = from_transform(T.CorrCholeskyTransform().inv, (3, 3))
    z = torch.randn(4, 3, dtype=DOUBLE) / 2
    agree(g(g.inverse(z)), z, 1e3)
    require(check_space(InducedSpace(g), g.inverse(z)), check_bijection(g, g.inverse(z)))


def test_tensors_of_a_transform_train_move_and_are_saved() -> None:
    parameter, leaf, fixed = nn.Parameter(torch.tensor([1.0, 2.0])), torch.zeros(2, requires_grad=True), torch.tensor([2.0, 3.0])
    transform = T.ComposeTransform([T.AffineTransform(parameter, fixed), T.AffineTransform(leaf, 1.0).inv])
    g = from_transform(transform, (2,))
    assert len(list(g.parameters())) == 2 and len(g.state_dict()) == 3
    x = torch.randn(3, 2)
    agree(g(x).detach(), 1 + torch.tensor([0.0, 1.0]) + x * fixed)
    optimizer = torch.optim.SGD(g.parameters(), 0.1)
    g(x).sum().backward()
    optimizer.step()
    agree(parameter.detach(), torch.tensor([0.7, 1.7]))
    agree(leaf.detach(), torch.tensor([0.3, 0.3]))  # one storage with the parameter that took its place
    agree(g(x).detach(), torch.tensor([0.4, 1.4]) + x * fixed, 10)
    twin = from_transform(T.ComposeTransform([T.AffineTransform(nn.Parameter(torch.zeros(2)), torch.ones(2)),
                                              T.AffineTransform(nn.Parameter(torch.zeros(2)), 1.0).inv]), (2,))  # fmt: skip
    twin.load_state_dict(g.state_dict(), assign=True)
    agree(twin(x).detach(), g(x).detach())
    z = torch.func.functional_call(g, {name: torch.zeros(2) for name, _ in g.named_parameters()}, (x,))
    agree(z, x * fixed)
    agree(g(x).detach(), torch.tensor([0.4, 1.4]) + x * fixed, 10)
    g.double()
    assert g(x.double()).dtype == DOUBLE and next(g.parameters()).dtype == DOUBLE


def test_a_transform_used_twice_has_one_set_of_parameters() -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    once = T.AffineTransform(0.0, leaf)
    g = from_transform(T.ComposeTransform([once, T.AffineTransform(1.0, 2.0), once.inv]), (2,))
    assert len(list(g.parameters())) == 1
    x = torch.randn(3, 2)
    agree(g(x).detach(), 2 * x + 1 / leaf.detach(), 10)
    require(check_bijection(g, x))


def test_networks_and_distributions_inside_a_transform_train() -> None:
    class Shifted(T.Transform):
        """x + network(0)."""

        domain = codomain = constraints.real_vector
        bijective = True

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def _call(self, x: Tensor) -> Tensor:
            return x + self.network(torch.zeros_like(x))

        def _inverse(self, y: Tensor) -> Tensor:
            return y - self.network(torch.zeros_like(y))

        def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
            return x.new_zeros(x.shape[:-1])

    class AsModule(Shifted, nn.Module):
        """The same transform, a module itself."""

        def __init__(self, network: nn.Module) -> None:
            nn.Module.__init__(self)
            T.Transform.__init__(self)
            self.network = network

        def __hash__(self) -> int:
            return id(self)

    for kind in (Shifted, AsModule):
        g = from_transform(kind(nn.Linear(2, 2)), (2,))
        assert len(list(g.parameters())) == 2
        require(check_bijection(g, torch.randn(3, 2)))
    loc = nn.Parameter(torch.tensor(0.5))
    h = from_transform(T.CumulativeDistributionTransform(Normal(loc, 2.0)).inv, (2,))
    assert any(p is loc for p in h.parameters())
    h(torch.rand(3, 2)).sum().backward()
    assert loc.grad is not None and float(loc.grad) == 6.0


# ---------------------------------------------------------------------------------------------------------------- callables
def test_callables_make_a_chart_whose_modules_train() -> None:
    inner = shaken(real_nvp(4, 2, 8)).double()
    g = from_callables(inner, inner.inverse, (4,), log_abs_det=inner.log_abs_det)
    x = torch.randn(5, 4, dtype=DOUBLE)
    require(check_bijection(g, x), check_space(InducedSpace(g), x))
    assert {id(p) for p in g.parameters()} == {id(p) for p in inner.parameters()}
    assert len(g.state_dict()) == len(inner.state_dict())
    for batch in ((), (0,), (3, 2)):
        assert g.log_abs_det(torch.randn(*batch, 4, dtype=DOUBLE)).shape == batch


def test_callables_may_change_the_shape_and_have_no_determinant() -> None:
    g = from_callables(lambda x: x.flatten(1), lambda z: z.reshape(-1, 2, 3), (2, 3), (6,))
    require(check_bijection(g, torch.randn(4, 2, 3)))
    assert g(torch.randn(2, 3)).shape == (6,) and g.inverse(torch.randn(3, 2, 6)).shape == (3, 2, 2, 3)
    require(check_bijection(g.inv, torch.randn(4, 6)), check_bijection(g @ Affine((2, 3), 2.0), torch.randn(4, 2, 3)))
    with pytest.raises(InducedError, match=r"has no log\|det J\|"):
        g.log_abs_det(torch.randn(2, 3))


def test_callables_that_do_not_undo_each_other_are_rejected() -> None:
    g = from_callables(torch.exp, torch.log1p, (2,), log_abs_det=lambda x: 0 * x)
    laws = {report.law: report.ok for report in check_bijection(g, torch.rand(3, 2))}
    assert not laws["g^-1(g(x)) = x"] and not laws["log|det J|"]
