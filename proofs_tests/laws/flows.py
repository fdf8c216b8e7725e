"""Flows of zuko, FrEIA, normflows and nflows, and how they become charts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from induced.bijections import Bijection, from_callables, from_freia, from_nflows, from_normflows, from_zuko


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed (extra `adapters`)")


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.SiLU(), nn.Linear(16, outputs))


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


def callables() -> Bijection:
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
