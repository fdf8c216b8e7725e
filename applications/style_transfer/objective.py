"""The losses of distillation: f_s(x) is to be what the teacher of the style s makes of x (docs/theory/style_transfer.md)."""

import torch
from torch import Tensor, nn

from applications.common.data.pictures import unit
from applications.common.data.source import Batch
from applications.common.perceptual import PerceptualDistance
from applications.common.training import Draws, Objective
from applications.style_transfer.config import ObjectiveConfig


def pixels(y: Tensor, target: Tensor) -> Tensor:
    """mean |f_s(x) - T_s(x)|^2 over pictures and pixels."""
    return (y - target).square().mean()


class StyleObjective(Objective):
    """Distillation on random squares of the crops, each in a random style or the identity.

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

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Where the squares lie and which styles they take, as numbers in [0, 1)."""
        return {"place": torch.rand(n, 2, generator=generator), "style": torch.rand(n, generator=generator)}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The losses that have a weight, for "crops" (n, 1 + styles, 3, side, side) in uint8, and their sum as "loss"."""
        crops = batch["crops"]
        patch, inner = self.config.patch, slice(self.config.margin, self.config.patch - self.config.margin)
        style = (draws["style"] * crops.shape[1]).long()
        corners = (draws["place"] * (crops.shape[-1] - patch + 1)).long().tolist()
        squares = [
            picture[..., top : top + patch, left : left + patch] for picture, (top, left) in zip(crops, corners, strict=True)
        ]
        x, target = (
            unit(torch.stack([square[s] for square, s in zip(squares, numbers, strict=True)]))
            for numbers in ([0] * len(squares), style.tolist())
        )
        y = self.model(x, style)[..., inner, inner]
        target = target[..., inner, inner]
        terms = {"pixels": (self.config.pixels, pixels(y, target))}
        if self.config.perceptual and self.distance is not None:
            terms["perceptual"] = self.config.perceptual, self.distance(y, target).mean()
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return {"loss": total} | {name: value for name, (_, value) in terms.items()}
