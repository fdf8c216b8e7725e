"""The losses of the idempotent generator (docs/theory/idempotent.md), and the weighted sum that training minimises."""

import torch
from torch import Tensor, nn

from applications.common.data.source import Batch
from applications.common.randomness import Asked, Draws, Noise, require_share
from applications.common.training import Objective
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
    if torch.compiler.is_compiling():  # J v as the derivative of u -> J^T u: inductor fails at the zero tangents of jvp
        z, pull, *_ = torch.func.vjp(chart, x)
        (turned,) = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(z))[1](direction)
    else:
        _, turned, *_ = torch.func.jvp(chart, (x,), (direction,))
    ratio: Tensor = turned.flatten(1).square().sum(1) / direction.flatten(1).square().sum(1)
    return ratio.mean() - 1


class IdempotentObjective(Objective):
    """Reconstruction, the share of coordinates kept where training chooses them, and near-isometry around the data.

    Images are to lie in the middle of their pixels' bins, as they do in use: those of an `ImageSet` without noise.

    Arguments:
        model: what is trained.
        config: weights of the terms; one of weight 0 is not computed.
    """

    model: Idempotent

    def __init__(self, model: Idempotent, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config, self.looks = model, config, False

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        """Directions in which the chart is to be an isometry, for one image in `SHARE`."""
        if not self.config.isometry:
            return {}
        require_share(n, SHARE, "SHARE")
        return {"direction": Noise((n // SHARE, *self.model.config.shape))}

    def begin(self, step: int) -> None:
        """Whether the step looks at the isometry; the steps are counted from 1, so that metrics every 50 of them show it."""
        self.looks = self.config.isometry > 0 and (step + 1) % self.config.isometry_every == 0
        self.model.step.fill_(step)

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The terms that have a weight, and their weighted sum as "loss"."""
        model, weights = self.model, self.config
        x = batch["images"]
        levels = model.weights()
        terms = {"reconstruction": (weights.reconstruction, reconstruction(model.through(x, levels), x))}
        if weights.kept and isinstance(model.projection.p, nn.Parameter):
            terms["kept"] = weights.kept, kept(levels)
        if self.looks:
            require_share(len(x), SHARE, "SHARE")
            found = isometry(model.chart, x[::SHARE].contiguous(), draws["direction"])
            terms["isometry"] = weights.isometry * weights.isometry_every, found
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return {"loss": total} | {name: value for name, (_, value) in terms.items()}
