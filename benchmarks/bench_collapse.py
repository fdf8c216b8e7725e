"""T integrator steps collapsed into one operator: in one basis, factored, by dense products; one step against T steps.

Every form is a plain call of `propagator`, which chooses by rank and size: for the same family with and without a basis to tell
of, for one that holds its directions for all times, and for factors that are new at every time. The oracle is the integrator in
float64, with no collapse in it. Peak memory is that of a fresh process, above the model's.
"""

import copy
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import forget_peak, judge, measure, pick, resident, size
from induced.operators import Dense, LinearOperator, LowRank, ScaledIdentityPlusLowRank
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, adaptive_grid, integrate, propagator

RANK, STEPS, BATCH, PROBES = 8, pick(100, 20), 64, 64
SMALL, LARGE = pick((1024, 12288), (64, 128))
EPS = torch.finfo(torch.float32).eps


def shaken(dim: int, rank: int) -> LowRankFamily:
    """A family as far from its start as training takes it, so that the ranks of A_t add up."""
    family = LowRankFamily(dim, rank, rest_std=0.03)
    with torch.no_grad():
        family.factors.add_(torch.randn(family.factors.shape) * (1.0 / (dim * 8) ** 0.5))
    return family


def shared(dim: int, rank: int) -> SharedBasisFamily:
    """The like of `shaken` whose directions are the same at all times."""
    family = SharedBasisFamily(dim, rank, rest_std=0.03)
    with torch.no_grad():
        family.directions.add_(torch.randn(family.directions.shape) / dim**0.5)
        family.factors.add_(torch.randn(family.factors.shape) / (8 * max(rank, 1)) ** 0.5)
    return family


class Secretive(OperatorFamily):
    """A family that gives its operators alone, and no basis."""

    family: OperatorFamily

    def __init__(self, family: OperatorFamily) -> None:
        super().__init__(family.dim)
        self.family = family

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.family.at(t)


class Independent(OperatorFamily):
    """Factors that are new at every t, so that the rank of a product only grows."""

    like: Tensor

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim)
        self.rank = rank
        self.register_buffer("like", torch.zeros(()))

    def at(self, t: float | Tensor) -> LinearOperator:
        generator = torch.Generator().manual_seed(round(float(t) * 1e6))
        U, V = torch.randn(2, self.dim, self.rank, generator=generator).to(self.like) / self.dim**0.5
        return LowRank(U, V)


class Full(OperatorFamily):
    """A dense A_t = M_0 + t M_1."""

    M: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("M", torch.randn(2, dim, dim) / dim**0.5)

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.M[0] + float(t) * self.M[1])


FORMS = {
    "one basis": shaken,
    "factors alone": lambda dim, rank: Secretive(shaken(dim, rank)),
    "SharedBasisFamily": shared,
    "new at every t": Independent,
}


def dense_steps(family: OperatorFamily, counted: int, total: int, method: str) -> Tensor:
    """S_counted-1 ... S_0 with plain matrix products: what a user would write with torch alone."""
    h, eye = 1 / total, torch.eye(family.dim)

    def A(t: float) -> Tensor:
        at = family.at(t)
        assert isinstance(at, LowRank | ScaledIdentityPlusLowRank)
        c, U, V = at.parts()
        return c * eye + U @ V.mT

    B = eye
    for k in range(counted):
        t = k * h
        if method == "euler":
            S = eye + h * A(t)
        else:
            K1, middle = A(t), A(t + h / 2)
            K2 = middle @ (eye + h / 2 * K1)
            K3 = middle @ (eye + h / 2 * K2)
            K4 = A(t + h) @ (eye + h * K3)
            S = eye + h / 6 * (K1 + 2 * K2 + 2 * K3 + K4)
        B = S @ B
    return B


def probes(dim: int) -> Tensor:
    """Orthonormal states in float64, fewer than n, on which a relative error estimates that of the operator."""
    Q: Tensor = torch.linalg.qr(torch.randn(dim, min(dim, PROBES)))[0]
    return Q.mT.double()


def exact(family: OperatorFamily, z: Tensor, steps: int, method: str) -> Tensor:
    """B z by the same formula in float64: the integrator itself, with no collapse in it."""
    return integrate(copy.deepcopy(family).double(), z, steps=steps, method=method)


@lru_cache(8)
def family_of(name: str, dim: int) -> OperatorFamily:
    """The same one for each of its rows."""
    torch.manual_seed(0)
    return FORMS[name](dim, RANK)


def judged(benchmark: Any, found: Tensor, family: OperatorFamily, z: Tensor, steps: int, method: str = "rk4") -> None:
    """Ten roundings a step, by how much the steps shrink a state on the way, since rounding does not shrink with it."""
    expected = exact(family, z.double(), steps, method)
    shrunk = max(1.0, float(z.norm() / expected.norm()))
    judge(benchmark, found, expected, 10 * EPS * steps * shrunk)


COLLAPSED = [
    (name, dim, steps, method)
    for name, dim, steps, method in (
        *((name, SMALL, STEPS, method) for method in ("euler", "rk4", "magnus4") for name in list(FORMS)[:3]),
        *(("new at every t", SMALL, steps, "rk4") for steps in pick((10, 30, 100), (5,))),
        *((name, LARGE, STEPS, "rk4") for name in list(FORMS)[:3]),
    )
]


UNMEASURED = pick((), [(name, dim) for name in FORMS for dim in (SMALL, LARGE)][1:])
"""Whose peak is left out of a quick run, since each takes a process."""


def facts_of(name: str, dim: int, steps: int, method: str) -> dict[str, Any]:
    return {"table": f"collapse of rank {RANK}", "row": f"{steps} {method} steps, n = {dim}, {name}"}


@torch.no_grad()
@pytest.mark.parametrize(("name", "dim", "steps", "method"), COLLAPSED)
def bench_collapse(benchmark: Any, name: str, dim: int, steps: int, method: str) -> None:
    family, z = family_of(name, dim), probes(dim)
    B = measure(
        benchmark,
        lambda: propagator(family, steps=steps, method=method),
        form="induced",
        bytes=peak(name, dim, steps) if method == "rk4" and (name, dim) not in UNMEASURED else None,
        **facts_of(name, dim, steps, method),
    )
    benchmark.extra_info["note"] = "dense" if isinstance(B, Dense) else f"rank {B.U.shape[-1]}"
    judged(benchmark, B(z.float()), family, z, steps, method)


@torch.no_grad()
@pytest.mark.parametrize(("name", "dim", "steps", "method"), [cell for cell in COLLAPSED if cell[-1] != "magnus4"])
def bench_dense_products(benchmark: Any, name: str, dim: int, steps: int, method: str) -> None:
    """What a user would write with torch alone: of some of the steps, or at large n of a part of one product."""
    family = family_of(name, dim)
    facts = facts_of(name, dim, steps, method) | {"form": "torch, dense products"}

    def own() -> LinearOperator:
        return propagator(family, steps=steps, method=method)

    if dim > 4096:
        left, right = torch.randn(dim, dim), torch.randn(dim, dim // 16)
        note = "timed on a sixteenth of one product"
        measure(benchmark, lambda: left @ right, own, once=True, scale=16 * 4 * steps, note=note, **facts)
        return
    counted = min(steps, 10)
    M = measure(
        benchmark,
        lambda: dense_steps(family, counted, steps, method),
        own,
        once=True,
        scale=steps / counted,
        note=f"timed on {counted} steps" if counted < steps else "",
        **facts,
    )
    if counted == steps:
        z = probes(dim)
        judged(benchmark, z.float() @ M.mT, family, z, steps, method)


def peak(name: str, dim: int, steps: int) -> float:
    """Bytes above the model that a fresh process holds at most while it collapses the steps."""
    program = f"import bench_collapse as b; b.print_peak({name!r}, {dim}, {steps})"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=here)
    return float(done.stdout)


@torch.no_grad()
def print_peak(name: str, dim: int, steps: int) -> None:
    """What the fresh process does."""
    family = FORMS[name](dim, RANK)
    propagator(shaken(64, 2), steps=2)  # which loads what the first call loads
    before = forget_peak()
    propagator(family, steps=steps)
    print((resident() - before) * 1024)


APPLIED = ["induced", "torch, dense matrix", "step by step"]


@torch.no_grad()
@pytest.mark.parametrize("form", APPLIED)
@pytest.mark.parametrize("dim", (SMALL, LARGE))
def bench_one_step(benchmark: Any, dim: int, form: str) -> None:
    """One step, factored and dense, against T steps on a batch of states."""
    family, z = family_of("one basis", dim), torch.randn(BATCH, dim)
    B = propagator(family, steps=STEPS)
    matrix = B.matrix(dim) if form == APPLIED[1] else torch.empty(0)
    forms = dict(zip(APPLIED, (lambda: B(z), lambda: z @ matrix.mT, lambda: integrate(family, z, steps=STEPS)), strict=True))
    held = dict(zip(APPLIED, (size(*B.state_dict().values()), size(matrix), None), strict=True))[form]
    facts: dict[str, Any] = {"table": f"{STEPS} rk4 steps of {BATCH} states", "row": f"n = {dim}", "form": form, "bytes": held}
    found = measure(benchmark, forms[form], None if form == "induced" else forms["induced"], **facts)
    judged(benchmark, found, family, z, STEPS)


STATES = [
    (kind, count, form)
    for kind in ("one basis", "new at every t", "dense")
    for count in (1, SMALL // 16, SMALL // 4, SMALL)
    for form in ("induced", "step by step")
]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "count", "form"), STATES)
def bench_states(benchmark: Any, kind: str, count: int, form: str) -> None:
    """The rule of `propagator(states=k)`: the form it chooses, made and applied to k states, against stepping them."""
    family = Full(SMALL) if kind == "dense" else family_of(kind, SMALL)
    steps, z = (max(1, STEPS // 10) if kind == "dense" else STEPS), torch.randn(count, SMALL)

    def own() -> Tensor:
        return propagator(family, steps=steps, states=count)(z)

    chosen = own if form == "induced" else lambda: integrate(family, z, steps=steps)
    facts: dict[str, Any] = {
        "table": f"collapse and apply, n = {SMALL}",
        "row": f"{steps} rk4 steps, {kind}, {count} states",
        "form": form,
    }
    found = measure(benchmark, chosen, None if form == "induced" else own, **facts)
    judged(benchmark, found, family, z, steps)


ADAPTIVE = [("magnus4", 1e-8), ("rk4", 1e-8), ("magnus4", 1e-4), ("rk4", 1e-4), ("midpoint", 1e-4)]


@lru_cache(1)
@torch.no_grad()
def reference() -> tuple[OperatorFamily, Tensor]:
    """A family in float64, and its operator by the other method of fourth order with far more steps than any row takes."""
    family = copy.deepcopy(family_of("one basis", SMALL)).double()
    return family, propagator(family, steps=pick(3000, 1000), method="rk4").matrix()


@torch.no_grad()
@pytest.mark.parametrize(("method", "tolerance"), ADAPTIVE)
def bench_adaptive(benchmark: Any, method: str, tolerance: float) -> None:
    """Steps that each method needs for a tolerance, found and collapsed, in float64; ten times the tolerance is allowed."""
    family, expected = reference()
    grid = adaptive_grid(family, tolerance=tolerance, method=method)

    def form(method: str = method) -> LinearOperator:
        return propagator(family, steps=adaptive_grid(family, tolerance=tolerance, method=method).times, method=method)

    facts: dict[str, Any] = {
        "table": f"steps by a tolerance, n = {SMALL}, float64",
        "row": f"error {tolerance:g}",
        "form": f"induced, {method}",
    }
    note = f"{len(grid.times) - 1} steps"
    B = measure(benchmark, form, None if method == "magnus4" else lambda: form("magnus4"), note=note, peer=False, **facts)
    judge(benchmark, B.matrix(), expected, 10 * tolerance)
