"""Laws of operators on one space: powers, the one-parameter group, idempotents."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import accumulate

import torch
from torch import Tensor

from induced.checks.measure import (
    Noise,
    attempt,
    compare,
    exactly,
    farthest,
    longest,
    noises,
    not_applicable,
    one_line,
    raised,
    require_samples,
    shrunk,
)
from induced.checks.orbits import Orbit, core_norm, directions, explained, ratio, summed, underflow
from induced.checks.report import JUDGEABLE, Report, Reports
from induced.checks.untouched import different_bits, untouched
from induced.errors import DomainError, InducedError, SpaceMismatch
from induced.linearizer import LinearizerOperator
from induced.operators import LinearOperator, inverse
from induced.precision import full_precision
from induced.spaces import HilbertSpace
from induced.spaces.hilbert import difference

Word = tuple[int | str, ...]
"""What is applied to x, from the first to the last: powers of f by their exponents, and "f" itself."""

POWERS: dict[str, tuple[Word, Word]] = {
    "f^0 = id": ((0,), ()),
    "f^1 = f": ((1,), ("f",)),
    "f^3 = f f f": ((3,), ("f", "f", "f")),
    "f^2 f^3 = f^5": ((3, 2), (5,)),
    "f^4 = f^2 f^2": ((4,), (2, 2)),
    "f^6 = f^3 f^3": ((6,), (3, 3)),
}
INVERSES: dict[str, tuple[Word, Word]] = {
    "f^-1 f = id": (("f", -1), ()),
    "f^-2 = f^-1 f^-1": ((-2,), (-1, -1)),
}
DOUBLED = {"exp(2 t f) = exp(t f)^2, t > 0": 1.0, "exp(2 t f) = exp(t f)^2, t < 0": -1.0}
TIMES = (1.0, 4.0, 16.0)
DERIVATIVE = "d/dt exp(t f) = f at t = 0"

Flow = Callable[[float], LinearizerOperator]
Flows = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
"""Laws of exp(t f): the times on both sides, from the first to the last."""
Laws = Callable[[Tensor, Sequence[str]], list[Report]]


@full_precision()
def check_powers(f: LinearizerOperator, x: Tensor) -> Reports:
    """f^0 = id, f^1 = f, f^3 = f f f, f^2 f^3 = f^5, f^4 = f^2 f^2, f^6 = f^3 f^3, f^-1 f = id and f^-2 = f^-1 f^-1 (eq. 4).

    The last two where f is invertible, as far as its condition lets them be judged.

    Arguments:
        f: an operator of one space; it is given back bit for bit as it was.
        x: samples (*batch, *shape) of the space, at least one. A law that takes them beyond what the chart can hold is tried at a
            third of them, a ninth, and so on.

    Raises:
        SpaceMismatch: the domain is not the codomain. ShapeError: there are no samples. What the space raises at the samples.
    """
    X = _one_space(f)
    x = require_samples(x, X.shape)
    with untouched(f, X), torch.no_grad():
        refused = _refused_inverse(f.core, X.coords(x.clone()))
        laws = [*POWERS] if refused else [*POWERS, *INVERSES]
        orbit = Orbit(X, f.core, x, 6, 0 if refused else 2)
        reach = {law: max(1.0, *(orbit.growth(k) for k in _exponents(law))) for law in laws}
        reports = _shrunk_apart(laws, "eq. 4", lambda p, some: _powers(f, p, some), X, x, reach)
        return Reports(reports + [not_applicable(law, "eq. 4", refused) for law in INVERSES if refused])


@full_precision()
def check_group(f: LinearizerOperator, x: Tensor, s: float | None = None, t: float | None = None) -> Reports:
    """exp(0) = id, exp(s f) exp(t f) = exp((s + t) f), exp(-t f) exp(t f) = id, and d/dt exp(t f) = f at t = 0 (section 7).

    And exp(2 t f) = exp(t f) exp(t f) at times of 1, 4 and 16 over the norm of f and their negatives, as far as the chart and the
    growth of the flow let it be judged; samples that the flow makes longer are shortened before.

    Arguments:
        f: an operator of one space; it is given back bit for bit as it was. `forward` and `exp` are called.
        x: samples (*batch, *shape), at least one.
        s, t: times; 0.3 and 0.5 over the norm of f by default, so that every point stays near the samples.

    The derivative is a central difference of order 4, of a step that balances its truncation against rounding; its
    tolerance holds both.

    Raises:
        SpaceMismatch: the domain is not the codomain. ShapeError: there are no samples. What the space raises at the samples.
    """
    X = _one_space(f)
    x = require_samples(x, X.shape)
    with untouched(f, X), torch.no_grad():
        z = X.coords(x.clone())
        scale = core_norm(f.core, z)
        flow = cache(f.exp)
        s, t = 0.3 / scale if s is None else s, 0.5 / scale if t is None else t
        near: Flows = {
            "exp(0) = id": ((0.0,), ()),
            "exp(s f) exp(t f) = exp((s + t) f)": ((t, s), (s + t,)),
            "exp(-t f) exp(t f) = id": ((t, -t), ()),
        }
        reports = _shrunk_apart([*near, DERIVATIVE], "section 7", lambda p, some: _flows(f, flow, p, scale, near, some), X, x)
        far = {law: partial(_doubled, X, flow, z, sign * scale) for law, sign in DOUBLED.items()}
        return Reports(reports + [attempt(law, "section 7", judge, chosen=True) for law, judge in far.items()])


@full_precision()
def check_idempotent(f: LinearizerOperator, x: Tensor, *, exact: bool = False) -> Reports:
    """f f = f (Lemma 4.2), for samples x of the space.

    Arguments:
        f: an operator of one space; it is given back bit for bit as it was.
        x: samples (*batch, *shape), at least one.
        exact: compare the points bit for bit, as a 0/1 core over lattice charts allows.

    Raises:
        SpaceMismatch: the domain is not the codomain. ShapeError: there are no samples. What the space raises at the samples.
    """
    X = _one_space(f)
    x = require_samples(x, X.shape)
    with untouched(f, X), torch.no_grad():
        X.coords(x.clone())
        if not exact:
            law, gain = "f(f(x)) = f(x)", Orbit(X, f.core, x, 1).growth(1)
            return Reports(_shrunk_apart([law], "Lemma 4.2", lambda p, _: [_idempotent(f, p)], X, x, {law: max(1.0, gain)}))
        once = f(x.clone()).clone()
        different = different_bits(once, f(once.clone()))
        return Reports([exactly("f(f(x)) = f(x), bit for bit", "Lemma 4.2", different, x)])


def _one_space(f: LinearizerOperator) -> HilbertSpace:
    if f.domain != f.codomain:
        raise SpaceMismatch(f"powers, flows and idempotents need one space on both sides, got {difference(f.domain, f.codomain)}")
    return f.domain


def _shrunk_apart(
    names: Sequence[str], statement: str, laws: Laws, X: HilbertSpace, x: Tensor, reach: dict[str, float] | None = None
) -> list[Report]:
    """All laws at the samples; then each that the chart refuses or that cannot be judged there on its own, at shorter ones."""
    try:
        found = {report.law: report for report in laws(x, names)}
    except Exception:  # that of one law speaks for none of the others
        found = {}

    def again(law: str) -> Report:
        report = found.get(law)
        if report is not None and report.verdict != "unjudgeable":
            return report
        try:
            return shrunk(law, lambda p: laws(p, [law]), X, x, reach=(reach or {}).get(law, 1.0))[0]
        except DomainError as error:
            return not_applicable(law, statement, f"refused: {one_line(error)}")

    return [again(law) for law in names]


# ------------------------------------------------------------------------------------------------------------------------- powers
def _refused_inverse(core: LinearOperator, z: Tensor) -> str:
    """Why the core has no inverse; nothing where it has one."""
    try:
        inverse(core)(z)
    except InducedError as error:
        return f"f has no inverse: {one_line(error)}"
    return ""


def _visited(word: Word) -> list[int]:
    """The exponents of the points on the way."""
    return list(accumulate(1 if step == "f" else int(step) for step in word))


def _exponents(law: str) -> list[int]:
    return [k for word in (POWERS | INVERSES)[law] for k in _visited(word)]


def _powers(f: LinearizerOperator, x: Tensor, laws: Sequence[str]) -> list[Report]:
    """Laws of powers at samples; raises DomainError where the chart does not hold what they visit."""
    X, words = f.domain, POWERS | INVERSES
    ways = {law: _exponents(law) for law in laws}
    exponents = sorted({k for way in ways.values() for k in way})
    back = max(-exponents[0], int(any(law in INVERSES for law in laws)))
    orbit = Orbit(X, f.core, x, max(1, exponents[-1]), back)
    known = orbit.known(exponents)
    power = cache(f.__pow__)

    @cache
    def image(word: Word) -> Tensor:
        if not word:
            return x.clone()
        given = image(word[:-1]).clone()
        return f(given) if word[-1] == "f" else power(int(word[-1]))(given)

    @cache
    def coords(word: Word) -> Tensor:
        return X.coords(image(word).clone())

    def judge(law: str, statement: str) -> Report:
        (left, right), way = words[law], ways[law]
        end = _visited(left)[-1]
        growth = max(orbit.growth(k) for k in {end, *(end - k for k in way)})
        if growth * X.dim > torch.finfo(x.dtype).max:
            return not_applicable(law, statement, f"f^{end} overflows {x.dtype}")
        rounded, terms = (orbit.inverses(-end), 0.0) if law in INVERSES else orbit.products(end)
        size, note = orbit.beside(end, rounded, terms)
        carried = [orbit.growth(end - k) * known[k] for k in set(way) - {end}]
        error = sum(carried, known[end] + Noise(rounded)) + growth * underflow(orbit.z)
        report = compare(law, statement, coords(left) - coords(right), size, error, x, note=note)
        if report.verdict == "unjudgeable" and (off := explained(x, rounded)) > JUDGEABLE * size:
            return not_applicable(law, statement, f"f is so ill-conditioned that f^{end or -1} is known to {off / size:.1g} only")
        return report

    return [attempt(law, "eq. 4", judge) for law in laws]


# -------------------------------------------------------------------------------------------------------------------------- flows
def _flows(f: LinearizerOperator, flow: Flow, x: Tensor, scale: float, near: Flows, laws: Sequence[str]) -> list[Report]:
    """Laws of the group near the samples; raises DomainError where the chart does not hold what they visit."""
    X, eps = f.domain, torch.finfo(x.dtype).eps
    size, sums = longest(X.coords(x.clone())), summed(X)

    @cache
    def image(times: tuple[float, ...]) -> Tensor:
        return flow(times[-1])(image(times[:-1]).clone()) if times else x.clone()

    @cache
    def known() -> dict[tuple[float, ...], Noise]:
        """What the chart may do at the points that the laws compare or start from: one sweep for all."""
        visited = dict.fromkeys(times for left, right in near.values() for times in (left[:1], right))
        return dict(zip(visited, noises(X, *map(image, visited)), strict=True))

    def judge(law: str, statement: str) -> Report:
        left, right = near[law]
        way = max(sum(map(abs, left)), sum(map(abs, right)))
        error = math.exp(min(scale * way, 700.0)) * (known()[left[:1]] + known()[right] + sums * size)
        return compare(law, statement, X.coords(image(left)) - X.coords(image(right)), size, error, x)

    def derivative(law: str, statement: str) -> Report:
        if any(getattr(part, "lattice_step", 0.0) for part in X.modules()):
            return not_applicable(law, statement, "points of a lattice have no derivative")
        h = eps**0.2 / scale
        steps = [X.coords(flow(k * h)(x.clone())) for k in (-2, -1, 1, 2)]
        fx = f(x.clone())
        off = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h) - X.coords(fx)
        truncation = scale * size * (1 + (scale * h) ** 4 / eps)
        error = (known()[()] + sums * size) / h + noises(X, fx)[0] + truncation
        return compare(law, statement, off, scale * size, error, x)

    return [_unless_refused(law, judge if law in near else derivative) for law in laws]


def _unless_refused(law: str, judge: Callable[[str, str], Report]) -> Report:
    """The report of a law; whatever it raises is one, but for a chart's refusal, which asks for shorter samples."""
    try:
        return judge(law, "section 7")
    except DomainError:
        raise
    except Exception as error:
        return raised(law, "section 7", error)


def _doubled(X: HilbertSpace, flow: Flow, z: Tensor, scale: float, law: str, statement: str) -> Report:
    """exp(2 t f) = exp(t f) exp(t f) at the largest time at which it can be judged, or is wrong."""
    start, sums = torch.cat([z, directions(z)]), summed(X)
    tried, visited = [], []
    for time in TIMES:
        t = time / scale
        try:
            half, whole = flow(t), flow(2 * t)
            middle = half.core(start)
            once, twice = ratio(middle, start), ratio(half.core(middle), start)
            x = X.point(z / max(1.0, once, twice))
            mid, right = half(x.clone()).clone(), whole(x.clone()).clone()
            left, expected = X.coords(half(mid.clone())), X.coords(right.clone())
        except DomainError:
            break
        rounded = sums * (1 + 2 * time) * max(once**2, twice) * longest(X.coords(x))
        tried.append((t, x, left, expected, once, Noise(rounded) + max(1.0, once) * underflow(z)))
        visited += [mid, right]
    known = noises(X, *visited) if visited else []

    def tries() -> Iterator[Report]:
        for (t, x, left, expected, once, error), at_mid, at_end in zip(tried, known[::2], known[1::2], strict=True):
            size = max(longest(left), longest(expected))
            report = compare(law, statement, left - expected, size, at_end + once * at_mid + error, x, note=f"at t = {t:.3g}")
            if not report.tolerance <= JUDGEABLE:
                return
            yield report

    return farthest(tries(), not_applicable(law, statement, "the flow grows beyond what can be judged"))


# -------------------------------------------------------------------------------------------------------------------- idempotents
def _idempotent(f: LinearizerOperator, x: Tensor) -> Report:
    X = f.domain
    orbit = Orbit(X, f.core, x, 2)
    known = orbit.known([1])[1]
    once = f(x.clone()).clone()
    off = X.coords(f(once.clone())) - X.coords(once.clone())
    # the law speaks of the core itself: what computed a projection knows it in norm
    (rounded, terms), (first, _) = orbit.products(2, by_entries=False), orbit.products(1, by_entries=False)
    size, note = orbit.beside(1, rounded, terms)
    error = (1 + orbit.growth(1)) * known + math.hypot(rounded, first) + underflow(orbit.z)
    return compare("f(f(x)) = f(x)", "Lemma 4.2", off, size, error, x, note=note)
