"""The losses of the idempotent generator (docs/theory/idempotent.md), and the weighted sum that training minimises."""

import torch
from torch import Tensor, nn

from applications.common.data import to_uint8, to_unit
from applications.common.data.source import Batch
from applications.common.training import Draws, Objective
from applications.idempotent.config import ObjectiveConfig
from applications.idempotent.model import Idempotent
from induced.bijections import Bijection

SHARE = 4
"""One in this many images is looked at for the isometry: it costs a second pass, and a mean over directions needs few."""


def reconstruction(y: Tensor, x: Tensor) -> Tensor:
    """mean |f(x) - x|^2 over images and pixels: the data are fixed points."""
    return ((y - x) ** 2).mean()


def kept(weights: Tensor) -> Tensor:
    """(1/n) sum_i l_i, the share of the coordinates that are kept."""
    return weights.mean()


def isometry(chart: Bijection, x: Tensor, direction: Tensor) -> Tensor:
    """mean |J v|^2 / |v|^2 - 1, J the Jacobian of the chart at x.

    Additive couplings keep volumes: the singular values of J multiply to 1. So the mean over all directions, |J|_F^2 / n - 1, is
    never negative, and 0 for an isometry alone.
    """
    _, turned, *_ = torch.func.jvp(chart, (x,), (direction,))
    ratio: Tensor = turned.flatten(1).square().sum(1) / direction.flatten(1).square().sum(1)
    return ratio.mean() - 1


class IdempotentObjective(Objective):
    """Reconstruction, the share of coordinates kept where training chooses them, and near-isometry around the data.

    No noise enters: images lie in the middle of their pixels' bins, as they do in use.

    Arguments:
        model: what is trained.
        config: weights of the terms; one of weight 0 is not computed.
    """

    model: Idempotent

    def __init__(self, model: Idempotent, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Directions in which the chart is to be an isometry."""
        return {"direction": torch.randn(n, *self.model.config.shape, generator=generator)}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The terms that have a weight, and their weighted sum as "loss"."""
        model, weights = self.model, self.config
        x = to_unit(to_uint8(batch["images"]))
        levels = model.weights()
        terms = {"reconstruction": (weights.reconstruction, reconstruction(model.through(x, levels), x))}
        if weights.kept and isinstance(model.projection.p, nn.Parameter):
            terms["kept"] = weights.kept, kept(levels)
        # counted from 1, so that metrics every 50 steps show it
        if weights.isometry and (int(model.step) + 1) % weights.isometry_every == 0:
            found = isometry(model.chart, x[::SHARE], draws["direction"][::SHARE])
            terms["isometry"] = weights.isometry * weights.isometry_every, found
        if self.training:
            model.step += 1
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return {"loss": total} | {name: value for name, (_, value) in terms.items()}
