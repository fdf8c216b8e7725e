"""A conditioner of couplings by attention, in the manner of transformer flows: for the ablation, which decides against it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SIDE, HEADS, LAYERS, START = 8, 4, 2, 0.1


class Attention(nn.Module):
    """Images (*batch, inputs, H, W) -> (*batch, outputs, H, W): two layers over at most 8 x 8 tokens, beside a convolution."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, context: int = 0) -> None:
        super().__init__()
        if context:
            raise NotImplementedError("the ablation has no labelled noise with attention")
        patch, width = max(1, shape[1] // SIDE), HEADS * -(-width // HEADS)
        self.local, self.enter = nn.Conv2d(shape[0], outputs, 3, padding=1), nn.Conv2d(shape[0], width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(width, shape[1] // patch, shape[2] // patch))
        options: Any = {
            "dim_feedforward": 2 * width,
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, HEADS, **options) for _ in range(LAYERS))
        self.leave = nn.ConvTranspose2d(width, outputs, patch, stride=patch)
        with torch.no_grad():
            for last in (self.local, self.leave):
                last.weight.mul_(START)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        images = x.reshape(-1, *x.shape[-3:])
        h = self.enter(images) + self.place
        tokens = h.flatten(2).mT
        for layer in self.layers:
            tokens = layer(tokens)
        out: Tensor = self.local(images) + self.leave(tokens.mT.reshape(h.shape))
        return out.reshape(*x.shape[:-3], *out.shape[-3:])
