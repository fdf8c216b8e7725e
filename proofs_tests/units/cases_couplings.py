"""What couplings and reversible charts refuse."""

import torch
from torch import nn

from induced.bijections import AffineCoupling, RationalQuadraticCoupling, Reversible, real_nvp
from induced.bijections.networks import UNet
from induced.errors import DomainError, InducedError, ShapeError
from proofs_tests.units.case import Case


def _second_derivatives() -> None:
    g, x = Reversible(real_nvp(2, 2, 4)), torch.ones(2, requires_grad=True)
    torch.autograd.grad(g(x).sum(), x, create_graph=True)


CASES = [
    Case(ShapeError, r"a UNet needs a shape \(inputs, H, W\).* got shape=\(8, 8\)", lambda: UNet((8, 8), 2, 4)),
    Case(ShapeError, r"width >= 1 .* got shape=\(1, 8, 8\), outputs=2, width=0", lambda: UNet((1, 8, 8), 2, 0)),
    Case(
        ShapeError,
        r"a UNet of depth 2 takes images with sides divisible by 4, got \(1, 8, 6\)",
        lambda: UNet((1, 8, 8), 2, 4)(torch.ones(1, 8, 6)),
    ),
    Case(
        DomainError,
        r"the bound of a log-scale is a positive number, got max_log_scale=0",
        lambda: AffineCoupling((2,), nn.Linear(1, 2), max_log_scale=0.0),
    ),
    Case(
        DomainError,
        r"a spline needs bins >= 1 and a positive finite bound, got bins=0, bound=4",
        lambda: RationalQuadraticCoupling((2,), nn.Linear(1, 2), bins=0),
    ),
    Case(
        DomainError,
        r"a positive finite bound, got bins=2, bound=-1",
        lambda: RationalQuadraticCoupling((2,), nn.Linear(1, 5), bins=2, bound=-1.0),
    ),
    Case(
        ShapeError,
        r"the conditioner of RationalQuadraticCoupling must return shape \(3, 5\) for a kept half \(3, 1\), got \(3, 6\)",
        lambda: RationalQuadraticCoupling((2,), nn.Linear(1, 6), bins=2)(torch.ones(3, 2)),
    ),
    Case(
        InducedError,
        r"a Reversible chart has first derivatives only, and create_graph=True asks for more: use the chart that it wraps",
        _second_derivatives,
    ),
]
