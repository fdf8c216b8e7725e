"""What a projector is used for: mending images, drawing new ones, telling strange ones, and its range as a subspace."""

from typing import final

import torch
from torch import Tensor

from induced import Linearizer, Subspace
from induced.errors import DomainError, ShapeError
from induced.operators import Projection

BATCH = 256


@torch.no_grad()
def project(f: Linearizer, images: Tensor, batch: int = BATCH) -> Tensor:
    """f(x), in batches of bounded memory: the nearest point of the range to x, as the induced distance has it.

    What f does to images is to keep what it knows of digits: it denoises, fills in, repairs. On the lattice the result is that
    of each image alone, to the last bit.
    """
    return torch.cat([f(part.to(f.device)) for part in torch.split(images, batch)])


@torch.no_grad()
def coordinates(f: Linearizer, images: Tensor, batch: int = BATCH) -> Tensor:
    """g(x) (k, dim), in batches of bounded memory."""
    return torch.cat([f.domain.coords(part.to(f.device)) for part in torch.split(images, batch)])


def noise(f: Linearizer, n: int, seed: int = 0, like: Tensor | None = None) -> Tensor:
    """n images of normal noise, drawn on the CPU: its pixels independent, or its Fourier coefficients.

    Arguments:
        f: the projector, for the shape of its images.
        n: how many.
        seed: seed.
        like: images whose Fourier coefficients the noise takes mean and variance from; pixels are standard normal without.
    """
    drawn = torch.randn(n, *f.domain.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if like is not None:
        spectrum = torch.fft.rfft2(like.cpu().double())
        # white noise has coefficients of variance H W
        size = spectrum.var(0).sqrt() / (like.shape[-1] * like.shape[-2]) ** 0.5
        drawn = torch.fft.irfft2(spectrum.mean(0) + size * torch.fft.rfft2(drawn), s=like.shape[-2:])
    return drawn.to(_projection(f).p)


def anomaly(f: Linearizer, images: Tensor, batch: int = BATCH) -> Tensor:
    """The induced distance ||x (-) f(x)|| (k,), which is |(I - P) g(x)|: how far an image is from being one of its kind."""
    distance: Tensor = torch.linalg.vector_norm(_projection(f).complement()(coordinates(f, images, batch)), dim=-1)
    return distance


def principal_range(f: Linearizer, images: Tensor, rank: int) -> Subspace:
    """The part of the range of f that `rank` principal components of the projections of images (k, *shape) span, about 0.

    Of the images of one class it is what f knows of that class; of all images, the best part of a lower rank. Subspaces of
    one f have one space, so `+` and `&` join them. Their projections Q Q^T are idempotent up to rounding, not bit for bit:
    only projections onto coordinates keep a lattice.

    Raises:
        DomainError: `rank` exceeds that of f, or the number of images.
    """
    mask = _projection(f).mask()
    most = min(int(mask.sum()), len(images))
    if not 0 <= rank <= most:
        raise DomainError(f"{len(images)} images and a projector of rank {int(mask.sum())} give 0..{most} components, got {rank}")
    c = coordinates(f, images)[:, mask].double()
    Q = torch.zeros(len(mask), rank, dtype=torch.float64, device=mask.device)
    Q[mask] = torch.linalg.eigh(c.mT @ c)[1].flip(-1)[:, :rank]
    return Subspace(f.domain, Q.to(_projection(f).p))


@final
class RangeGaussian:
    """Normal distributions of the coordinates that f keeps, one for all images or one for each class.

    Arguments:
        f: the projector.
        images: (k, *shape), at least two; of each class, where there are labels.
        labels: (k,) int64, or None for a single distribution.

    Raises:
        ShapeError: too few images.
    """

    def __init__(self, f: Linearizer, images: Tensor, labels: Tensor | None = None) -> None:
        self.f = f
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels.cpu()
        self.classes, counts = torch.unique(labels, return_counts=True)
        if len(images) == 0 or int(counts.min()) < 2:
            raise ShapeError(f"a normal distribution is fitted to at least two images, got {counts.tolist()} of the classes")
        self.shares = counts.double() / len(labels)
        c = coordinates(f, images)[:, _projection(f).mask()].double().cpu()
        self.means = torch.stack([c[labels == k].mean(0) for k in self.classes])
        self.roots = torch.stack([_root(torch.cov(c[labels == k].mT).reshape(c.shape[1], c.shape[1])) for k in self.classes])

    def coordinates(self, n: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Coordinates (n, dim), 0 where f drops them; deviations from the mean are `temperature` times as large."""
        generator, mask = torch.Generator().manual_seed(seed), _projection(self.f).mask().cpu()
        chosen = torch.multinomial(self.shares, n, replacement=True, generator=generator)
        drawn = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        for k, (mean, root) in enumerate(zip(self.means, self.roots, strict=True)):
            drawn[chosen == k] = mean + temperature * drawn[chosen == k] @ root.mT
        z = torch.zeros(n, len(mask), dtype=torch.float64)
        z[:, mask] = drawn
        return z

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0, temperature: float = 1.0, batch: int = BATCH) -> Tensor:
        """n images of the range: f leaves them as they are."""
        z = self.coordinates(n, seed, temperature).to(_projection(self.f).p)
        return torch.cat([self.f.domain.point(part) for part in torch.split(z, batch)])


def _root(C: Tensor) -> Tensor:
    """R with R R^T = C; a covariance of few images is singular."""
    values, vectors = torch.linalg.eigh(C)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root


def _projection(f: Linearizer) -> Projection:
    if not isinstance(f.core, Projection):
        raise DomainError(f"the coordinates that are kept are known of a 0/1 projection, got the core {f.core}")
    return f.core
