"""The model: a chart of images, and the projection of its coordinates onto a few of them."""

import math
from typing import cast, final

import torch
from torch import Tensor, nn

from applications.common.kinds import built_from
from applications.idempotent.basis import LatticeRotation, reflections
from applications.idempotent.config import ModelConfig
from applications.idempotent.fixed_point import Conditioner, FixedPoint
from induced import InducedSpace, Linearizer
from induced.bijections import (
    AdditiveCoupling,
    Bijection,
    Composition,
    Flatten,
    LatticeCoupling,
    Linear,
    PixelShuffle,
    RandomSplit,
)
from induced.operators import Householder, LinearOperator, Projection
from induced.precision import full_precision


@final
@built_from(ModelConfig, "idempotent.Idempotent")
class Idempotent(nn.Module):
    """f = g^-1 P g with a 0/1 diagonal P: a projector onto the points whose other coordinates are 0.

    `operator()` gives it as a Linearizer. It trains in floating point; for use the chart becomes one of the lattice, with the
    same weights (`config.exact`).
    """

    step: Tensor
    """Steps of training before the one that runs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = math.prod(config.shape)
        parts = [part for block in range(config.blocks) for part in _block(config, block)]
        if config.basis == "rotated":
            start = torch.randn(self.dim, cast(int, config.rank), generator=torch.Generator().manual_seed(config.blocks))
            reflected = Householder(nn.Parameter(reflections(torch.linalg.qr(start)[0])))
            parts += [Flatten(config.shape), Linear(reflected)]
        self.chart = Composition(*parts)
        self.projection = Projection(nn.Parameter(torch.ones(self.dim)) if config.rank is None else _chosen(config).float())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Tensor:
        """The diagonal (dim,) of the training step: 0 or 1 where the projection is hard, straight through to what it is made of.

        While it hardens, coordinates that a fixed choice drops fade from 1 to 0, and those that training chooses from p to
        round(p).
        """
        hard, p = self.projection.diagonal(), self.projection.p
        if not self.config.hardening:
            return hard
        h = (self.step.double() / self.config.hardening).clamp(max=1)
        return h * hard + (1 - h) * (p.clamp(0, 1) if isinstance(p, nn.Parameter) else torch.ones_like(p))

    def through(self, x: Tensor, weights: Tensor) -> Tensor:
        """g^-1(diag(l) g(x)) for weights l (dim,), in floating point: f where they are those of a hard projection."""
        z = self.chart(x).flatten(1)
        return self.chart.inverse((weights * z).reshape(-1, *self.chart.coord_shape))

    @property
    def rank(self) -> int:
        """Coordinates that the projection keeps."""
        return int(self.projection.mask().sum())

    def operator(self, exact: bool | None = None) -> Linearizer:
        """The projector f; on the lattice or as it trains, by default as `config.exact` says.

        Raises:
            DomainError: the weights are too large for fixed point.

        Law:
            on the lattice `torch.equal(f(f(x)), f(x))` for every x in its range, and f(x) does not depend on the batch
            (applications/idempotent/test_exact.py)
        """
        chart = _on_lattice(self.chart, self.config) if (self.config.exact if exact is None else exact) else self.chart
        mask = self.projection.mask().to(self.projection.p.dtype)
        return Linearizer(Projection(mask), InducedSpace(chart)).eval()

    @torch.no_grad()
    @full_precision()
    def align(self, images: Tensor) -> None:
        """Turn a rotated basis so that its first vectors span the principal components of images (k, *shape) about 0."""
        if self.config.basis == "rotated":
            reflected, r = cast(Householder, cast(Linear, self.chart.parts[-1]).operator), self.rank
            components = torch.linalg.svd(
                Composition(*cast(list[Bijection], self.chart.parts[:-1]))(images), full_matrices=False
            )[2][:r]
            # fewer images than the rank leave some of the old directions
            both = torch.cat([components, _first_rows(reflected, r)]).mT
            reflected.V.copy_(reflections(torch.linalg.qr(both)[0][:, :r]))


def build(config: ModelConfig) -> Idempotent:
    """The untrained model, near the identity on the coordinates it keeps."""
    return Idempotent(config)


def _block(config: ModelConfig, index: int) -> list[Bijection]:
    split = RandomSplit(config.shape, seed=index)
    shape = split.coord_shape
    kept = shape[0] // 2

    def coupling(flip: bool) -> Bijection:
        return AdditiveCoupling(shape, Conditioner(kept, kept, (shape[1], shape[2]), config.widths), flip=flip)

    return [split, coupling(False), coupling(True), PixelShuffle(shape)]


def _chosen(config: ModelConfig) -> Tensor:
    """A mask (dim,) of `rank` coordinates: the first ones of a rotated basis, else pixels from the coarsest grid on."""
    C, H, W = config.shape
    if config.basis == "rotated":
        order = torch.arange(C * H * W)
    else:
        rows, columns = (torch.arange(n) for n in (H, W))
        # the largest power of 2 that divides both: 0 is on every grid
        grids = torch.gcd(torch.gcd(rows[:, None], columns), torch.tensor(2**30))
        fineness = torch.where(grids == 0, 2**30, grids).expand(C, H, W).flatten()
        order = torch.argsort(fineness, descending=True, stable=True)
    mask = torch.zeros(C * H * W, dtype=torch.bool)
    mask[order[: config.rank]] = True
    return mask


def _first_rows(Q: LinearOperator, r: int) -> Tensor:
    """The first r rows of Q, which span what it takes to the first r unit vectors."""
    return Q.apply_adjoint(torch.eye(r, Q.shape[1], dtype=Q.dtype, device=Q.device))


def _on_lattice(chart: Composition, config: ModelConfig) -> Composition:
    """The chart with its couplings and its change of basis on the lattice."""
    couplings, parts = 0, list[Bijection]()
    for part in cast(list[Bijection], chart.parts):
        if isinstance(part, AdditiveCoupling):
            couplings += 1
            label = f"coupling {couplings}"
            precision = {"activation_bits": config.activation_bits, "weight_bits": config.weight_bits}
            net = FixedPoint(cast(Conditioner, part.conditioner), **precision, label=f"the conditioner of {label}")
            part = LatticeCoupling(part.shape, net, flip=part.flip, bits=config.bits)
            part.label = f"lattice {label}"
        elif isinstance(part, Linear):
            V = _first_rows(part.operator, cast(int, config.rank)).mT
            part = LatticeRotation(V, bits=config.bits, weight_bits=config.weight_bits)
        parts.append(part)
    return Composition(*parts)
