"""c I + U V^T in closed form against dense torch, scipy, CoLA, linear_operator and pylops.

A has a rank-8 part and spectral radius 1, so that its powers neither grow nor vanish. All forms are float32, on one thread, and
take turns; a cell is the median CPU time and, in brackets, the multiple of the structured one. Errors are relative, against
dense float64; at n = 4096 (--large) against the closed form in float64. A peer that gives no operator applies the function to
one vector (marked v), which is less than what the others do; linear_operator has no closed form but for a symmetric A, and gets
c I + U U^T there. "-": the peer has no such function, is lazy and computes nothing, or is not installed; "> s": it did not end
within the budget.
"""

import argparse
import signal
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import scipy.linalg
import torch
from common import relative, seconds, shown, table
from torch import Tensor

from induced.operators import LinearOperator, ScaledIdentityPlusLowRank, exp, inverse, pinv, power, svd

RANK = 8
MATVEC, PRODUCT, POWER, INVERSE, EXP, SVD, PINV = ROWS = (
    "matvec", "product A A", "power A^1000", "inverse", "exp", f"svd, {2 * RANK} triplets", "pinv"
)  # fmt: skip
Form = Callable[[], Any]


def operator(n: int) -> ScaledIdentityPlusLowRank:
    """c I + U V^T of spectral radius 1, in float64 but of entries that float32 holds: no error is that of rounding A."""
    generator = torch.Generator().manual_seed(n)
    U, V = (torch.linalg.qr(torch.randn(n, RANK, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    U = 0.05 * U
    radius = float((1 + torch.linalg.eigvals(V.mT @ U)).abs().max().clamp(min=1))
    c, U, V = (part.float().double() for part in (torch.tensor(1 / radius), U / radius, V))
    return ScaledIdentityPlusLowRank(c, U, V)


def structured(A: LinearOperator, x: Tensor) -> dict[str, Form]:
    """Every form by the library."""
    return {
        MATVEC: lambda: A(x),
        PRODUCT: lambda: A @ A,
        POWER: lambda: power(A, 1000),
        INVERSE: lambda: inverse(A),
        EXP: lambda: exp(A),
        SVD: lambda: svd(A, rank=2 * RANK).values,
        PINV: lambda: pinv(A),
    }


def dense(A: Tensor, x: Tensor) -> dict[str, Form]:
    """The same by torch."""
    return {
        MATVEC: lambda: A @ x,
        PRODUCT: lambda: A @ A,
        POWER: lambda: torch.linalg.matrix_power(A, 1000),
        INVERSE: lambda: torch.linalg.inv(A),
        EXP: lambda: torch.linalg.matrix_exp(A),
        SVD: lambda: torch.linalg.svd(A)[1][: 2 * RANK],
        PINV: lambda: torch.linalg.pinv(A),
    }


def by_scipy(c: float, U: Tensor, V: Tensor, x: Tensor) -> dict[str, Form]:
    """The same by numpy and scipy."""
    A, z = (c * torch.eye(len(U)) + U @ V.mT).numpy(), x.numpy()
    return {
        MATVEC: lambda: A @ z,
        PRODUCT: lambda: A @ A,
        POWER: lambda: np.linalg.matrix_power(A, 1000),
        INVERSE: lambda: scipy.linalg.inv(A),
        EXP: lambda: scipy.linalg.expm(A),
        SVD: lambda: scipy.linalg.svd(A),
        PINV: lambda: scipy.linalg.pinv(A),
    }


def by_cola(c: float, U: Tensor, V: Tensor, x: Tensor) -> dict[str, Form]:
    """The same by CoLA, lazily, with its default algorithms; its `A + B` does not work, so that the sum is built by hand."""
    import cola

    A = cola.ops.Sum(cola.ops.Diagonal(torch.full_like(x, c)), cola.ops.Product(cola.ops.Dense(U), cola.ops.Dense(V.mT)))
    return {
        MATVEC: lambda: A @ x,
        f"{INVERSE} v": lambda: cola.inv(A) @ x,
        f"{EXP} v": lambda: cola.exp(A) @ x,
    }


def by_linear_operator(c: float, U: Tensor, V: Tensor, x: Tensor) -> dict[str, Form]:
    """Products with A, and Woodbury for c I + U U^T."""
    from linear_operator.operators import ConstantDiagLinearOperator, LowRankRootLinearOperator, MatmulLinearOperator

    cI, column = ConstantDiagLinearOperator(torch.tensor([c]), len(U)), x.unsqueeze(-1)
    A = MatmulLinearOperator(U, V.mT) + cI
    return {MATVEC: lambda: A @ x, f"{INVERSE} v": lambda: (LowRankRootLinearOperator(U) + cI).solve(column)}


def by_pylops(c: float, U: Tensor, V: Tensor, x: Tensor) -> dict[str, Form]:
    """Products with A, and lsqr."""
    import pylops

    left, right = (pylops.MatrixMult(np.ascontiguousarray(M.numpy()), dtype="float32") for M in (U, V.mT))
    A, z = left @ right + c * pylops.Identity(len(U), dtype="float32"), x.numpy()
    return {
        MATVEC: lambda: A @ z,
        f"{POWER} v": lambda: (A**1000) @ z,
        f"{INVERSE} v": lambda: A.div(z, niter=200),
    }


PEERS = {"scipy": by_scipy, "CoLA": by_cola, "linear_operator": by_linear_operator, "pylops": by_pylops}


def value(result: Tensor | LinearOperator) -> Tensor:
    return result if isinstance(result, Tensor) else result.matrix()


class _TooSlow(Exception):
    """A form did not end within the budget."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise _TooSlow


def ends(form: Form, budget: float) -> bool:
    """Whether one call of a form written in Python ends within so many seconds; a call into LAPACK is not interrupted."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, budget)
    start = time.monotonic()
    try:
        form()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _TooSlow:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return time.monotonic() - start < budget


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", dest="sizes", action="store_const", const=(256, 1024, 4096), default=(256, 1024),
                        help="also n = 4096, dense algebra included: ten minutes")  # fmt: skip
    parser.add_argument("--budget", type=float, default=10.0, help="seconds that one call of a peer may last (10)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with torch.no_grad():
        for n in options.sizes:
            compare(n, options.budget)


def compare(n: int, budget: float) -> None:
    """Time and judge every form at one size."""
    large = n > 1024
    precise = operator(n)
    c, U, V = precise.parts()
    x = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = structured(precise, x) if large else dense(precise.matrix(), x)
    A = ScaledIdentityPlusLowRank(c.float(), U.float(), V.float())
    theirs = dense(precise.matrix().float(), x.float())
    found: dict[str, dict[str, Form]] = {}
    for name, peer in PEERS.items():
        try:
            found[name] = peer(float(c), U.float(), V.float(), x.float())
        except ImportError:
            found[name] = {}
    rows = []
    for row, form in structured(A, x.float()).items():
        forms, missing = {"structured": form, "dense torch": theirs[row]}, {}
        for name, of_peer in found.items():
            whole = of_peer.get(row, of_peer.get(f"{row} v"))
            lapack = large and name == "scipy" and row not in (MATVEC, PRODUCT)
            if whole is None:
                missing[name] = "-"
            elif lapack or not ends(whole, budget):
                missing[name] = "as dense" if lapack else f"> {budget:.0f} s"
            else:
                forms[name] = whole
        try:
            times = seconds(forms)
        except torch.linalg.LinAlgError:  # LAPACK's divide and conquer, at a value that is repeated thousands of times
            del forms["dense torch"]
            times = seconds(forms)
        mine, expected = times["structured"], value(exact[row]())
        cells = [
            missing.get(name) or f"{shown(times[name])} ({times[name] / mine:.3g} x){' v' if row not in found[name] else ''}"
            for name in found
        ]
        errors = [f"{relative(value(f()), expected):.1e}" for f in ((form,) if large else (form, theirs[row]))]
        full = f"{shown(times['dense torch'])} ({times['dense torch'] / mine:.3g} x)" if "dense torch" in times else "fails"
        rows.append([row, shown(mine), full, *cells, errors[0], errors[1] if len(errors) > 1 else "not run"])
    table(
        f"A = c I + U V^T, n = {n}, rank {RANK}, float32, CPU time (multiple of structured)",
        ["", "structured", "dense torch", *found, "error", "dense error"],
        rows,
    )


if __name__ == "__main__":
    main()
