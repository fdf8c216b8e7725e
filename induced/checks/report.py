"""What a law gives, and how a difference becomes a residual and roundings a tolerance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor

from induced.errors import LawViolation, ShapeError

FACTOR = 10.0
JUDGEABLE = 1e-2


@final
@dataclass(frozen=True)
class Report:
    """What one law gave.

    Attributes:
        law: the equation.
        statement: its number in the paper, or the section that states it.
        residual: the largest normalised violation over the samples.
        tolerance: what rounding explains.
        worst: the sample with the largest violation, where the law speaks of samples.
    """

    law: str
    statement: str
    residual: float
    tolerance: float
    worst: Tensor | None = None

    @property
    def ok(self) -> bool:
        """Whether the law holds, and could be judged: a nan residual and a tolerance above 1e-2 are not ok."""
        return self.residual <= self.tolerance <= JUDGEABLE

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "too ill-conditioned to judge" if self.residual <= self.tolerance else "VIOLATED"
        return f"{self.statement:<12} {self.law:<44} residual {self.residual:8.2e}  tolerance {self.tolerance:8.2e}  {verdict}"


def require(*reports: Report | Iterable[Report]) -> None:
    """Raise LawViolation, listing every report that is not ok."""
    flat = list(chain.from_iterable([r] if isinstance(r, Report) else r for r in reports))
    failed = [report for report in flat if not report.ok]
    if failed:
        raise LawViolation(f"{len(failed)} of {len(flat)} laws do not hold:\n" + "\n".join(map(str, failed)))


def require_samples(x: Tensor, shape: tuple[int, ...]) -> None:
    if x.dim() <= len(shape) or x.numel() == 0:
        raise ShapeError(
            f"a law needs at least one sample, of shape (k, {', '.join(map(str, shape))}) with k >= 1; got {tuple(x.shape)}"
        )


def norms(x: Tensor, batch: int = 1) -> Tensor:
    return x.flatten(batch).norm(dim=-1) if x.dim() > batch else x.abs()


def worst(roundings: Tensor) -> float:
    """The largest of the roundings of some points."""
    return float(roundings.max())


def compare(
    law: str,
    statement: str,
    difference: Tensor,
    size: Tensor | float,
    roundings: float,
    samples: Tensor,
    batch: int = 1,
    per: int = 1,
    zero_size: Tensor | float = 0.0,
) -> Report:
    """The report of a law: the largest difference of a sample beside the roundings, both over `size`.

    Arguments:
        difference: what should be zero, (*batch, ...).
        size: a number, or points (*batch, ...) the largest norm of which it is; where it is 0, a difference of 0 is 0/0 = 0.
        roundings: what rounding may do to the difference, in multiples of eps.
        samples: what the law was tried at, (*batch, ...).
        batch: number of batch dimensions.
        per: differences a sample.
        zero_size: the size for a map that rounding cannot tell from zero: that of its input.
    """
    lengths = norms(difference, batch).flatten()
    scale = float(norms(size, batch).max()) if isinstance(size, Tensor) and size.dim() > 0 else float(size)
    eps = torch.finfo(samples.dtype).eps
    if scale <= 10 * FACTOR * eps * roundings:
        scale = max(scale, float(zero_size))
    worst = int(lengths.argmax())
    largest = float(lengths[worst])
    residual = 0.0 if largest == 0.0 else largest / scale if scale else float("inf")
    tolerance = FACTOR * eps * (roundings / scale if scale else 0.0)
    return Report(law, statement, residual, tolerance, samples.flatten(0, batch - 1)[min(worst // per, len(samples) - 1)])


def finite_gradients(f: Callable[[Tensor], Tensor], x: Tensor) -> Report:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return Report("gradients are finite", "contract", float((~torch.isfinite(gradient)).sum()), 0.0)
