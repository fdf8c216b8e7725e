"""All laws that apply to an object, in one run."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from induced._module import reference
from induced._validate import require_like
from induced.bijections import Bijection
from induced.checks.charts import check_bijection
from induced.checks.endomorphisms import check_group, check_idempotent, check_powers
from induced.checks.maps import check_adjoint, check_linear, sums
from induced.checks.measure import (
    FACTOR,
    WIDE,
    attempt,
    exactly,
    lattice_radius,
    longest,
    not_applicable,
    raised,
    require_samples,
    unit_normal,
)
from induced.checks.penrose import check_penrose
from induced.checks.report import Report, Reports
from induced.checks.singular import check_svd
from induced.checks.spaces import Coordinates, check_axioms, check_operations, check_space
from induced.checks.untouched import different_bits, untouched
from induced.errors import DomainError, DtypeError
from induced.linearizer import Linearizer, LinearizerOperator
from induced.operators import LinearOperator, Projection
from induced.precision import full_precision
from induced.spaces import EuclideanSpace, HilbertSpace, InducedSpace, ProductSpace
from induced.subspaces import Subspace

Checkable = Bijection | HilbertSpace | LinearizerOperator | LinearOperator

SAMPLES, TRIPLETS = 8, 16
"""As many samples are drawn of each space, and as many singular triplets of a map looked at."""
FEWEST = 2
"""As many, of either, where a space is wide; two tell whether a sample is its own."""
RADIUS = 2.0
"""The largest norm of coordinates that are drawn, where no lattice rounds them."""


class Samples(NamedTuple):
    """Points (k, *shape) of a space and their coordinates (k, dim)."""

    points: Tensor
    coordinates: Tensor


class Part(NamedTuple):
    """One part of an object: what it answers at samples, and the laws that it is put under.

    Samples are drawn when a law asks for them, so that a space that cannot give any is a report among the others.

    Attributes:
        answers: functions of the object by name; they are asked before the first law and after the last one.
        laws: what gives reports, by name.
    """

    name: str
    answers: Mapping[str, Callable[["Draw"], Tensor]]
    laws: Mapping[str, Callable[["Draw"], Iterable[Report]]]


class Draw:
    """Samples of spaces, the same ones whenever asked: given, or drawn in coordinates of norm at most `radius`."""

    def __init__(self, number: int, seed: int, radius: float | None, like: Tensor) -> None:
        self.number, self.seed, self.radius, self.like = number, seed, radius, like
        self.known: dict[tuple[HilbertSpace, bool], Samples] = {}
        self.points: dict[HilbertSpace, Tensor] = {}

    def give(self, X: HilbertSpace, points: Tensor) -> None:
        """Take these points (k, *shape) as the samples of X."""
        self.points[X] = points

    def __call__(self, X: HilbertSpace, other: bool = False) -> Samples:
        """Samples of a space, or as many `other` ones."""
        if (X, other) in self.known:
            return self.known[X, other]
        if X in self.points and not other:
            x = self.points[X]
            found = Samples(x, X.coords(x.clone()).clone())
        else:
            generator = torch.Generator().manual_seed(self.seed + other)
            z = torch.randn(self.number, X.dim, generator=generator, dtype=torch.float64)
            radius = self.radius or lattice_radius(X) or RADIUS
            lengths = radius * torch.linspace(1, 0.1, self.number, dtype=torch.float64)[:, None]
            z = (z / z.norm(dim=-1, keepdim=True) * lengths).to(self.like)
            found = Samples(X.point(z.clone()).clone(), z)
        return self.known.setdefault((X, other), found)


class Kind(NamedTuple):
    """What `check` knows of a kind of thing: where its samples live, the tensor that names its dtype, and its parts."""

    domain: Callable[[Any], HilbertSpace]
    reference: Callable[[Any], Tensor | None]
    parts: Callable[[Any], list[Part]]


@full_precision()
def check(
    thing: Checkable,
    points: Tensor | None = None,
    *,
    samples: int | None = None,
    seed: int = 0,
    radius: float | None = None,
    dtype: torch.dtype | None = None,
) -> Reports:
    """Every law that applies to a chart, a space, a map or an operator: print the result, or `require` it.

    A chart is checked with the space that it makes, a map with its spaces and their charts, a `LinearOperator` as a map of
    Euclidean spaces. Each report names its `part`. A check that raises is one report that is not ok, and the others go on. What
    each part answers first is asked again after the last law: it is the same, bit for bit. The object is given back bit for bit
    as it was.

    Arguments:
        thing: a `Bijection`, `HilbertSpace`, `LinearizerOperator` or `LinearOperator`, on its device.
        points: samples (*batch, *shape) of it, of the domain of a map, or vectors (*batch, n). By default they are drawn in
            coordinates, as those of all other spaces are.
        samples: how many are drawn of each space, at least 1; 8 by default, 2 above 65,536 coordinates.
        seed: seed of the draw.
        radius: largest norm of the coordinates that are drawn: 2 by default; on a lattice, whose roundings are large, that of
            4,096 steps in each coordinate. Laws form sums of three points.
        dtype: look at a copy in this dtype. By default the object itself is looked at, in the dtype of its parameters; in that of
            the points where it has none, and in float64 without points.

    Returns:
        The reports, part by part.

    Raises:
        DtypeError: another kind of thing came, or points of another dtype than the object.
        ShapeError: the points have another shape, or there are none.
        DomainError: samples are not a whole number above 0, the seed is none, or the radius is not a finite number above 0.

    Example:
        >>> from induced import check, require
        >>> from induced.bijections import Log
        >>> reports = check(Log((2,)))
        >>> require(reports)
        >>> sorted({report.part for report in reports})
        ['chart Log', 'space InducedSpace(Log(2,))']

    Law:
        a chart that drifts is rejected (counterexamples/test_check_rejects.py); the object is as before
        (counterexamples/test_side_effects.py)
    """
    kind = _kind(thing)
    if samples is None:
        domain = kind.domain(thing)
        samples = FEWEST if _wide(domain, getattr(thing, "codomain", domain)) else SAMPLES
    if not isinstance(samples, int | np.integer) or samples < 1:
        raise DomainError(f"check draws a whole number of samples, at least 1; got samples={samples!r}")
    if not isinstance(seed, int | np.integer):
        raise DomainError(f"the seed of the samples is a whole number, got {seed!r}")
    samples, seed = int(samples), int(seed)
    if radius is not None and not 0 < radius < math.inf:
        raise DomainError(f"the radius of the samples is a finite number above 0, got {radius}")
    if dtype is not None:
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise DtypeError(f"check works in a floating point dtype, as torch.float64; got {dtype!r}")
        thing = deepcopy(thing).to(dtype=dtype)
        points = points.to(dtype) if isinstance(points, Tensor) else points
    domain, like = kind.domain(thing), kind.reference(thing)
    if points is not None:
        points = require_samples(points, domain.shape)
        require_like(points, like, "the points of a check")
    if like is None:
        tensors = (t for t in chain(thing.parameters(), thing.buffers()) if t.is_floating_point())
        like = next(tensors, torch.empty((), dtype=dtype or torch.float64)) if points is None else points
    draw = Draw(samples if points is None else len(points), seed, radius, like.detach())
    with untouched(thing), torch.no_grad():
        if points is not None:
            draw.give(domain, points)
        return Reports(_run(parts(thing), draw))


def parts(thing: Checkable) -> list[Part]:
    """What `check` looks at, part by part; no two of one name."""
    found: dict[str, Part] = {}
    for part in _kind(thing).parts(thing):
        same = sum(name.startswith(part.name) for name in found)
        name = f"{part.name}, {same + 1}" if same else part.name
        found[name] = part._replace(name=name)
    return list(found.values())


def _run(found: list[Part], draw: Draw) -> Iterator[Report]:
    first = {(part.name, name): _asked(answer, draw) for part in found for name, answer in part.answers.items()}
    reports = {part.name: list(chain.from_iterable(_reports(*law, draw) for law in part.laws.items())) for part in found}
    for part in found:
        again = [_drift(name, answer, first[part.name, name], draw) for name, answer in part.answers.items()]
        yield from (replace(report, part=part.name) for report in [*reports[part.name], *again])


def _reports(name: str, laws: Callable[[Draw], Iterable[Report]], draw: Draw) -> Iterable[Report]:
    try:
        return laws(draw)
    except Exception as error:
        return [raised(name, "contract", error)]


def _asked(answer: Callable[[Draw], Tensor], draw: Draw) -> Tensor | None:
    try:
        return answer(draw).detach().clone()
    except Exception:
        return None


def _drift(name: str, answer: Callable[[Draw], Tensor], first: Tensor | None, draw: Draw) -> Report:
    def judge(law: str, statement: str) -> Report:
        try:
            again = answer(draw)
        except Exception as error:
            if first is not None:
                raise
            return not_applicable(law, statement, f"{name} raised before the first law, too: {type(error).__name__}")
        if first is None:
            return exactly(law, statement, 1, note=f"{name} raised before the first law, and has an answer after the last one")
        if first.shape != again.shape or first.dtype != again.dtype:
            note = f"{again.dtype} {tuple(again.shape)} after the last law, {first.dtype} {tuple(first.shape)} before the first"
            return exactly(law, statement, 1, note=note)
        return exactly(law, statement, different_bits(again, first))

    return attempt(f"{name} gives the same bits after all laws as before", "contract", judge)


def _of_chart(g: Bijection) -> list[Part]:
    return _of_space(InducedSpace(g))


def _of_space(X: HilbertSpace) -> list[Part]:
    leaves = dict.fromkeys(_leaves(X))
    own = [leaf for leaf in leaves if leaf != X and not isinstance(leaf, InducedSpace)]
    return [*map(_chart, leaves), *map(_space, [*own, X])]


def _leaves(X: HilbertSpace) -> list[HilbertSpace]:
    """The spaces within one whose coordinates are a chart: those that a chart makes, and those of a class of the user's."""
    match X:
        case EuclideanSpace():
            return []
        case ProductSpace():
            return [inner for factor in X.factors for inner in _leaves(factor)]  # type: ignore[arg-type]
        case Subspace():
            return _leaves(X.space)
    return [X]


def _space(X: HilbertSpace) -> Part:
    answers = {
        "coords": lambda draw: X.coords(draw(X).points.clone()),
        "point": lambda draw: X.point(draw(X).coordinates.clone()),
    }
    laws = check_space
    if X in _leaves(X):  # its coordinates have their own part
        answers, laws = {}, check_axioms if isinstance(X, InducedSpace) else check_operations
    return Part(f"space {_named(X)}", answers, {"check_space": lambda draw: laws(X, draw(X).points)})


def _named(X: HilbertSpace) -> str:
    """The space on one line: torch prints the modules within on lines of their own."""
    printed = repr(X)
    return printed if "\n" not in printed else type(X).__name__


def _chart(X: HilbertSpace) -> Part:
    g = X.chart if isinstance(X, InducedSpace) else Coordinates(X)
    answers = {
        "g": lambda draw: g(draw(X).points.clone()),
        "g^-1": lambda draw: g.inverse(draw(X).coordinates.reshape((-1, *g.coord_shape)).clone()),
    }
    name = f"chart {type(g).__name__}" if isinstance(X, InducedSpace) else f"coordinates of {_named(X)}"
    return Part(name, answers, {"check_bijection": lambda draw: check_bijection(g, draw(X).points)})


def _of_core(A: LinearOperator) -> list[Part]:
    return [_map(Linearizer(A, EuclideanSpace(A.shape[1]), EuclideanSpace(A.shape[0])), f"operator {type(A).__name__}")]


def _of_map(f: LinearizerOperator) -> list[Part]:
    sides = {"domain": f.domain} if f.domain == f.codomain else {"domain": f.domain, "codomain": f.codomain}
    found = [part._replace(name=f"{side}: {part.name}") for side, X in sides.items() for part in _of_space(X)]
    return [*found, _map(f, f"map {type(f).__name__}")]


def _map(f: LinearizerOperator, name: str) -> Part:
    X, Y = f.domain, f.codomain

    def sides(draw: Draw) -> tuple[Tensor, Tensor]:
        return draw(X).points, draw(Y, other=True).points

    laws: dict[str, Callable[[Draw], Iterable[Report]]] = {
        "check_linear": lambda draw: check_linear(f, draw(X).points),
        "check_adjoint": lambda draw: check_adjoint(f, *sides(draw)),
        "check_penrose": lambda draw: check_penrose(f, *sides(draw)),
        "check_svd": lambda draw: check_svd(f, min(X.dim, Y.dim, FEWEST if _wide(X, Y) else TRIPLETS)),
    }
    if X == Y:
        laws["check_powers"] = lambda draw: check_powers(f, draw(X).points)
        laws["check_group"] = lambda draw: check_group(f, draw(X).points)
        laws["check_idempotent"] = lambda draw: _idempotent(f, draw(X).points)
    else:
        laws["check_powers"] = lambda draw: [
            not_applicable(law, statement, "f maps one space to another")
            for law, statement in (("powers of f", "eq. 4"), ("exp(t f)", "section 7"), ("f(f(x)) = f(x)", "Lemma 4.2"))
        ]
    answers = {"f": lambda draw: f(draw(X).points.clone()), "f*": lambda draw: f.H(draw(Y, other=True).points.clone())}
    return Part(name, answers, laws)


def _wide(*spaces: HilbertSpace) -> bool:
    return max(X.dim for X in spaces) > WIDE


def _idempotent(f: LinearizerOperator, points: Tensor) -> list[Report]:
    """f f = f where the core is a projection: by its class, or A A z = A z up to rounding at random coordinates."""
    A = f.core
    once = A(unit_normal(points, 4, f.domain.dim))
    rounding = FACTOR * torch.finfo(once.dtype).eps * sums(f) * longest(once) * max(1.0, longest(once))
    if isinstance(A, Projection) or longest(A(once) - once) <= rounding:
        return check_idempotent(f, points)
    return [not_applicable("f(f(x)) = f(x)", "Lemma 4.2", "the core is not a projection")]


def _map_reference(f: LinearizerOperator) -> Tensor | None:
    return next((like for part in (f.domain, f.codomain, f.core) if (like := reference(part)) is not None), None)


KINDS: dict[type, Kind] = {
    Bijection: Kind(InducedSpace, reference, _of_chart),
    HilbertSpace: Kind(lambda X: X, reference, _of_space),
    LinearizerOperator: Kind(lambda f: f.domain, _map_reference, _of_map),
    LinearOperator: Kind(lambda A: EuclideanSpace(A.shape[1]), reference, _of_core),
}
"""Whatever `check` takes. Each kind of thing has one entry."""

TAKEN = " or ".join([", ".join(f"a {cls.__name__}" for cls in [*KINDS][:-1]), f"a {[*KINDS][-1].__name__}"])


def _kind(thing: object) -> Kind:
    for cls, kind in KINDS.items():
        if isinstance(thing, cls):
            return kind
    if isinstance(thing, type):
        raise DtypeError(f"check takes {TAKEN}; got the class {thing.__name__}: make an object of it")
    made = "from_callables makes a chart of two functions, Dense an operator of a matrix"
    raise DtypeError(f"check takes {TAKEN}; got {type(thing).__name__}; {made}")
