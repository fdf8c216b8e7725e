"""Densities of codes (k, r): charts that make them N(0, I), by likelihood or expectation-maximisation, and kernels."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import zuko
from torch import Tensor, nn

from applications.common.data import Tensors
from applications.common.data.source import Batch
from applications.common.randomness import Asked, Draws, Noise
from applications.common.timed import fit_for
from applications.common.training import Objective
from applications.flow_matching.columns import couplings, standardise, standardising
from applications.flow_matching.config import Config
from applications.flow_matching.mixture import HALF_LOG_2PI, GaussianMixture
from induced.bijections import Bijection, Composition, ConditionalBijection, from_zuko, real_nvp

PART = 500
Codes = dict[str, Tensor]
"""Leading coordinates (k, r) of the "fitted" digits and of the "validation" part, and the "labels" (k,) of the former."""


@dataclass(frozen=True)
class Density:
    """-log p of codes (k, r), codes drawn from normal numbers (k, r) and a generator, and the figures of the fit."""

    minus_log: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator], Tensor]
    figures: dict[str, float] = field(default_factory=dict)


Fit = Callable[[Codes, argparse.Namespace], Density]


def minus_log(h: Bijection, c: Tensor) -> Tensor:
    """-log p of codes that h makes N(0, I)."""
    found = [h.forward_and_log_abs_det(part) for part in c.split(PART)]
    return torch.cat([(z.square() / 2 + HALF_LOG_2PI).sum(-1) - volume for z, volume in found])


def of_chart(h: Bijection, **figures: float) -> Density:
    parameters = float(sum(p.numel() for p in h.parameters()))
    return Density(
        lambda c: minus_log(h, c),
        lambda z, generator: torch.cat([h.inverse(part) for part in z.split(PART)]),
        {"parameters": parameters, **figures},
    )


class Likelihood(Objective):
    """Mean -log p of codes with noise, as in `LatentObjective`."""

    model: Bijection

    def __init__(self, chart: Bijection, noise: float) -> None:
        super().__init__()
        self.model, self.noise = chart, noise

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        return {"noise": Noise((n, *self.model.shape))}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        return {"loss": minus_log(self.model, batch["codes"] + self.noise * draws["noise"]).mean()}


def trained(parts: Callable[[int], Sequence[Bijection | ConditionalBijection]], noise: float = 0.0) -> Fit:
    """Charts in a row, after one that standardises; the weights by which validation codes are likeliest."""

    def fit(codes: Codes, asked: argparse.Namespace) -> Density:
        c, held_out = codes["fitted"], codes["validation"]
        standardise(standard := standardising(c.shape[1], ()), c.double())
        objective = Likelihood(Composition(*cast(list[Bijection], [*standard, *parts(c.shape[1])])), noise)

        def judge(average: nn.Module) -> float:
            return float(minus_log(cast(Bijection, average), held_out).double().mean())

        source, batch = Tensors("codes", {"codes": c}), Config().latent_batch
        best, done = fit_for(objective, source, judge, seconds=60 * asked.minutes, batch=batch, seed=asked.seed)
        return of_chart(cast(Bijection, best), **{"fit / s": done.seconds, "steps": float(done.steps), "kept": float(done.kept)})

    return fit


def mixture(components: int, floor: float, *, by_class: bool = True) -> Fit:
    def fit(codes: Codes, asked: argparse.Namespace) -> Density:
        began, h = time.process_time(), GaussianMixture(codes["fitted"].shape[1], components).requires_grad_(False)
        h.fit(codes["fitted"], codes["labels"] if by_class else None, floor=floor, seed=asked.seed)
        return of_chart(h, **{"fit / s": time.process_time() - began})

    return fit


def kernels(size: float) -> Fit:
    """Fitted codes with noise N(0, size^2): copies, but for the noise."""

    def fit(codes: Codes, asked: argparse.Namespace) -> Density:
        known, (count, n) = codes["fitted"], codes["fitted"].shape

        def minus_log(c: Tensor) -> Tensor:
            near = [torch.logsumexp((torch.cdist(part, known) / size).square() / -2, -1) for part in c.split(PART)]
            return math.log(count) + n * (math.log(size) + HALF_LOG_2PI) - torch.cat(near)

        return Density(minus_log, lambda z, generator: known[torch.randint(count, (len(z),), generator=generator)] + size * z)

    return fit


BY_CLASS = ((100, 0.2), (200, 0.2), (400, 0.2), (200, 0.1), (200, 0.3))
DENSITIES: dict[str, Fit] = {
    "affine couplings": trained(lambda n: [real_nvp(n, 8, 128)], Config().objective.latent_noise),
    "spline couplings": trained(lambda n: couplings("spline", n, 8, 192)),
    "autoregressive splines": trained(lambda n: [from_zuko(zuko.flows.NSF(n, hidden_features=(128, 128)), (n,))]),
    "64 Gaussians, floor 0.1": mixture(64, 0.1, by_class=False),
    **{f"{k} Gaussians by class, floor {floor}": mixture(k, floor) for k, floor in BY_CLASS},
    **{f"kernels of {size}": kernels(size) for size in (0.5, 1.0)},
}
