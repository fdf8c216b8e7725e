"""c I + U V^T in closed form against dense torch: products, powers, inverses, exponentials, singular values.

A has rank-8 part and spectral radius 1, so that its powers neither grow nor vanish. Errors are relative, against dense
float64; at n = 4096 (--large) against the closed form in float64, and the dense SVD and pseudoinverse are left out.
"""

import argparse
from collections.abc import Callable

import torch
from common import relative, seconds, shown, table
from torch import Tensor

from induced.operators import LinearOperator, ScaledIdentityPlusLowRank, exp, inverse, pinv, power, svd

RANK = 8
Form = Callable[[], Tensor | LinearOperator]


def operator(n: int) -> ScaledIdentityPlusLowRank:
    """c I + U V^T of spectral radius 1, in float64."""
    generator = torch.Generator().manual_seed(n)
    U, V = (torch.linalg.qr(torch.randn(n, RANK, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    U = 0.05 * U
    radius = float((1 + torch.linalg.eigvals(V.mT @ U)).abs().max().clamp(min=1))
    return ScaledIdentityPlusLowRank(1 / radius, U / radius, V)


def structured(A: LinearOperator, x: Tensor) -> dict[str, Form]:
    """Every form by the library."""
    return {
        "matvec": lambda: A(x),
        "product A A": lambda: A @ A,
        "power A^1000": lambda: power(A, 1000),
        "inverse": lambda: inverse(A),
        "exp": lambda: exp(A),
        f"svd, {2 * RANK} values": lambda: svd(A, rank=2 * RANK).values,
        "pinv": lambda: pinv(A),
    }


def dense(A: Tensor, x: Tensor) -> dict[str, Form]:
    """The same by torch."""
    return {
        "matvec": lambda: A @ x,
        "product A A": lambda: A @ A,
        "power A^1000": lambda: torch.linalg.matrix_power(A, 1000),
        "inverse": lambda: torch.linalg.inv(A),
        "exp": lambda: torch.linalg.matrix_exp(A),
        f"svd, {2 * RANK} values": lambda: torch.linalg.svd(A)[1][: 2 * RANK],
        "pinv": lambda: torch.linalg.pinv(A),
    }


def value(result: Tensor | LinearOperator) -> Tensor:
    return result if isinstance(result, Tensor) else result.matrix()


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also n = 4096, some minutes")
    sizes = (256, 1024, 4096) if parser.parse_args().large else (256, 1024)
    with torch.no_grad():
        for n in sizes:
            compare(n)


def compare(n: int) -> None:
    """Time and judge every form at one size."""
    large = n > 1024
    precise = operator(n)
    c, U, V = precise.parts()
    x = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = structured(precise, x) if large else dense(precise.matrix(), x)
    A = ScaledIdentityPlusLowRank(c.float(), U.float(), V.float())
    ours, theirs = structured(A, x.float()), dense(precise.matrix().float(), x.float())
    rows = []
    for name, form in ours.items():
        skipped = large and name.startswith(("svd", "pinv"))
        forms = {"structured": form} if skipped else {"structured": form, "dense": theirs[name]}
        times, expected = seconds(forms), value(exact[name]())
        mine, other = times["structured"], times.get("dense")
        rows.append(
            [
                name,
                shown(mine),
                "-" if other is None else shown(other),
                "-" if other is None else f"{other / mine:.3g} x",
                f"{relative(value(form()), expected):.1e}",
                "-" if skipped else f"{relative(value(theirs[name]()), expected):.1e}",
            ]
        )
    table(
        f"A = c I + U V^T, n = {n}, rank {RANK}, float32, CPU time",
        ["", "structured", "dense torch", "faster", "error", "dense error"],
        rows,
    )


if __name__ == "__main__":
    main()
