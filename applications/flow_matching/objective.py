"""The losses of flow matching, as pure functions, and the weighted sum that training minimises."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from applications.common.data.source import Batch
from applications.common.perceptual import PerceptualDistance, PyramidDistance
from applications.common.randomness import Asked, Draws, Noise, require_share
from applications.common.training import Objective
from applications.flow_matching.config import ObjectiveConfig
from applications.flow_matching.model import DATA, NOISE, EndPointRate, FlowMatching, Latent
from induced.bijections import Bijection
from induced.errors import DomainError
from induced.propagators import OperatorFamily

SOME = 5000
"""Images that a mixture is fitted to before the training ends."""
SAME_TIME, MOST_TIMES = 16, 8
"""At least so many consecutive images of a batch share a time, and a batch has at most so many: A_t is formed for each."""


def velocity_loss(family: OperatorFamily, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """mean |A_t z_t - (z_1 - z_0)|^2 with z_t = (1-t) z_0 + t z_1, in coordinates (eqs. 10, 11, 13).

    Arguments:
        family: t -> A_t.
        z0, z1: coordinates (k, dim) of paired noise and data.
        t: times (m,), m a divisor of k: k / m pairs in a row share a time, and one A_t.
    """
    return ((velocities(family, z0, z1, t) - (z1 - z0)) ** 2).mean()


def end_point_loss(family: OperatorFamily, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """mean |z_t + (1-t) A_t z_t - z_1|^2: the end point that the velocity A_t z_t leads to (docs/theory/flow_matching.md).

    It is the velocity loss weighted by (1-t)^2. Where the family is `EndPointRate(A)`, the prediction is A_t z_t itself.
    """
    return ((end_points(family, z0, z1, t) - z1) ** 2).mean()


def end_points(family: OperatorFamily, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """z_t + (1-t) A_t z_t, where the straight line along the velocity at z_t ends."""
    each = t.repeat_interleave(len(z0) // len(t))[:, None]
    return (1 - each) * z0 + each * z1 + (1 - each) * velocities(family, z0, z1, t)


def velocities(family: OperatorFamily, z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """A_t z_t."""
    (a, b), t = (z.reshape(len(t), -1, z.shape[-1]) for z in (z0, z1)), t[:, None]
    applied: Tensor = family.at(t)((1 - t)[..., None] * a + t[..., None] * b)
    return applied.flatten(0, 1)


def minus_log_density(z: Tensor, std: Tensor) -> Tensor:
    """-log N(z; 0, std^2) entry by entry, without the constant log sqrt(2 pi)."""
    return (z / std) ** 2 / 2 + std.log()


def perturb(z: Tensor, noise: Tensor, std: Tensor, level: float, kept: int) -> Tensor:
    """Coordinates before reconstruction: the first `kept` get noise of `level` standard deviations, the rest is drawn afresh."""
    return torch.cat([z[:, :kept] + level * std[:kept] * noise[:, :kept], std[kept:] * noise[:, kept:]], -1)


def times(n: int, share: int, generator: torch.Generator) -> Tensor:
    """Times (m,) spread over [0, 1), for as many pairs in a row each of n / `share`."""
    groups = next(m for m in range(max(1, min(n // SAME_TIME, MOST_TIMES)), 0, -1) if n // share % m == 0)
    return (torch.arange(groups) + torch.rand(groups, generator=generator)) / groups


def leading_density(model: FlowMatching, h: Bijection, c: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates h(c) (k, dim) of the data end, without gradient, and the loss that trains h: mean -log of c's density.

    The coordinates that do not lead are drawn from the density that they have in the model.

    Arguments:
        model: whose rest is drawn.
        h: chart of the leading coordinates, `model.leading_chart()`.
        c: leading coordinates (k, rank).
        noise: normal numbers (k, dim).
    """
    std = model.latent_std()[model.config.rank :]
    leading, volume = h.forward_and_log_abs_det(c)
    loss = (minus_log_density(leading, torch.ones_like(leading)).sum(-1) - volume).mean() / model.dim
    return torch.cat([leading.detach(), std * noise[:, model.config.rank :]], -1), loss


def weighted(terms: dict[str, Callable[[], Tensor]], weights: ObjectiveConfig) -> dict[str, Tensor]:
    """The terms that have a weight, and their weighted sum as "loss"."""
    losses = {name: term() for name, term in terms.items() if getattr(weights, name)}
    if not losses:
        raise DomainError(f"nothing to minimise: every loss of this stage has weight 0 ({', '.join(terms)})")
    return {"loss": torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()} | losses


class FlowMatchingObjective(Objective):
    """The weighted sum of docs/theory/flow_matching.md: velocity, reconstruction of both ends, and fixed latent densities.

    Arguments:
        model: what is trained.
        config: weights of the terms; one of weight 0 is not computed.
        distance: what `perceptual` measures with; by default the one that needs no weights.
    """

    model: FlowMatching

    def __init__(self, model: FlowMatching, config: ObjectiveConfig, distance: PerceptualDistance | None = None) -> None:
        super().__init__()
        if isinstance(model.family, EndPointRate) and config.velocity:
            raise DomainError(
                "the rate of a family that predicts the end point is singular at t = 1: train it with velocity 0, end_point > 0"
            )
        self.model, self.config = model, config
        self.distance: PerceptualDistance = PyramidDistance() if distance is None else distance
        self.distance.requires_grad_(False)
        # Made once: a graph that is compiled makes no modules.
        self.g0, self.g1, self.e = model.chart_at(NOISE), model.chart_at(DATA), model.chart_at(DATA, model.encoder)
        self.h = model.leading_chart() if model.density and model.mixture is None else None  # a mixture is fitted afterwards
        if model.mixture is not None and (config.end_point_image or config.end_point_perceptual):
            raise DomainError(
                "end_point_image and end_point_perceptual train a family, and that of a mixture stays at the Gaussian oracle: "
                "give components 0 (couplings), or leave them out"
            )
        self._known: tuple[Tensor, Tensor, int] | None = None
        self._step = self._fitted = 0

    def fits(self, images: Tensor, labels: Tensor, last: int) -> None:
        """Fit a mixture to these images whenever weights are saved or shown: to `SOME` of them before the step `last`."""
        self._known = images, labels, last

    def begin(self, step: int) -> None:
        self._step = step + 1

    def saved(self, model: nn.Module) -> nn.Module:
        if self.model.mixture is not None and self._known is not None and self._fitted != self._step:
            images, labels, last = self._known
            few = slice(None, None, 1 if self._step >= last else max(1, len(images) // SOME))
            cast(FlowMatching, model).encode_leading(images[few], labels[few])
            self._fitted = self._step
        return model

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        share, dim = self.config.noise_share, self.model.dim
        require_share(n, share, "noise_share")
        restored = self.model.config.noise_space != "euclidean" and self.config.noise_reconstruction
        return {
            "noise": Noise((n // share, *self.model.noise_chart.shape)),
            "latent_noise": Noise((n, dim)),
            **({"noise_latent_noise": Noise((n // share, dim))} if restored else {}),
            "time": times(n, share, generator),
        }

    def initialize(self, batch: Batch, draws: Draws) -> None:
        if self.model.config.noise_space == "labelled":
            self.g0.initialize(draws["noise"])
        self.g1.initialize(batch["images"])

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        weights, model, images = self.config, self.model, batch["images"]
        require_share(len(images), weights.noise_share, "noise_share")
        g0, g1, e, std = self.g0, self.g1, self.e, model.latent_std()
        some, x0, unit = images[:: weights.noise_share], draws["noise"], std.new_ones(model.dim)
        kept = model.dim if model.config.rest_std is None else model.config.rank

        z0, volume0 = g0.forward_and_log_abs_det(x0)
        c1, volume1 = e.forward_and_log_abs_det(images) if weights.likelihood else (e(images), std.new_zeros(()))
        noisy1 = perturb(c1, draws["latent_noise"], std, weights.latent_noise, kept)
        z1, density = c1, std.new_zeros(())
        if self.h is not None:  # that of what is decoded, the noisy coordinates, with e held fixed
            z1, density = leading_density(model, self.h, noisy1[:, :kept].detach(), draws["latent_noise"])
        density0, density1 = minus_log_density(z0, unit), minus_log_density(c1, std)
        path = model.family, z0, z1[:: weights.noise_share], draws["time"]
        decoded = e.inverse(noisy1) if weights.reconstruction or weights.perceptual else images
        predicted = g1.inverse(end_points(*path)) if weights.end_point_image or weights.end_point_perceptual else some

        def restored() -> Tensor:
            return g0.inverse(perturb(z0, draws["noise_latent_noise"], unit, weights.latent_noise, model.dim))

        terms: dict[str, Callable[[], Tensor]] = {
            "velocity": lambda: velocity_loss(*path),
            "end_point": lambda: end_point_loss(*path),
            "end_point_image": lambda: ((predicted - some) ** 2).mean(),
            "end_point_perceptual": lambda: self.distance(predicted, some).mean(),
            "reconstruction": lambda: ((decoded - images) ** 2).mean(),
            "perceptual": lambda: self.distance(decoded, images).mean(),
            "prior": lambda: density1[:, :kept].sum(-1).mean() / model.dim,
            "density": lambda: density,
            "residual": lambda: density1[:, kept:].sum(-1).mean() / model.dim,
            "likelihood": lambda: density1.mean() - volume1.mean() / model.dim,
            "noise_reconstruction": lambda: ((restored() - x0) ** 2).mean(),
            "noise_likelihood": lambda: density0.mean() - volume0.mean() / model.dim,
        }
        if self.h is None:
            del terms["density"]
        if model.mixture is not None:  # the family is not trained
            del terms["velocity"], terms["end_point"]
        if model.config.noise_space == "euclidean":
            del terms["noise_reconstruction"], terms["noise_likelihood"]
        return weighted(terms, weights)


class LatentObjective(Objective):
    """The second stage: density and velocity, at the leading coordinates of the finished encoder in place of images.

    `model` is what it trains, h and the family alone; `flow` is the whole, with the encoder as it is.
    """

    model: Latent

    def __init__(self, flow: FlowMatching, config: ObjectiveConfig) -> None:
        super().__init__()
        self.flow, self.config, self.model = flow.requires_grad_(False), config, Latent(flow).requires_grad_(True)
        self._average = (copy.deepcopy(flow),)  # in a tuple: no part of this module, whose weights may be shards
        self.g0, self.h = flow.chart_at(NOISE), flow.leading_chart()

    def saved(self, model: nn.Module) -> FlowMatching:
        """The whole model with these parts, h and the family."""
        (whole,) = self._average
        return whole.to(next(self.flow.parameters()).device).take(cast(Latent, model))

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        share = self.config.noise_share
        require_share(n, share, "noise_share")
        return {
            "noise": Noise((n // share, *self.flow.noise_chart.shape)),
            "latent_noise": Noise((n, self.flow.dim)),
            "time": times(n, share, generator),
        }

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        weights, model, c = self.config, self.flow, batch["coordinates"]
        require_share(len(c), weights.noise_share, "noise_share")
        noisy = c + weights.latent_noise * draws["latent_noise"][:, : model.config.rank]
        z1, density = leading_density(model, self.h, noisy, draws["latent_noise"])
        path = model.family, self.g0(draws["noise"]), z1[:: weights.noise_share], draws["time"]
        terms = {"velocity": lambda: velocity_loss(*path), "end_point": lambda: end_point_loss(*path), "density": lambda: density}
        return weighted(terms, weights)
