"""The losses of distillation: f_s(x) is to be what the teacher of the style s makes of x (docs/theory/style_transfer.md)."""

import torch
from torch import Tensor, nn

from applications.common.data.pictures import unit
from applications.common.data.source import Batch
from applications.common.perceptual import PerceptualDistance
from applications.common.randomness import Asked, Draws
from applications.common.training import Objective
from applications.style_transfer.config import ObjectiveConfig
from applications.style_transfer.model import StyleTransfer


def pixels(y: Tensor, target: Tensor) -> Tensor:
    """mean |f_s(x) - T_s(x)|^2 over pictures and pixels."""
    return (y - target).square().mean()


class StyleObjective(Objective):
    """Distillation on random squares of crops, each in a random style or the identity.

    Arguments:
        model: what is trained, (pictures, numbers of styles) -> pictures; a `StyleTransfer`, or a network it is compared with.
        config: weights of the losses.
        distance: the perceptual distance, where it has a weight.
    """

    def __init__(self, model: nn.Module, config: ObjectiveConfig, distance: PerceptualDistance | None = None) -> None:
        super().__init__()
        self.model, self.config, self.distance = model, config, distance
        if distance is not None:
            distance.requires_grad_(False)
        if isinstance(model, StyleTransfer):
            model.at(config.patch, config.patch)  # its charts are made here: a graph that is compiled makes no modules

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        """Nothing: `Crops` draws the squares and their styles."""
        return {}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The losses that have a weight, for a batch of `Crops`, and their sum as "loss"."""
        inner = slice(self.config.margin, self.config.patch - self.config.margin)
        y, target = self.model(unit(batch["x"]), batch["style"]), unit(batch["target"])
        y, target = y[..., inner, inner], target[..., inner, inner]
        terms = {"pixels": (self.config.pixels, pixels(y, target))}
        if self.config.perceptual and self.distance is not None:
            terms["perceptual"] = self.config.perceptual, self.distance(y, target).mean()
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return {"loss": total} | {name: value for name, (_, value) in terms.items()}
