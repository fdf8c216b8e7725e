"""The moving average of the weights, which is what a training gives."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def average_of(model: nn.Module) -> nn.Module:
    """What an average starts from."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def move(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Take decay times the average and (1 - decay) times the weights; its buffers are those of the model."""
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), None)  # type: ignore[no-untyped-call]
    for mine, new in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(new)
