"""`induced check module:object`: every law on a chart, space, operator or map of your own, at samples drawn in coordinates."""

import importlib
import math
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, LinearizerOperator, LinearOperator, Report
from induced.bijections import Bijection
from induced.checks import (
    check_adjoint,
    check_bijection,
    check_group,
    check_idempotent,
    check_linear,
    check_penrose,
    check_powers,
    check_space,
    check_svd,
)
from induced.errors import DomainError, InducedError, LawViolation
from induced.operators import Projection

Checkable = Bijection | HilbertSpace | LinearizerOperator | LinearOperator
KINDS = "Bijection, HilbertSpace, LinearizerOperator or LinearOperator"
TRIPLETS = 16


def load_object(name: str) -> Checkable:
    """The object that `module:object` names; the current directory is where modules are looked for first.

    Args:
        name: A module and, after the colon, an object in it or a class or function that makes one without arguments.

    Returns:
        The object.

    Raises:
        InducedError: the name is no `module:object`, the module or object is not there or fails, or it is of another kind.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise InducedError(f"what to check is named module:object, e.g. mycharts:MyChart; got {name!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise InducedError(f"cannot import {module}: {_line(error)}") from error
    try:
        thing = reduce(getattr, path.split("."), found)
    except AttributeError as error:
        raise InducedError(f"{module} ({found.__file__}) has no {path}") from error
    if not isinstance(thing, Checkable) and callable(thing):
        try:
            thing = thing()
        except Exception as error:
            raise InducedError(f"{name} cannot be called without arguments: {_line(error)}") from error
    if not isinstance(thing, Checkable):
        raise InducedError(f"{name} is neither a {KINDS} nor makes one: got {type(thing).__name__}")
    return thing


def check_object(thing: Checkable, *, samples: int = 8, seed: int = 0, radius: float = 2.0) -> dict[str, list[Report]]:
    """Every law that applies, on copies of the object in float32 and float64 on the CPU.

    A check that raises, on the object or on samples of it, gives one report that says so and is not ok.

    Args:
        thing: The object. Of a map the charts of its spaces are checked too; up to 16 singular triplets.
        samples: Points of each space.
        seed: Seed of the samples.
        radius: Largest norm of their coordinates; sums of three are formed.

    Returns:
        Reports by dtype and part.

    Raises:
        DomainError: there are no samples, or the radius is not a finite number above 0.
    """
    if samples < 1:
        raise DomainError(f"--samples is at least 1, got {samples}")
    if not 0 < radius < math.inf:
        raise DomainError(f"--radius is a finite number above 0, got {radius}")
    results: dict[str, list[Report]] = {}
    for dtype in (torch.float32, torch.float64):

        def sample(X: HilbertSpace, shift: int = 0, dtype: torch.dtype = dtype) -> Tensor:
            generator = torch.Generator().manual_seed(seed + shift)
            z = torch.randn(samples, X.dim, generator=generator, dtype=torch.float64)
            lengths = radius * torch.linspace(1, 0.1, samples, dtype=torch.float64)[:, None]
            with torch.no_grad():
                return X.point((z / z.norm(dim=-1, keepdim=True) * lengths).to(dtype))

        for part, checks in _parts(deepcopy(thing).to(device="cpu", dtype=dtype), sample).items():
            results[f"{str(dtype).removeprefix('torch.')}: {part}"] = [r for check in checks for r in _reports(*check)]
    return results


def table(reports: list[Report]) -> str:
    """The reports as text: law, statement, worst residual, tolerance, whether the law holds, worst sample.

    Args:
        reports: What checks gave.

    Returns:
        A line a report below a line of headings; "?" is a law that is too ill-conditioned to judge.
    """
    width = max(len(report.law) for report in reports)
    lines = [f"{'law':<{width}}  {'statement':<11} {'residual':>9} {'tolerance':>9}  {'ok':<3}  worst sample"]
    for r in reports:
        numbers = f"{r.residual:9.2e} {r.tolerance:9.2e}"
        verdict = "yes" if r.ok else "?" if r.residual <= r.tolerance else "NO"
        lines.append(f"{r.law:<{width}}  {r.statement:<11} {numbers}  {verdict:<3}  {_short(r.worst)}".rstrip())
    return "\n".join(lines)


def require_laws(name: str, reports: list[Report]) -> None:
    """End in an error of one line where a law does not hold.

    Args:
        name: What was checked.
        reports: What the checks gave.

    Raises:
        LawViolation: a report is not ok.
    """
    failed = [report for report in reports if not report.ok]
    if failed:
        unclear = sum(report.residual <= report.tolerance for report in failed)
        judged = f" ({unclear} of them too ill-conditioned to judge)" if unclear else ""
        raise LawViolation(f"{len(failed)} of {len(reports)} laws do not hold for {name}{judged}")


Sample = Callable[..., Tensor]
Check = tuple[Callable[..., list[Report]], Callable[[], tuple[object, ...]]]


def _parts(thing: Checkable, sample: Sample) -> dict[str, list[Check]]:
    """The checks that apply by the part that they look at, and what each is given."""
    match thing:
        case Bijection():
            return {f"chart {_name(thing)}": _of_space(InducedSpace(thing), sample)}
        case HilbertSpace():
            return {f"space {thing!r}": _of_space(thing, sample)}
        case LinearOperator():
            f = Linearizer(thing, EuclideanSpace(thing.shape[1]), EuclideanSpace(thing.shape[0]))
            return {f"operator {_name(thing)}": _of_map(f, sample)}
    spaces = {"domain": thing.domain, "codomain": thing.codomain}
    if thing.domain == thing.codomain:
        del spaces["codomain"]
    parts = {f"{side} {X!r}": _of_space(X, sample) for side, X in spaces.items()}
    return {**parts, f"map {_name(thing)}": _of_map(thing, sample)}


def _of_space(X: HilbertSpace, sample: Sample) -> list[Check]:
    charts: list[Check] = [(check_bijection, lambda: (X.chart, sample(X)))] if isinstance(X, InducedSpace) else []
    return [*charts, (check_space, lambda: (X, sample(X)))]


def _of_map(f: LinearizerOperator, sample: Sample) -> list[Check]:
    X, Y = f.domain, f.codomain
    checks: list[Check] = [
        (check_linear, lambda: (f, sample(X))),
        (check_adjoint, lambda: (f, sample(X), sample(Y, 1))),
        (check_penrose, lambda: (f, sample(X), sample(Y, 1))),
        (check_svd, lambda: (f, min(X.dim, Y.dim, TRIPLETS))),
    ]
    if X == Y:
        checks += [(check_powers, lambda: (f, sample(X))), (check_group, lambda: (f, sample(X)))]
    if X == Y and isinstance(f.core, Projection):
        checks.append((check_idempotent, lambda: (f, sample(X))))
    return checks


def _reports(check: Callable[..., list[Report]], given: Callable[[], tuple[object, ...]]) -> list[Report]:
    try:
        return check(*given())
    except Exception as error:
        return [Report(f"{check.__name__} raised {_line(error)}", "-", math.nan, 0.0)]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _name(thing: torch.nn.Module) -> str:
    return type(thing).__name__


def _short(x: Tensor | None, entries: int = 4) -> str:
    """The first entries of a sample, and its shape where there are more."""
    if x is None:
        return ""
    first = ", ".join(f"{value:.4g}" for value in x.flatten()[:entries].tolist())
    return f"[{first}]" if x.numel() <= entries else f"[{first}, ...] {tuple(x.shape)}"
