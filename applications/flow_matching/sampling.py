"""Drawing, encoding and editing with a trained model: linear algebra on its one-step operator."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from applications.common.data import to_uint8
from applications.common.figures import grid
from applications.flow_matching.model import FlowMatching, at_a_time
from induced import InducedSpace, Linearizer
from induced.errors import DomainError, ShapeError
from induced.propagators import adaptive_grid


def noise(model: FlowMatching, n: int, seed: int = 0, *, temperature: float = 1.0, truncation: float = math.inf) -> Tensor:
    """n noise images, drawn on the CPU so that a seed means the same pictures everywhere.

    Arguments:
        model: whose noise it is.
        n: how many.
        seed: of the generator.
        temperature: standard deviation of the noise, above 0, before it is truncated.
        truncation: the noise is distributed as if each number z were drawn anew until |z| <= truncation * temperature. It is a
            growing function of z, so that a seed means nearly the same pictures as without.

    Raises:
        DomainError: temperature or truncation is not above 0, or the temperature not finite.

    Law:
        `torch.cat(list(noises(model, n, seed)))`, bit for bit (applications/flow_matching/test_sampling.py)
    """
    parts = list(noises(model, n, seed, temperature=temperature, truncation=truncation))
    return torch.cat(parts) if parts else next(model.parameters()).new_empty(0, *model.noise_chart.shape)


def noises(
    model: FlowMatching, n: int, seed: int = 0, *, temperature: float = 1.0, truncation: float = math.inf
) -> Iterator[Tensor]:
    """The rows of `noise` in order, in batches that go through the chart together; some 100 MB at a time, however large n is."""
    if not 0 < temperature < math.inf:
        raise DomainError(f"a temperature is a finite number above 0, got {temperature}")
    if not truncation > 0:
        raise DomainError(f"noise is truncated at a number of standard deviations above 0, got {truncation}")

    def batches(left: int) -> Iterator[Tensor]:
        generator, size, like = torch.Generator().manual_seed(seed), at_a_time(model.dim), next(model.parameters())
        while left:
            # torch makes normal numbers by sixteens: parts of 16 k rows, and a last one of 16 or more, are one draw
            count = left if left < 16 * size + 16 else 16 * size
            z = torch.randn(count, *model.noise_chart.shape, generator=generator, dtype=torch.float64)
            left -= count
            yield from torch.split((temperature * _truncated(z, truncation)).to(like), size)

    return batches(n)


def _truncated(z: Tensor, most: float) -> Tensor:
    """Phi^-1(Phi(-most) + Phi(z) (1 - 2 Phi(-most))), N(0, 1) on [-most, most] of z ~ N(0, 1); computed in the tail of z."""
    if most == math.inf:
        return z
    cut = math.erfc(most / math.sqrt(2)) / 2
    tail = torch.special.ndtri(cut + torch.erfc(z.abs() / math.sqrt(2)) * (0.5 - cut))
    return torch.copysign(tail.abs().clamp_max(most), z)


def sample(f: Linearizer, x0: Tensor, *, batch: int | None = None) -> Tensor:
    """f(x_0), in batches of bounded memory."""
    size = batch or at_a_time(x0[0].numel() if len(x0) else 1)
    return torch.cat([f(part) for part in torch.split(x0, size)])


def exact_times(model: FlowMatching, tolerance: float = 1e-5) -> tuple[float, ...]:
    """Times between which Magnus steps reach the exact propagator within `tolerance`; for `operator(times, "magnus4")`."""
    family = copy.deepcopy(model.family).double()  # whose rounding the tolerance must exceed
    return adaptive_grid(family, tolerance=tolerance, method="magnus4").times


def encode(f: Linearizer, x: Tensor) -> Tensor:
    """The noise images x_0 = f+(x) that f maps to x, or to the nearest point of its range where B has no inverse."""
    return f.solve(x)


def interpolate(f: Linearizer, first: Tensor, second: Tensor, count: int) -> Tensor:
    """f along the induced segment between the encodings of two images, of shape (count, *shape)."""
    a, b = encode(f, torch.stack([first, second]))
    t = torch.linspace(0, 1, count, dtype=first.dtype, device=first.device)
    ends = [end.expand(count, *end.shape) for end in (a, b)]
    return f(f.domain.segment(ends[0], ends[1], t))


def direction(X: InducedSpace, without: Tensor, with_: Tensor) -> Tensor:
    """A semantic direction: the difference of the induced means of two sets of images, itself a point (*shape) of the space.

    Arguments:
        X: the space of the images, `model.codes()`: where h makes all classes one Gaussian, differences of means say little.
        without, with_: images (k, *shape) and (l, *shape), k, l >= 1.
    """
    if min(len(without), len(with_)) == 0:
        raise ShapeError(f"a direction is the difference of two means; got {len(without)} and {len(with_)} images")
    return X.sub(X.mean(with_)[None], X.mean(without)[None])[0]


def move(X: InducedSpace, x: Tensor, along: Tensor, amounts: Tensor) -> Tensor:
    """x (+) a (.) v for each amount a: an edit of one image, of shape (len(amounts), *shape); a = 0 gives x back."""
    return X.point(X.coords(x) + amounts.to(x)[:, None] * X.coords(along))


def sample_grid(model: FlowMatching, step: int) -> Tensor:
    """64 one-step samples as one picture; what training shows on the way."""
    return grid(to_uint8(model.operator()(noise(model, 64))), columns=8, caption=f"step {step}: samples in one step")
