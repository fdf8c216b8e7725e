"""Flows with a context have a chart at each, and none without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from induced.bijections import from_freia, from_nflows, from_normflows, from_zuko
from induced.checks import check_bijection, require
from induced.errors import NotInvertible
from proofs_tests.laws.flows import library, mlp
from proofs_tests.registry import agree

DOUBLE = torch.float64
pytestmark = [  # the libraries use functions that torch has deprecated
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:(?s).*deprecated in favor of torch\.linalg"),
]


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
