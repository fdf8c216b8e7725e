"""The model: a chart of images or of vectors, a space of noise, and a family of operators between the two."""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn

from applications.common.data import to_unit
from applications.common.fitted import Fitted
from applications.common.kinds import built_from
from applications.flow_matching.columns import Varying, couplings, standardising
from applications.flow_matching.config import ModelConfig
from applications.flow_matching.mixture import GaussianMixture
from induced import InducedSpace, Linearizer
from induced.bijections import (
    Affine,
    Bijection,
    ConditionalBijection,
    ConditionalComposition,
    ConditionalDirectSum,
    Flatten,
    Identity,
    Linear,
    Reversible,
    glow,
    real_nvp,
)
from induced.bijections.networks import UNet
from induced.errors import DomainError
from induced.operators import LU, LinearOperator, LowRank, ScaledIdentityPlusLowRank
from induced.precision import full_precision
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, integrate, propagator
from induced.propagators.families import Restriction

NOISE, DATA = 0.0, 1.0
Method = Literal["euler", "midpoint", "rk4", "magnus4"]
CONDITIONERS: dict[str, Any] = {"unet": UNet}
"""Networks of the couplings of images, beside the convolutions that they have by default."""
NetworkFamily = LowRankFamily | SharedBasisFamily
FAMILIES: dict[str, type[LowRankFamily] | type[SharedBasisFamily]] = {
    "low rank": LowRankFamily,
    "shared basis": SharedBasisFamily,
}


@final
class EndPointRate(OperatorFamily):
    """(A_t - I) / (1 - t), the generator where A_t z_t predicts z_1; singular at t = 1 (docs/theory/flow_matching.md)."""

    def __init__(self, prediction: NetworkFamily) -> None:
        super().__init__(prediction.dim)
        self.prediction = prediction

    def at(self, t: float | Tensor) -> LinearOperator:
        A, like = cast(LowRank, self.prediction.at(t)), self.prediction.offset
        speed = 1 / (1 - torch.as_tensor(t, dtype=like.dtype, device=like.device))
        return ScaledIdentityPlusLowRank(-speed, speed[..., None, None] * A.U, A.V)

    def restricted(self, times: Tensor, most: int) -> Restriction | None:
        found = self.prediction.restricted(times, most)
        if found is None:
            return None

        def core(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            _, X, Y = found.core(t)
            speed = 1 / (1 - t.double())
            return -speed, speed[:, None, None] * X, Y

        return Restriction(found.basis, core)


@built_from(ModelConfig, "flow_matching.FlowMatching")
class FlowMatching(nn.Module):
    """x_1 = g_1^-1(B g_0(x_0)), B the propagator of z' = A_t z (docs/theory/flow_matching.md).

    The first `rank` coordinates of the data end carry the image; the others have standard deviation `rest_std`, so that
    g_1^-1 on the range of B works as a decoder while B stays invertible. The chart of the data end is g_1 = h . e: the encoder e
    sorts the image into coordinates, and h makes the distribution of the leading ones Gaussian.
    """

    fitted: Fitted | None = None
    """What the fit came to, where `fit_flow` made the model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _require_fitting(config)
        self.config = config
        self.dim = math.prod(config.shape) - len(config.constant)
        encoder, density = _encoder(config), _density(config)
        self._encoders = len(encoder)
        self.chart = ConditionalComposition(*encoder, *density)
        self.noise_chart = Flatten((self.dim,) if config.vectors else config.shape)
        sizes = {"width": 1, "features": 1} if self.mixture is not None else {}
        family = FAMILIES[config.family](self.dim, config.rank, rest_std=config.rest_std, **sizes)
        self.family = EndPointRate(family) if config.prediction == "end point" else family
        if self.mixture is not None:  # both ends are Gaussian: the oracle is exact, and the family stays at it
            family.requires_grad_(False).factors.zero_()
            nn.ModuleList(density).requires_grad_(False)

    @property
    def keeps_digits(self) -> bool:
        """Whether an export in half precision would lose what counts: the means and scales of a table's columns."""
        return self.config.vectors

    @property
    def encoder(self) -> list[nn.Module]:
        """The parts of e."""
        return list(self.chart.parts)[: self._encoders]

    @property
    def density(self) -> list[nn.Module]:
        """The parts of h; empty where g_1 = e."""
        return list(self.chart.parts)[self._encoders :]

    def chart_at(self, end: float, parts: Sequence[nn.Module] | None = None) -> Bijection:
        """The chart g_0 of the noise end or g_1 of the data end; `parts` of it, `encoder` or `density`."""
        if self.config.noise_space == "euclidean" and end == NOISE:
            return self.noise_chart
        whole = self.chart if parts is None else ConditionalComposition(*parts)  # type: ignore[arg-type]
        chart = whole.at(NOISE if self.config.noise_space == "shared" else end)
        return Reversible(chart) if self.config.reversible else chart

    @property
    def mixture(self) -> GaussianMixture | None:
        """The part of h that is fitted, not trained, if it is a mixture."""
        for part in self.density:
            if isinstance(part, ConditionalDirectSum) and isinstance(part.charts[0], GaussianMixture):
                return part.charts[0]
        return None

    def leading_chart(self) -> Bijection:
        """h on leading coordinates (k, rank) alone."""
        if self.config.vectors:
            return self.chart_at(DATA, self.density)
        (h,) = cast(list[ConditionalDirectSum], self.density)
        return self.chart_at(DATA, [h.charts[0]])

    @torch.no_grad()
    @full_precision()
    def encode_leading(self, images: Tensor, labels: Tensor | None = None, *, batch: int | None = None) -> Tensor:
        """Leading coordinates (k, rank) of all training images, uint8; h takes the scale of the others from them.

        A mixture in h is fitted to them, within the classes where their labels are given.

        One scale for all of those, the one of most likelihood: each with its own would draw apart what the encoder keeps
        together, and draw worse images.
        """
        e, r, leading, squares = self.chart_at(DATA, self.encoder), self.config.rank, list[Tensor](), 0.0
        for part in torch.split(images, batch or at_a_time(self.dim)):
            c = e(to_unit(part).to(next(self.parameters())))
            leading.append(c[:, :r])
            squares += float(c[:, r:].double().square().sum())
        (h,) = cast(list[ConditionalDirectSum], self.density)
        if isinstance(affine := h.charts[1], Affine) and self.config.rest_std is not None:
            affine.scale.fill_(self.config.rest_std / math.sqrt(squares / (len(images) * (self.dim - r))))
        c = torch.cat(leading)
        if (mixture := self.mixture) is not None:
            mixture.fit(c, labels, floor=self.config.floor)
        return c

    def take(self, latent: "Latent") -> "FlowMatching":
        """Put h and the family of `latent` in the place of this model's own; returns the model."""
        self.chart, self.family = ConditionalComposition(*self.encoder, *latent.density), latent.family  # type: ignore[arg-type]
        return self

    def space(self, end: float) -> InducedSpace:
        """The induced space of an end point."""
        return InducedSpace(self.chart_at(end))

    def codes(self) -> InducedSpace:
        """The induced space of the encoder e, in whose coordinates the classes lie apart: that of edits."""
        return InducedSpace(self.chart_at(DATA, self.encoder))

    def core(self, steps: int | Sequence[float] = 100, method: Method = "rk4") -> LinearOperator:
        """B, the operator that the steps apply to coordinates (eqs. 14-17).

        Where A_t predicts the end point, the last step is the prediction itself: its rate is singular there, and B has rank r.
        """
        if not isinstance(self.family, EndPointRate):
            return propagator(self.family, steps=steps, method=method)
        times = _times(steps)
        last = self.family.prediction.at(times[-2])
        return last if len(times) == 2 else last @ propagator(self.family, times[0], times[-2], steps=times[:-1], method=method)

    def operator(self, steps: int | Sequence[float] = 100, method: Method = "rk4", *, of_class: int | None = None) -> Linearizer:
        """The one-step sampler L(g_0, g_1, B), equal to the sampler of so many steps (eq. 17).

        Arguments:
            steps: how many, or the times between them, such as `exact_times(model)`.
            method: integrator of the steps.
            of_class: the class of images that it draws, with g_1 by the Gaussians of that class; all if None.

        Raises:
            DomainError: the density of the model has no such class.
        """
        data = self.space(DATA) if of_class is None else self._class_space(of_class)
        return Linearizer(self.core(steps, method), self.space(NOISE), data)

    def _class_space(self, kind: int) -> InducedSpace:
        if (mixture := self.mixture) is None:
            raise DomainError(f"images of class {kind} alone are drawn by a mixture, and the density of this model is none")
        (h,) = cast(list[ConditionalDirectSum], self.density)
        chosen = ConditionalDirectSum(mixture.of_class(kind), cast(Bijection, h.charts[1]))
        return InducedSpace(self.chart_at(DATA, [*self.encoder, chosen]))

    def transport(self, z: Tensor, steps: int | Sequence[float] = 100, method: Method = "rk4") -> Tensor:
        """The same steps taken one by one, on coordinates."""
        if not isinstance(self.family, EndPointRate):
            return integrate(self.family, z, steps=steps, method=method)
        times = _times(steps)
        before = z if len(times) == 2 else integrate(self.family, z, times[0], times[-2], steps=times[:-1], method=method)
        end: Tensor = self.family.prediction.at(times[-2])(before)
        return end

    def multi_step(self, x: Tensor, steps: int | Sequence[float] = 100, method: Method = "rk4") -> Tensor:
        """The sampler that takes every step on the state."""
        return self.space(DATA).point(self.transport(self.space(NOISE).coords(x), steps, method))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, of_class: int | None = None) -> Tensor:
        """n points, of one class if it is given, drawn in one step from noise of `generator`, or of torch's own."""
        drawn = torch.randn(n, *self.noise_chart.shape, generator=generator, dtype=torch.float64)
        return self.operator(of_class=of_class)(drawn.to(next(self.parameters())))

    @torch.no_grad()
    def invert(self, x: Tensor) -> Tensor:
        """The noise x_0 that one step turns into x: N(0, I) for points x as in the data.

        Raises:
            DomainError: a column that is constant in the data has another value in x.
        """
        points = torch.as_tensor(x).to(next(self.parameters()))
        if isinstance(first := self.encoder[0], Varying):
            first.require(points)
        return self.operator().solve(points)

    def latent_std(self) -> Tensor:
        """Standard deviations (dim,) of the fixed latent density at the data end."""
        like = next(self.parameters())
        std = torch.ones(self.dim, dtype=like.dtype, device=like.device)
        if self.config.rest_std is not None:
            std[self.config.rank :] = self.config.rest_std
        return std


class Latent(nn.Module):
    """The parts of a model that its second stage trains: h and the family, shared with the model."""

    def __init__(self, model: FlowMatching) -> None:
        super().__init__()
        self.density, self.family = nn.ModuleList(model.density), model.family


def at_a_time(dim: int) -> int:
    """Images that go through the chart together where no gradients are kept: half a million numbers."""
    return max(1, 2**19 // dim)


def build(config: ModelConfig) -> FlowMatching:
    """The untrained model; its ActNorms wait for `initialize`."""
    return FlowMatching(config)


def _require_fitting(config: ModelConfig) -> None:
    """Refuse settings of images for vectors, and of vectors for images."""
    if len(config.shape) not in (1, 3) or config.vectors != (config.chart in ("spline", "real_nvp")):
        raise DomainError(
            f"chart {config.chart!r} does not fit points of shape {config.shape}: 'spline' and 'real_nvp' are for vectors (n,), "
            "'glow', 'linear' and 'identity' for images (C, H, W)"
        )
    if not 1 <= config.rank <= math.prod(config.shape):
        raise DomainError(
            f"a rank lies in 1..{math.prod(config.shape)}, the dimension for shape {config.shape}; got {config.rank}"
        )
    varying = config.shape[0] - len(config.constant)
    if config.vectors and (config.noise_space != "euclidean" or config.rest_std is None or config.rank != varying):
        raise DomainError(
            f"all {varying} varying columns of a vector lead: expected rank {varying}, rest_std, noise_space 'euclidean', got "
            f"rank {config.rank}, rest_std {config.rest_std} and noise_space {config.noise_space!r}"
        )


def _times(steps: int | Sequence[float]) -> list[float]:
    return [k / steps for k in range(steps + 1)] if isinstance(steps, int) else list(steps)


def _encoder(config: ModelConfig) -> list[Bijection | ConditionalBijection]:
    """Points to coordinates (dim,); the identity and the linear chart are there to be compared with."""
    if config.vectors:
        return standardising(config.shape[0], config.constant)
    if config.chart == "identity":
        return [Flatten(config.shape)]
    if config.chart == "linear":
        return [Flatten(config.shape), Linear(LU(math.prod(config.shape)))]
    label = int(config.noise_space == "labelled")
    options: dict[str, Any] = {"context": label, "max_log_scale": config.max_log_scale}
    nets: dict[str, Any] = {} if config.conditioner == "conv" else {"conditioner": CONDITIONERS[config.conditioner]}
    if not 1 <= len(config.widths) <= config.blocks:
        raise DomainError(
            f"--widths has a number for each resolution, --blocks at least as many: got {config.widths}, {config.blocks}"
        )
    image = glow(config.shape, config.blocks, config.widths, levels=len(config.widths), **options, **nets)
    flat: list[Bijection | ConditionalBijection] = [image, Flatten(_coarse_shape(config))]
    if not config.dense_blocks:
        return flat
    return [*flat, real_nvp(math.prod(config.shape), config.dense_blocks, config.dense_width, **options)]


def _density(config: ModelConfig) -> list[Bijection | ConditionalBijection]:
    """Couplings among the leading coordinates, and the standard deviation of the others; none where no coordinates lead."""
    if config.vectors:
        return couplings(config.chart, config.rank, config.density_blocks, config.density_width)
    if config.chart != "glow" or not config.density_blocks or config.rest_std is None:
        return []
    label, others = int(config.noise_space == "labelled"), (math.prod(config.shape) - config.rank,)
    if config.components and config.noise_space == "euclidean":
        return [ConditionalDirectSum(GaussianMixture(config.rank, config.components, config.tail), Affine(others))]
    leading = real_nvp(config.rank, config.density_blocks, config.density_width, context=label)
    if config.noise_space != "euclidean":  # the chart of the noise end must not scale
        return [ConditionalDirectSum(leading, Identity(others))]
    return [ConditionalDirectSum(leading, Affine(others))]


def _coarse_shape(config: ModelConfig) -> tuple[int, int, int]:
    """Shape of the coordinates of the convolutional part: one squeeze a level, but none in the first for several channels."""
    C, H, W = config.shape
    halvings = len(config.widths) - (C > 1)
    return C * 4**halvings, H // 2**halvings, W // 2**halvings
