"""Collapsing T integrator steps into one operator: low-rank products against dense ones, and one step against T steps."""

import argparse
import time

import torch
from common import relative, seconds, shown, size, table
from torch import Tensor

from induced.operators import Dense, LinearOperator, LowRankFamily, integrate, propagator

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
    options = parser.parse_args()
    torch.manual_seed(0)
    family = LowRankFamily(options.dim, options.rank, floor=0.03)
    with torch.no_grad():  # as far from its start as training takes it, so that the ranks of A_t add up
        family.factors += torch.randn(family.factors.shape) * (1.0 / (options.dim * 8) ** 0.5)
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


if __name__ == "__main__":
    main()
