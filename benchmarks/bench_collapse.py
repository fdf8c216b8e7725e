"""Collapsing T integrator steps into one operator: low-rank products against dense ones, and one step against T steps.

`--forms` measures the rule by which `propagator` chooses between one by one, factored and dense; `--exponential` times
exp_multiply against scipy; `--adaptive` compares what the methods need for a tolerance.
"""

import argparse
import time

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
    adaptive_grid,
    exp_multiply,
    integrate,
    propagator,
)

BATCH = 64


def dense_steps(family: LowRankFamily, counted: int, total: int, method: str) -> Tensor:
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


def exact(family: LowRankFamily, steps: int, method: str) -> Tensor:
    """The same formula in float64: the integrator applied to every unit vector, with no collapse in it."""
    precise = LowRankFamily(family.dim, family.rank, floor=family.floor).double()
    precise.load_state_dict(family.state_dict())
    return integrate(precise, torch.eye(family.dim, dtype=torch.float64), steps=steps, method=method).mT


def held(B: LinearOperator) -> int:
    return size(*B.parameters(), *B.buffers())


def main() -> None:
    """Print a table for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--dense-steps", type=int, default=100, help="fewer than --steps: the dense time is extrapolated")
    parser.add_argument("--forms", action="store_true", help="one by one, factored or dense: T steps of rk4 by number of states")
    parser.add_argument("--exponential", action="store_true", help="exp(A) z by exp_multiply and by scipy, and exp(A) by torch")
    parser.add_argument("--adaptive", action="store_true", help="steps and time of each method for a tolerance")
    options = parser.parse_args()
    if options.forms or options.exponential or options.adaptive:
        with torch.no_grad():
            for chosen, run in ((options.forms, forms), (options.exponential, exponential), (options.adaptive, adaptive)):
                if chosen:
                    run(options)
        return
    torch.manual_seed(0)
    family = shaken(options.dim, options.rank)
    with torch.no_grad():
        for method in ("euler", "rk4"):
            compare(family, options.steps, min(options.dense_steps, options.steps), method)


def compare(family: LowRankFamily, steps: int, counted: int, method: str) -> None:
    """Time and judge the forms of one method."""
    B = propagator(family, steps=steps, method=method)
    reference = exact(family, steps, method)
    factor = steps / counted
    dense_steps(family, 1, steps, method)
    start = time.process_time()
    product = dense_steps(family, counted, steps, method)  # timed once: it is slow, and its time hardly varies
    dense = (time.process_time() - start) * factor
    times = seconds({"collapse": lambda: propagator(family, steps=steps, method=method)}, rounds=3)
    note = "" if factor == 1 else f" ({counted} steps, extrapolated)"
    error = f"{relative(product, reference):.1e}" if factor == 1 else "-"
    matrix = Dense(product)
    rows = [
        ["propagator", shown(times["collapse"]), f"{dense / times['collapse']:.0f} x", f"{relative(B.matrix(), reference):.1e}"],
        [f"dense products{note}", shown(dense), "1 x", error],
    ]
    table(
        f"Collapsing {steps} {method} steps, n = {family.dim}, rank {family.rank}, float32 (error against float64)",
        ["", "CPU", "faster", "error"],
        rows,
    )
    rank = B.parts()[1].shape[-1] if hasattr(B, "parts") else family.dim
    print(f"held: {held(B) / 1e6:.2f} MB of rank {rank}, dense {held(matrix) / 1e6:.2f} MB: {held(matrix) / held(B):.0f} x")

    z = torch.randn(BATCH, family.dim)
    applied = seconds(
        {
            "one step": lambda: B(z),
            "one step, dense matrix": lambda: matrix(z),
            f"{steps} steps": lambda: integrate(family, z, steps=steps, method=method),
        }
    )
    expected = z.double() @ reference.mT
    errors = [
        f"{relative(B(z), expected):.1e}",
        error,
        f"{relative(integrate(family, z, steps=steps, method=method), expected):.1e}",
    ]
    table(
        f"Applying them to {BATCH} states",
        ["", "CPU", "of one step", "error"],
        [[name, shown(t), f"{t / applied['one step']:.1f} x", e] for (name, t), e in zip(applied.items(), errors, strict=True)],
    )


def shaken(dim: int, rank: int) -> LowRankFamily:
    """A family as far from its start as training takes it, so that the ranks of A_t add up."""
    family = LowRankFamily(dim, rank, floor=0.03)
    with torch.no_grad():
        family.factors += torch.randn(family.factors.shape) * (1.0 / (dim * 8) ** 0.5)
    return family


class Independent(OperatorFamily):
    """Factors that are new at every t, so that the rank of a product only grows."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim)
        self.rank = rank
        self.register_buffer("like", torch.zeros(()))

    def at(self, t: float | Tensor) -> LinearOperator:
        generator = torch.Generator().manual_seed(int(float(t) * 1e6))
        U, V = torch.randn(2, self.dim, self.rank, generator=generator) / self.dim**0.5
        return LowRank(U, V)


class Full(OperatorFamily):
    """A dense A_t = M_0 + t M_1."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("M", torch.randn(2, dim, dim) / dim**0.5)

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.M[0] + float(t) * self.M[1])


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
