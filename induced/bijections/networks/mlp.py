"""Networks of vectors, and what all conditioners share: their start and their modulation by a context."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced._registry import saved_as

# A coupling starts near, but not at, the identity: laws tested on the identity could not fail.
START = 0.1


class Modulation(nn.Module):
    """h -> h (1 + gamma(c)) + beta(c) over `width` channels for a context c of shape (*batch, k); k = 0 does nothing."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(context, 2 * width) if context else None

    def forward(self, h: Tensor, context: Tensor | None, event_dims: int) -> Tensor:
        if self.affine is None:
            return h
        gamma, beta = self.affine(context)[(..., *(None,) * (event_dims - 1))].chunk(2, -event_dims)
        return torch.addcmul(h + beta, h, gamma)


def _described(m: "MLP") -> dict[str, int]:
    context = 0 if m.modulation.affine is None else m.modulation.affine.in_features
    return {"inputs": m.inputs, "outputs": m.last.out_features, "width": m.first.out_features, "context": context}


@final
@saved_as("networks.MLP", describe=_described)
class MLP(nn.Module):
    """Vectors (*batch, inputs) -> (*batch, outputs) through two hidden layers; `inputs` may be 0, for a learned constant."""

    def __init__(self, inputs: int, outputs: int, width: int, context: int = 0) -> None:
        super().__init__()
        self.inputs = inputs
        self.first = nn.Linear(max(inputs, 1), width)
        self.modulation = Modulation(context, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)
        with torch.no_grad():
            self.last.weight.mul_(START)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.inputs == 0:
            x = x.new_zeros(*x.shape[:-1], 1)
        h = F.silu(self.modulation(self.first(x), context, 1))
        out: Tensor = self.last(F.silu(self.second(h)))
        return out
