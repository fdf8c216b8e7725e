"""What the iterates of an operator on one space may be expected to be: their coordinates, their growth and their rounding."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from induced.checks.measure import FACTOR, Noise, lengths, longest, unit_normal
from induced.checks.report import JUDGEABLE
from induced.operators import Dense, LinearOperator, inverse
from induced.spaces import HilbertSpace


@final
class Orbit:
    """A^k z for the coordinates z of samples, how much powers lengthen vectors, and what rounding does on the way.

    Arguments:
        X: the space.
        core: the operator A.
        x: samples (k, *shape).
        steps, back: the largest powers of A and of A^-1 that are looked at.
    """

    def __init__(self, X: HilbertSpace, core: LinearOperator, x: Tensor, steps: int, back: int = 0) -> None:
        self.X, self.core, self.z = X, core, X.coords(x.clone())
        self.floor = X.zero_size(x)
        self.sums = summed(X)
        self.images = {0: torch.cat([self.z, directions(self.z)])}
        for k in range(1, steps + 1):
            self.images[k] = core(self.images[k - 1])
        inverted = inverse(core) if back else core
        for k in range(1, back + 1):
            self.images[-k] = inverted(self.images[1 - k])

    def coords(self, k: int) -> Tensor:
        """A^k z."""
        return self.images[k][: len(self.z)]

    def known(self, steps: Sequence[int]) -> dict[int, Noise]:
        """What the chart adds to the rounding of the coordinates A^k z; raises DomainError where it cannot hold their points."""
        z = torch.cat([self.coords(k) for k in steps])
        added = (self.X.roundings(self.X.point(z)) - lengths(z)).clamp(min=0.0)
        return {k: Noise(float(r.max()), self.floor) for k, r in zip(steps, added.chunk(len(steps)), strict=True)}

    def growth(self, k: int) -> float:
        """||A^k|| from below, by all that was visited."""
        return max(ratio(self.images[j + k], w) for j, w in self.images.items() if j + k in self.images)

    def products(self, k: int, by_entries: bool = True) -> tuple[float, float]:
        """What rounding does to A^k z, k products in any order, in multiples of eps, and the size of the numbers that it sums.

        Each of k products rounds by eps / 2 times n^(1/4) ||A||^k |z| and | |A|^k |z| |, with random signs: the smaller counts.
        The identity rounds once. Without `by_entries` a matrix counts as known to eps ||A|| in norm, not in each entry.
        """
        size = self.growth(1) ** k * longest(self.z)
        rounded = self.sums * size
        if by_entries and isinstance(self.core, Dense):
            sums = self.z.abs()
            for _ in range(k):
                sums = sums @ self.core.A.abs().mT
            if longest(sums) < rounded:
                size = rounded = longest(sums)
        return math.sqrt(k) / 2 * rounded if k else longest(self.z), size

    def beside(self, k: int, rounded: float, terms: float) -> tuple[float, str]:
        """The size of A^k z; that of the terms that it is a sum of, where rounding cannot tell it from zero."""
        size = longest(self.coords(k))
        if explained(self.z, rounded) <= JUDGEABLE * size or terms <= size:
            return size, ""
        return terms, "beside the terms that cancel"

    def inverses(self, k: int) -> float:
        """Likewise of A^-k z, and of A^-1 A z for k = 0: of solutions, which depend on the condition."""
        condition = self.growth(1) * self.growth(-1)
        return math.sqrt(2) * self.sums * condition * (self.growth(-1) * longest(self.coords(1 - k)) if k else longest(self.z))


def summed(X: HilbertSpace) -> float:
    """Roundings of a sum of n terms, which is taken in blocks: chains of sqrt(n) additions, with random signs."""
    return math.sqrt(math.sqrt(X.dim))


def directions(z: Tensor) -> Tensor:
    """Some coordinates in random directions, at least 8, as long as those of z; of length 1 where z is zero."""
    size = lengths(z).repeat(-(-8 // len(z))).unsqueeze(-1)
    return torch.where(size > 0, size, 1.0) * unit_normal(z, len(size), *z.shape[1:])


def ratio(image: Tensor, z: Tensor) -> float:
    """The most that vectors were lengthened; infinite where an image is not finite, 0 where no vector has a length."""
    before, after = lengths(z).double(), lengths(image).double()
    ratios = torch.nan_to_num(after / before, nan=math.inf, posinf=math.inf)[(before > 0) & before.isfinite()]
    return float(ratios.max()) if len(ratios) else 0.0


def core_norm(core: LinearOperator, z: Tensor) -> float:
    """||A|| from below, by power iteration; 1 where it is so small or large that its reciprocal is no time."""
    limit, gain = torch.finfo(z.dtype).max / 1e3, 0.0
    w = torch.cat([z, directions(z)])
    for _ in range(4):
        image = core(w)
        gain = max(gain, ratio(image, w))
        w = image / (gain or 1.0)
    return gain if 1 / limit < gain < limit else 1.0


def underflow(z: Tensor) -> Noise:
    """Numbers below the range lose digits: by eps times the least that has all."""
    tiny = torch.finfo(z.dtype).tiny
    return Noise(tiny * math.sqrt(z.shape[-1]) * (1 + longest(z)), tiny)


def explained(z: Tensor, rounded: float) -> float:
    """The difference that so many roundings explain."""
    return FACTOR * torch.finfo(z.dtype).eps * rounded
