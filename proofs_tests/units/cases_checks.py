"""Errors of checks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from induced import EuclideanSpace, Linearizer, Report, check, require
from induced.bijections import Log
from induced.checks import check_adjoint, check_bijection, check_powers, items
from induced.checks.loading import load_object
from induced.checks.measure import shrunk
from induced.errors import DomainError, DtypeError, InducedError, LawViolation, ShapeError, SpaceMismatch
from proofs_tests.units.case import Case

KINDS = "a Bijection, a HilbertSpace, a LinearizerOperator or a LinearOperator"
X = EuclideanSpace(2)
f = Linearizer(torch.eye(2), X)


def refuse(x: torch.Tensor) -> list[Report]:
    raise DomainError("not here")


def asked_for(name: str) -> Any:
    """What pytest knows where --induced has that name."""
    return SimpleNamespace(stash={}, getoption=lambda option: [name])


CASES = [
    Case(DomainError, r"the laws cannot be tried at .*: not here", lambda: shrunk("the laws", refuse, X, torch.ones(2, 2))),
    Case(pytest.UsageError, r"--induced gone:g: cannot import gone", lambda: items.pytest_configure(asked_for("gone:g"))),
    Case(DtypeError, rf"check takes {KINDS}; got Tensor; from_callables makes", lambda: check(torch.ones(2))),  # type: ignore[arg-type]
    Case(DtypeError, rf"check takes {KINDS}; got the class Log: make an object of it", lambda: check(Log)),  # type: ignore[arg-type]
    Case(DomainError, r"check draws a whole number of samples, at least 1; got samples=0", lambda: check(X, samples=0)),
    Case(DomainError, r"a whole number of samples.* got samples=2\.5", lambda: check(X, samples=2.5)),  # type: ignore[arg-type]
    Case(DomainError, r"the seed of the samples is a whole number, got 'a'", lambda: check(X, seed="a")),  # type: ignore[arg-type]
    Case(DomainError, r"the radius of the samples is a finite number above 0, got -1", lambda: check(X, radius=-1.0)),
    Case(DomainError, r"the radius of the samples .* got inf", lambda: check(X, radius=float("inf"))),
    Case(DtypeError, r"a floating point dtype, as torch.float64; got torch.int64", lambda: check(X, dtype=torch.int64)),
    Case(DtypeError, r"a floating point dtype, as torch.float64; got 'float64'", lambda: check(X, dtype="float64")),  # type: ignore[arg-type]
    Case(DtypeError, r"require takes what checks return, as require\(check\(g\)\); got NoneType", lambda: require(None)),  # type: ignore[arg-type]
    Case(DtypeError, r"require takes what checks return, .* got str", lambda: require(["holds"])),  # type: ignore[list-item]
    Case(ShapeError, r"the samples of a law must have shape \(\*batch, 2\), got \(4, 3\)", lambda: check(X, torch.ones(4, 3))),
    Case(ShapeError, r"needs at least one sample, of shape \(k, 2\)", lambda: check(X, torch.ones(0, 2))),
    Case(DtypeError, r"the samples of a law must be a torch.Tensor, got list", lambda: check(X, [1.0, 2.0])),  # type: ignore[arg-type]
    Case(
        ShapeError,
        r"the adjoint is tried at as many samples of the domain as of the codomain, got 3 and 1",
        lambda: check_adjoint(f, torch.ones(3, 2), torch.ones(1, 2)),
    ),
    Case(ShapeError, r"needs at least one sample, of shape \(k, 2\)", lambda: check_bijection(Log((2,)), torch.ones(2))),
    Case(
        DtypeError,
        r"the points of a check: got torch.float64",
        lambda: check(Linearizer(torch.eye(2), X), torch.ones(3, 2).double()),
    ),
    Case(
        SpaceMismatch,
        r"powers, flows and idempotents need one space on both sides, got .*2.* and .*3",
        lambda: check_powers(Linearizer(torch.ones(3, 2), X, EuclideanSpace(3)), torch.ones(1, 2)),
    ),
    Case(InducedError, r"name what to check as module:object, for example mycharts:MyChart; got 'x'", lambda: load_object("x")),
    Case(InducedError, r"cannot import gone: ModuleNotFoundError: No module named 'gone'", lambda: load_object("gone:g")),
    Case(InducedError, r"induced.bijections \(.*\) has no gone", lambda: load_object("induced.bijections:gone")),
    Case(InducedError, r"Log cannot be called without arguments: TypeError", lambda: load_object("induced.bijections:Log")),
    Case(InducedError, rf"should be, or make, {KINDS}; it is of the type float", lambda: load_object("math:pi")),
    Case(LawViolation, r"nothing was checked: there is no report of a law that applies", lambda: require()),
    Case(
        LawViolation,
        r"nothing was checked: .* among 1:\n.*no powers",
        lambda: require(Report("powers", "eq. 4", 0.0, 0.0, note="no powers", applies=False)),
    ),
]
