"""What checks cost: a Linearizer beside the bare composition of its modules, an operator beside torch.matmul.

The bare composition calls the same modules, chart and operator, without the space's checks of shape, dtype and finite values.
"""

import torch
from common import seconds, shown, table
from torch import Tensor, nn

from induced import InducedSpace, Linearizer
from induced.bijections import Bijection, Identity, glow, real_nvp
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, ScaledIdentityPlusLowRank

N, BATCH = 64, 64


def linearizers() -> None:
    """`Linearizer.forward` beside g^-1(A g(x)) by the same modules."""
    rows = []
    charts: dict[str, tuple[Bijection, int]] = {
        "identity": (Identity((N,)), BATCH),
        "real_nvp(64), 6 blocks of width 64": (real_nvp(N), BATCH),
        "real_nvp(64), 8 blocks of width 128": (real_nvp(N, blocks=8, width=128), BATCH),
        "glow((1, 8, 8)), 6 blocks": (_glow(), BATCH),
    }
    for name, (g, batch) in charts.items():
        x, A = torch.randn(batch, *g.shape) * 0.3, Dense(torch.randn(N, N) / N**0.5)
        f = Linearizer(A, InducedSpace(g))

        def bare(g: Bijection = g, x: Tensor = x, A: LinearOperator = A) -> Tensor:
            return g.inverse(A(g(x).flatten(1)).reshape(-1, *g.coord_shape))

        def checked(f: nn.Module = f, x: Tensor = x) -> Tensor:
            applied: Tensor = f(x)
            return applied

        times = seconds({"bare": bare, "Linearizer": checked}, rounds=25)
        more = times["Linearizer"] - times["bare"]
        share = f"{100 * more / times['bare']:.1f} %"
        rows.append([name, shown(times["bare"]), shown(times["Linearizer"]), shown(max(more, 0.0)), share])
    table(
        f"Linearizer.forward, n = {N}, batch {BATCH}, float32, CPU time", ["chart", "bare", "Linearizer", "more", "share"], rows
    )


def _glow() -> Bijection:
    g = glow((1, 8, 8))
    g.initialize(torch.randn(16, 1, 8, 8))
    return g


def operators() -> None:
    """A checked operator beside torch.matmul of its matrix."""
    matrix, U, V = torch.randn(N, N), torch.randn(N, 4), torch.randn(N, 4)
    cores: dict[str, LinearOperator] = {
        "Dense": Dense(matrix),
        "Diagonal": Diagonal(matrix[0]),
        "U V^T, r = 4": LowRank(U, V),
        "c I + U V^T, r = 4": ScaledIdentityPlusLowRank(0.5, U, V),
    }
    rows = []
    for shape in ((BATCH, N), (N,)):
        z = torch.randn(shape)
        forms = {name: (lambda A=A, z=z: A(z)) for name, A in cores.items()}
        times = seconds({"matmul": lambda z=z: torch.matmul(z, matrix), **forms}, rounds=25)
        for name in forms:
            rows.append([f"{name}, z {tuple(z.shape)}", shown(times[name]), f"{times[name] / times['matmul']:.2f} x"])
    table(f"A(z), n = {N}, float32, CPU time", ["operator", "time", "of torch.matmul"], rows)


if __name__ == "__main__":
    with torch.no_grad():
        linearizers()
        operators()
