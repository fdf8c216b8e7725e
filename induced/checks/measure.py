"""How a difference becomes a residual, and roundings a tolerance (docs/theory/numerical_honesty.md)."""

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from induced._numerics import scaled_norm
from induced._validate import require_shape
from induced.checks.report import Report
from induced.errors import DomainError, InducedError, ShapeError
from induced.spaces import HilbertSpace

FACTOR = 10.0
WIDE = 2**16
"""Above so many coordinates a check looks at fewer samples and directions, and estimates no log|det J|."""
LATTICE_STEPS = 4096.0
"""Steps of a lattice in each coordinate of what laws are tried at there: far above the roundings to it."""
FAR_ABOVE = 1e3
"""A report says so where the numbers at the zero vector exceed the samples so many times."""


@final
@dataclass(frozen=True, order=True)
class Noise:
    """What rounding may do to a difference, in multiples of eps, and the size of the numbers computed with at the zero vector.

    It is carried along: `a * noise` through an operator of norm a, `noise + noise` over two visits; a number that is added
    counts as roundings.
    """

    roundings: float
    floor: float = 0.0

    def __add__(self, other: "Noise | float") -> "Noise":
        more = other if isinstance(other, Noise) else Noise(other)
        return Noise(self.roundings + more.roundings, self.floor + more.floor)

    def __radd__(self, other: float) -> "Noise":
        return self + other

    def __mul__(self, a: float) -> "Noise":
        # 0 * inf = 0: what is multiplied by zero does not reach the difference
        return Noise(a * self.roundings, a * self.floor) if a else Noise(0.0)

    def __rmul__(self, a: float) -> "Noise":
        return self * a

    def __truediv__(self, a: float) -> "Noise":
        return self * (1 / a)


def noises(X: HilbertSpace, *groups: Tensor) -> list[Noise]:
    """What X may do to the coordinates of each group of points, at the worst of them (see `HilbertSpace.roundings`)."""
    return noise(X, groups[0], *roundings(X, *groups))


def roundings(X: HilbertSpace, *groups: Tensor) -> tuple[Tensor, ...]:
    """`X.roundings` of each point of each group, in one sweep."""
    return torch.split_with_sizes(X.roundings(torch.cat(groups)), [len(group) for group in groups])


def noise(X: HilbertSpace, like: Tensor, *sizes: Tensor) -> list[Noise]:
    """The worst of each group of roundings, beside the numbers that X computes with at its zero vector."""
    floor = X.zero_size(like)
    return [Noise(float(group.max()), floor) for group in sizes]


def estimated(noise: Callable[[], Noise], result: Tensor) -> Noise:
    """The noise of a result; a rounding of each number where the chart cannot be asked, which a law of batches then reports."""
    try:
        return noise()
    except Exception:
        return Noise(longest(result))


def lengths(x: Tensor) -> Tensor:
    """The norm of each sample, (k,)."""
    return scaled_norm(x.flatten(1), -1) if x.dim() > 1 else x.abs()


def longest(x: Tensor) -> float:
    """The largest norm of samples (k, ...)."""
    return float(lengths(x.detach()).max())


def per_sample(entries: Tensor) -> Tensor:
    """The sum of the entries (k, ...) of each sample, (k,)."""
    return entries.unsqueeze(-1).flatten(1).sum(-1)


def compare(
    law: str,
    statement: str,
    difference: Tensor,
    size: float,
    error: Noise | float,
    samples: Tensor,
    *,
    per: int = 1,
    note: str = "",
) -> Report:
    """The report of a law: the largest difference of a sample beside what rounding explains, both over one size.

    The size is that of what is compared. At and near the zero vector it means nothing, since a chart rounds the numbers that it
    computes with there, which are of the size `error.floor`: that is taken where it is larger, up to what rounding needs.

    Arguments:
        difference: what should be zero, (k, ...) or (k * per, ...).
        size: the size of what is compared; where it and the floor are 0, a difference of 0 is 0/0 = 0.
        error: what rounding may do to the difference.
        samples: what the law was tried at, (k, ...).
        per: differences a sample.
    """
    error = error if isinstance(error, Noise) else Noise(error)
    off = lengths(difference.detach())
    worst = int(off.argmax())
    scale = max(size, min(error.floor, error.roundings))
    if size > 0 and scale > FAR_ABOVE * size:
        note = joined(note, f"relative to the numbers at the zero vector, {scale / size:.0e} times what is compared")
    tolerance = FACTOR * torch.finfo(samples.dtype).eps * (error.roundings / scale if scale else 0.0)
    largest = float(off[worst])
    residual = 0.0 if largest == 0.0 else largest / scale if scale else math.inf
    if math.isinf(error.roundings):  # the chart overflows here, where a difference means nothing
        residual, tolerance = math.inf, math.inf
    return Report(law, statement, residual, tolerance, samples[min(worst // per, len(samples) - 1)], note)


def exactly(law: str, statement: str, different: Tensor | float, samples: Tensor | None = None, note: str = "") -> Report:
    """The report of a law that allows no rounding: how many entries differ, and the sample of most of them.

    Arguments:
        different: 1 for each entry (k, ...) of k samples that differs, or how many there are.
    """
    counts = torch.as_tensor(different, dtype=torch.float64)
    worst = None if samples is None else samples[int(per_sample(counts).argmax()) if counts.dim() else 0]
    return Report(law, statement, float(counts.sum()), 0.0, worst, note)


def not_applicable(law: str, statement: str, why: str) -> Report:
    return Report(law, statement, math.nan, math.nan, note=why, applies=False)


def unjudgeable(law: str, statement: str, why: str) -> Report:
    return Report(law, statement, math.inf, math.inf, note=why)


def attempt(law: str, statement: str, judge: Callable[[str, str], Report], *, chosen: bool = False) -> Report:
    """`judge(law, statement)`; where it raises, a report that says what.

    Arguments:
        chosen: the law visits points that the check chose: there a chart may refuse with a DomainError.
    """
    try:
        return judge(law, statement)
    except Exception as error:
        if chosen and isinstance(error, DomainError):
            return not_applicable(law, statement, f"refused: {one_line(error)}")
        return raised(law, statement, error)


def farthest(tries: Iterable[Report], otherwise: Report) -> Report:
    """The last of ever harder tries of a law that can be judged, or the first that is violated; `otherwise` where there is none.

    Tries end where one is unjudgeable, or the chart refuses with a DomainError.
    """
    found = otherwise
    try:
        for report in tries:
            if report.verdict == "unjudgeable":
                break
            found = report
            if report.verdict == "violated":
                break
    except DomainError:
        pass
    return found


def raised(law: str, statement: str, error: Exception) -> Report:
    """The report of a law that raised, with the line that did unless the library says what is wrong."""
    note = f"raised {one_line(error)}"
    if not isinstance(error, InducedError):
        line = traceback.extract_tb(error.__traceback__)[-1]
        note += f" (line {line.lineno} of {Path(line.filename).name}, in {line.name})"
    return Report(law, statement, math.nan, 0.0, note=note)


def joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def shrunk(
    what: str,
    laws: Callable[[Tensor], Sequence[Report]],
    X: HilbertSpace,
    points: Tensor,
    tries: int = 12,
    reach: float = 1.0,
) -> list[Report]:
    """The laws at the points, or, where the chart refuses or a law cannot be judged, at a third, a 27th, ... of them.

    A law may visit sums and multiples of points, which may lie outside of what the chart can hold. Where no multiple is judged in
    all laws, the largest one counts in which most are. Points shrink as long as the chart refuses, or as that narrows tolerances
    and what is visited stays longer than the numbers at the zero vector.

    Arguments:
        what: what the laws are, should one of them raise.
        laws: reports of the laws at some points.
        X: the space of the points.
        reach: how much longer than the points is what the laws visit.

    Raises:
        DomainError: that of the chart, where it refuses all multiples.
    """
    best: list[Report] | None = None
    refusal: DomainError | None = None
    last, stalled = math.inf, 0
    size, floor, factor = longest(X.coords(points.clone())), estimated(lambda: Noise(0.0, X.zero_size(points)), points).floor, 1.0
    for number in range(tries):
        try:
            tried = points if factor == 1.0 else X.scale(factor, points)
            found = [r if factor == 1.0 else _noted(r, f"at the samples scaled by {factor:.3g}") for r in laws(tried)]
        except DomainError as error:
            refusal = refusal or error
        except Exception as error:
            return [raised(what, "contract", error)]
        else:
            unclear = [r for r in found if r.verdict == "unjudgeable"]
            if best is None or len(unclear) < sum(r.verdict == "unjudgeable" for r in best):
                best = found
            width = max((r.tolerance for r in unclear), default=0.0)
            stalled = stalled + 1 if 0.9 * last < width < math.inf else 0
            if width == 0.0 or any(r.verdict == "violated" for r in found) or stalled == 2:
                break
            last = width
        factor /= 3.0 ** (number + 1)
        if best is not None and not size * factor * reach > floor:
            break
    if best is None:
        assert refusal is not None
        raise DomainError(f"{what} cannot be tried at the samples or at smaller multiples of them: {refusal}") from refusal
    return best


def _noted(report: Report, note: str) -> Report:
    return replace(report, note=joined(report.note, note))


def unit(x: Tensor) -> Tensor:
    """Samples (k, ...) scaled to length 1; zero stays zero."""
    length = lengths(x).reshape(-1, *(1,) * (x.dim() - 1))
    return x / torch.where(length > 0, length, 1.0)


def unit_normal(like: Tensor, *shape: int, seed: int = 0) -> Tensor:
    """Samples (k, ...) of length 1 in random directions, of the dtype and device of another tensor."""
    return unit(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like))


def random_like(X: HilbertSpace, x: Tensor, seed: int = 0, least: float = 0.0) -> Tensor:
    """Points whose coordinates have random directions and the norms of those of x, and at least `least`; 1 where x is zero."""
    z = X.coords(x)
    size = lengths(z).unsqueeze(-1)
    return X.point(torch.where(size > 0, size, 1.0).clamp(min=least) * unit_normal(z, *z.shape, seed=seed))


def lattice_radius(*spaces: HilbertSpace) -> float:
    """The norm of coordinates of `LATTICE_STEPS` steps each; 0 of spaces without a lattice."""
    steps = {X: max((getattr(part, "lattice_step", 0.0) for part in X.modules()), default=0.0) for X in spaces}
    return LATTICE_STEPS * max(step * math.sqrt(X.dim) for X, step in steps.items())


def require_samples(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The samples as one batch (k, *shape), a copy of their own."""
    require_shape(x, shape, "the samples of a law")
    if x.dim() <= len(shape) or x.numel() == 0:
        raise ShapeError(
            f"a law needs at least one sample, of shape (k, {', '.join(map(str, shape))}) with k >= 1; got {tuple(x.shape)}"
        )
    with torch.inference_mode(False):
        return x.detach().flatten(0, x.dim() - len(shape) - 1).clone()


def finite_gradients(law: str, statement: str, samples: Tensor, *functions: tuple[Callable[[Tensor], Tensor], Tensor]) -> Report:
    """The report of a law that sums of the functions have finite gradients at what each is given."""
    bad = torch.zeros(len(samples), dtype=torch.float64)
    for f, given in functions:
        with torch.enable_grad():
            leaf = given.detach().clone().requires_grad_()
            result = f(leaf).sum()
            if not result.requires_grad:
                return Report(law, statement, math.nan, 0.0, samples[0], "no gradient flows back to what is given")
            (gradient,) = torch.autograd.grad(result, leaf, allow_unused=True, materialize_grads=True)
        bad += per_sample(~torch.isfinite(gradient)).cpu()
    return exactly(law, statement, bad, samples)
