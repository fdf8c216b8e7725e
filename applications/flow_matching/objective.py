"""The losses of flow matching, as pure functions, and the weighted sum that training minimises."""

import math

import torch
from torch import Tensor

from applications.common.training import Draws, Objective
from applications.flow_matching.config import ObjectiveConfig
from applications.flow_matching.model import DATA, NOISE, FlowMatching
from induced.bijections import Bijection
from induced.errors import ShapeError
from induced.operators import OperatorFamily

SAME_TIME = 16
"""Consecutive samples of a batch share a time, so that A_t is formed a few times a step and not once an image."""


def velocity_loss(family: OperatorFamily, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """mean |A_t z_t - (z_1 - z_0)|^2 with z_t = (1-t) z_0 + t z_1, in coordinates (eqs. 10, 11, 13).

    Arguments:
        family: t -> A_t.
        z0, z1: coordinates (k, dim) of paired noise and data.
        t: times (k,); runs of equal times share one A_t.
    """
    times, counts = torch.unique_consecutive(t, return_counts=True)
    sizes, total = counts.tolist(), z0.new_zeros(())
    for time, a, b in zip(times, torch.split_with_sizes(z0, sizes), torch.split_with_sizes(z1, sizes), strict=True):
        total = total + ((family.at(time)((1 - time) * a + time * b) - (b - a)) ** 2).sum()
    return total / z0.numel()


def reconstruction_loss(chart: Bijection, x: Tensor, z: Tensor) -> Tensor:
    """mean |g^-1(z~) - x|^2 for coordinates z~ near g(x)."""
    return ((chart.inverse(z) - x) ** 2).mean()


def minus_log_density(z: Tensor, std: Tensor) -> Tensor:
    """-log N(z; 0, std^2) entry by entry, without the constant log sqrt(2 pi)."""
    return (z / std) ** 2 / 2 + std.log()


def perturb(z: Tensor, noise: Tensor, std: Tensor, level: float, kept: int) -> Tensor:
    """Coordinates before reconstruction: the first `kept` get noise of `level` standard deviations, the rest is drawn afresh."""
    return torch.cat([z[:, :kept] + level * std[:kept] * noise[:, :kept], std[kept:] * noise[:, kept:]], -1)


class FlowMatchingObjective(Objective):
    """The weighted sum of docs/mathematics.md, 3: velocity, reconstruction of both ends, and fixed latent densities."""

    model: FlowMatching

    def __init__(self, model: FlowMatching, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        groups = math.ceil(n / SAME_TIME)
        times = (torch.arange(groups) + torch.rand(groups, generator=generator)) / groups
        return {
            "noise_image": torch.randn(n, *self.model.config.shape, generator=generator),
            "latent_noise": torch.randn(n, self.model.dim, generator=generator),
            "noise_latent_noise": torch.randn(n, self.model.dim, generator=generator),
            "time": times.repeat_interleave(SAME_TIME)[:n],
        }

    def initialize(self, images: Tensor, draws: Draws) -> None:
        self.model.chart_at(NOISE).initialize(draws["noise_image"])
        self.model.chart_at(DATA).initialize(images)

    def forward(self, images: Tensor, draws: Draws) -> dict[str, Tensor]:
        weights, model = self.config, self.model
        if len(images) % weights.noise_share:
            raise ShapeError(
                f"a process' part of the batch, here {len(images)} images, must be a multiple of noise_share="
                f"{weights.noise_share}: else several processes would not pair the images that one would"
            )
        g0, g1, std = model.chart_at(NOISE), model.chart_at(DATA), model.latent_std()
        some = slice(None, None, weights.noise_share)
        x0, unit = draws["noise_image"][some], std.new_ones(model.dim)

        z0, volume0 = g0.forward_and_log_abs_det(x0)
        if weights.likelihood:
            z1, volume1 = g1.forward_and_log_abs_det(images)
        else:
            z1, volume1 = g1(images), std.new_zeros(())
        kept = model.dim if model.config.floor is None else model.config.rank
        noisy1 = perturb(z1, draws["latent_noise"], std, weights.latent_noise, kept)
        noisy0 = perturb(z0, draws["noise_latent_noise"][some], unit, weights.latent_noise, model.dim)
        density1, density0 = minus_log_density(z1, std), minus_log_density(z0, unit)
        losses = {
            "velocity": velocity_loss(model.family, z0, z1[some], draws["time"][some]),
            "reconstruction": reconstruction_loss(g1, images, noisy1),
            "prior": density1[:, :kept].sum(-1).mean() / model.dim,
            "residual": density1[:, kept:].sum(-1).mean() / model.dim,
            "likelihood": density1.mean() - volume1.mean() / model.dim,
            "noise_reconstruction": reconstruction_loss(g0, x0, noisy0),
            "noise_likelihood": density0.mean() - volume0.mean() / model.dim,
        }
        loss = sum((getattr(weights, name) * value for name, value in losses.items()), std.new_zeros(()))
        if not weights.likelihood:
            del losses["likelihood"]
        return {"loss": loss} | losses
