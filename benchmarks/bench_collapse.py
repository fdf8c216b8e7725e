"""Collapsing T integrator steps into one operator: in one basis, factored, and by dense products; one step against T steps.

Every form is a plain call of `propagator`, which chooses by rank and size: for the same family with and without a basis to tell
of, and for one that holds its directions for all times. Peak memory is that of a fresh process, above the model's.

`--worst` takes factors that are new at every time; `--large` n = 12288, where the dense time is that of
4 products a step, extrapolated from n/16 columns of one;
`--forms` measures the rule by which `propagator` chooses between one by one, factored and dense; `--exponential` times
exp_multiply against scipy; `--adaptive` compares what the methods need for a tolerance.
"""

import argparse
import copy
import subprocess
import sys
import time
from pathlib import Path

import scipy.sparse.linalg
import torch
from common import relative, seconds, shown, size, table
from torch import Tensor

from induced.operators import (
    Dense,
    LinearOperator,
    LowRank,
    LowRankFamily,
    OperatorFamily,
    SharedBasisFamily,
    adaptive_grid,
    exp_multiply,
    integrate,
    propagator,
)

BATCH = 64
PROBES = 64


def shaken(dim: int, rank: int) -> LowRankFamily:
    """A family as far from its start as training takes it, so that the ranks of A_t add up."""
    family = LowRankFamily(dim, rank, floor=0.03)
    with torch.no_grad():
        family.factors += torch.randn(family.factors.shape) * (1.0 / (dim * 8) ** 0.5)
    return family


def shared(dim: int, rank: int) -> SharedBasisFamily:
    """The like of `shaken` whose directions are the same at all times."""
    family = SharedBasisFamily(dim, rank, floor=0.03)
    with torch.no_grad():
        family.directions += torch.randn(family.directions.shape) / dim**0.5
        family.factors += torch.randn(family.factors.shape) / (8 * max(rank, 1)) ** 0.5
    return family


class Secretive(OperatorFamily):
    """A family that gives its operators alone, and no basis."""

    def __init__(self, family: OperatorFamily) -> None:
        super().__init__(family.dim)
        self.family = family

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.family.at(t)


class Independent(OperatorFamily):
    """Factors that are new at every t, so that the rank of a product only grows."""

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

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("M", torch.randn(2, dim, dim) / dim**0.5)

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.M[0] + float(t) * self.M[1])


FORMS = {
    "one basis": shaken,
    "factored": lambda dim, rank: Secretive(shaken(dim, rank)),
    "SharedBasisFamily": shared,
    "new at every t": Independent,
}


def dense_steps(family: OperatorFamily, counted: int, total: int, method: str) -> Tensor:
    """S_counted-1 ... S_0 with plain matrix products: what a user would write with torch alone."""
    h, eye = 1 / total, torch.eye(family.dim)

    def A(t: float) -> Tensor:
        c, U, V = family.at(t).parts()
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


def held(B: LinearOperator) -> int:
    return size(*B.parameters(), *B.buffers())


def peak(name: str, options: argparse.Namespace, steps: int, method: str) -> float:
    """MB above the model that a fresh process holds at most while it collapses the steps."""
    given = ["--measure", name, "--method", method, "--dim", options.dim, "--rank", options.rank, "--steps", steps]
    found = subprocess.run([sys.executable, __file__, *map(str, given)], capture_output=True, text=True, check=True)
    return float(found.stdout)


def measure(options: argparse.Namespace) -> None:
    """Print the peak memory of one form; with the name of no form, that of the dense products."""
    family = FORMS.get(options.measure, shaken)(options.dim, options.rank)
    propagator(shaken(64, 2), steps=2)  # which loads what the first call loads
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports (Linux)
    before = resident()
    if options.measure in FORMS:
        propagator(family, steps=options.steps, method=options.method)
    else:
        dense_steps(family, options.steps, options.steps, options.method)
    print((resident() - before) / 1024)


def resident() -> int:
    """KiB of memory that this process has held at most; ru_maxrss would count those of the process that started it."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Print a table for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--dense-steps", type=int, default=100, help="fewer than --steps: the dense time is extrapolated")
    parser.add_argument("--worst", action="store_true", help="factors that are new at every time: 10, 30 and 100 steps of rk4")
    parser.add_argument("--large", action="store_true", help="n = 12288, the dense time extrapolated from a part of a product")
    parser.add_argument("--forms", action="store_true", help="one by one, factored or dense: T steps of rk4 by number of states")
    parser.add_argument("--exponential", action="store_true", help="exp(A) z by exp_multiply and by scipy, and exp(A) by torch")
    parser.add_argument("--adaptive", action="store_true", help="steps and time of each method for a tolerance")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--method", default="rk4", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        if options.measure:
            return measure(options)
        chosen = [run for run in (worst, large, forms, exponential, adaptive) if getattr(options, run.__name__)]
        for run in chosen or [default]:
            run(options)


def default(options: argparse.Namespace) -> None:
    for method in ("euler", "rk4", "magnus4"):
        dense = None if method == "magnus4" else min(options.dense_steps, options.steps)
        compare(["one basis", "factored", "SharedBasisFamily"], options, options.steps, dense, method)
    apply(options)


def worst(options: argparse.Namespace) -> None:
    for steps in (10, 30, 100):
        compare(["new at every t"], options, steps, steps, "rk4")


def large(options: argparse.Namespace) -> None:
    options.dim = 12288
    compare(["one basis", "factored", "SharedBasisFamily"], options, 100, 1, "rk4", rounds=1)


def compare(names: list[str], options: argparse.Namespace, steps: int, counted: int | None, method: str, rounds: int = 3) -> None:
    """Time and judge the forms of one method, beside the products of `counted` steps with dense matrices."""
    n, z = options.dim, probes(options.dim)
    families = {name: FORMS[name](n, options.rank) for name in names}
    dense, error, note = 0.0, "-", ""
    if counted is not None and n > 4096:
        left, right = torch.randn(n, n), torch.randn(n, n // 16)
        dense, note = seconds({"part": lambda: left @ right}, rounds=1)["part"] * 16 * 4 * steps, " (extrapolated)"
        del left, right
    elif counted is not None:
        start = time.process_time()
        M = dense_steps(families[names[0]], counted, steps, method)  # timed once: it is slow, and its time hardly varies
        dense = (time.process_time() - start) * steps / counted
        if counted == steps:
            error = f"{relative(z.float() @ M.mT, exact(families[names[0]], z, steps, method)):.1e}"
        else:
            note = f" ({counted} of {steps} steps, extrapolated)"
    times = seconds({name: lambda f=f: propagator(f, steps=steps, method=method) for name, f in families.items()}, rounds=rounds)
    rows = []
    for name, family in families.items():
        B = propagator(family, steps=steps, method=method)
        rank = B.parts()[1].shape[-1] if hasattr(B, "parts") else n
        share, faster = held(B) / (4 * n * n), f"{dense / times[name]:.0f} x" if dense else "-"
        found = relative(B(z.float()), exact(family, z, steps, method))
        above = f"{peak(name, options, steps, method):.0f} MB" if method == "rk4" else "-"
        rows.append(
            [name, shown(times[name]), faster, f"{found:.1e}", str(rank), f"{held(B) / 1e6:.2f} MB", f"{share:.1%}", above]
        )
    if counted is not None:
        full = f"{4 * n * n / 1e6:.2f} MB"
        above = f"{peak('dense', options, 2, method):.0f} MB" if method == "rk4" and n <= 4096 else "-"
        rows.append([f"dense products{note}", shown(dense), "1 x", error, str(n), full, "100%", above])
    table(
        f"Collapsing {steps} {method} steps, n = {n}, rank {options.rank}, float32 (error against float64)",
        ["", "CPU", "faster", "error", "rank", "held", "of dense", "peak"],
        rows,
    )


def apply(options: argparse.Namespace) -> None:
    """One step, factored and dense, against T steps on a batch of states."""
    family, z = shaken(options.dim, options.rank), torch.randn(BATCH, options.dim)
    B = propagator(family, steps=options.steps)
    matrix = Dense(B.matrix())
    made = {
        "one step": lambda: B(z),
        "one step, dense matrix": lambda: matrix(z),
        f"{options.steps} steps": lambda: integrate(family, z, steps=options.steps),
    }
    expected, found = exact(family, z.double(), options.steps, "rk4"), seconds(made)
    rows = [
        [name, shown(t), f"{t / found['one step']:.1f} x", f"{relative(made[name](), expected):.1e}"] for name, t in found.items()
    ]
    table(f"Applying {options.steps} rk4 steps to {BATCH} states", ["", "CPU", "of one step", "error"], rows)


def forms(options: argparse.Namespace) -> None:
    """Where stepping k states costs less than collapsing, which the rule puts at k = n/4."""
    n, rank = options.dim, options.rank
    counts = (1, n // 16, n // 4, n // 2, n)
    rows = []
    for name, family, steps in (
        ("shared factors", shaken(n, rank), options.steps),
        ("independent factors", Independent(n, rank), options.steps),
        ("dense", Full(n), max(1, options.steps // 10)),
    ):
        start = time.process_time()  # timed once each: these are slow, and their times differ by more than they vary
        B = propagator(family, steps=steps)
        found = [time.process_time() - start]
        for k in counts:
            z = torch.randn(k, n)
            start = time.process_time()
            integrate(family, z, steps=steps)
            found.append(time.process_time() - start)
        held_as = f"rank {B.parts()[1].shape[-1]}" if hasattr(B, "parts") else "dense"
        rows.append([f"{name}, {steps} steps", f"{shown(found[0])} ({held_as})", *map(shown, found[1:])])
    table(
        f"Collapsing rk4 steps against stepping k states, n = {n}, rank {rank}, float32",
        ["family", "collapse", *(f"k = {k}" for k in counts)],
        rows,
    )


def exponential(options: argparse.Namespace) -> None:
    """exp(A) z for one vector and a random A of spectral norm 1 and 30; errors against scipy in float64."""
    n, rows = options.dim, []
    for norm in (1.0, 30.0):
        M = torch.randn(n, n)
        A, z = M * (norm / torch.linalg.matrix_norm(M, 2)), torch.randn(1, n)
        exact = torch.from_numpy(scipy.sparse.linalg.expm_multiply(A.double().numpy(), z.double().numpy().T).T.copy())
        operator, matrix, vector = Dense(A), A.numpy(), z.numpy().T
        made = {
            "exp_multiply": lambda operator=operator, z=z: exp_multiply(operator, z)[0],
            "scipy expm_multiply": lambda matrix=matrix, vector=vector: torch.from_numpy(
                scipy.sparse.linalg.expm_multiply(matrix, vector).T.copy()
            ),
            "torch matrix_exp": lambda A=A, z=z: z @ torch.linalg.matrix_exp(A).mT,
        }
        found = seconds(made, rounds=3)
        rows += [[f"{name}, norm {norm:g}", shown(t), f"{relative(made[name](), exact):.1e}"] for name, t in found.items()]
    table(f"exp(A) z, n = {n}, float32", ["", "CPU", "error"], rows)


def adaptive(options: argparse.Namespace) -> None:
    """Steps that each method needs, the time to find them and to collapse them, and the error against magnus4 at 1e-12."""
    family, rows = shaken(options.dim, options.rank).double(), []
    reference = propagator(family, steps=adaptive_grid(family, tolerance=1e-12, method="magnus4").times, method="magnus4")
    exact_matrix = reference.matrix()
    for method, tolerance in (("midpoint", 1e-4), ("rk4", 1e-4), ("rk4", 1e-8), ("magnus4", 1e-4), ("magnus4", 1e-8)):
        start = time.process_time()
        grid = adaptive_grid(family, tolerance=tolerance, method=method)
        middle = time.process_time()
        B = propagator(family, steps=grid.times, method=method)
        end = time.process_time()
        rows.append(
            [f"{method}, {tolerance:g}", str(len(grid.times) - 1), str(grid.rejected), shown(middle - start), shown(end - middle),
             f"{grid.error:.1e}", f"{relative(B.matrix(), exact_matrix):.1e}"]
        )  # fmt: skip
    table(
        f"Adaptive steps, n = {options.dim}, rank {options.rank}, float64",
        ["", "steps", "rejected", "grid", "collapse", "estimated", "error"],
        rows,
    )


if __name__ == "__main__":
    main()
