"""Points and values to fit, their weights and penalties, and the fit by numpy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, InducedSpace
from induced.bijections import real_nvp
from proofs_tests.registry import shaken

DOUBLE = torch.float64
R3, R5 = EuclideanSpace(3), EuclideanSpace(5)


def curved(dim: int) -> InducedSpace:
    """A space with a chart far from the identity."""
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).double())


def pairs(n: int, d: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, dtype=DOUBLE), torch.randn(n, m, dtype=DOUBLE)


def stacked(z: Tensor, w: Tensor, ridge: Tensor, prior: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """A and the condition of the problem, by numpy's lstsq on [sqrt(weights) z; sqrt(ridge)], row by row of A, in float64."""
    Z, W, penalty, A_0, entries = (t.double().numpy() for t in (z, w, ridge, prior, weights))
    n, m = Z.shape[1], W.shape[1]
    penalty = np.broadcast_to(penalty, (m, n))
    entries = np.broadcast_to(entries if entries.ndim == 2 else entries[:, None], W.shape)
    A, condition = np.empty((m, n)), 1.0
    for k in range(m):
        root = np.sqrt(entries[:, k])
        G = np.vstack([root[:, None] * Z, np.diag(np.sqrt(penalty[k]))])
        t = np.concatenate([root * (W[:, k] - Z @ A_0[k]), np.zeros(n)])
        s = np.linalg.svd(G, compute_uv=False)
        A[k] = A_0[k] + np.linalg.lstsq(G, t, rcond=1e-6)[0]
        condition = max(condition, s[0] / s[s > 1e-6 * s[0]][-1] if s[0] else 1.0)
    return torch.from_numpy(A), condition * (1 + float(w.norm()) + float(prior.norm()))


def well_conditioned(count: int, dim: int, rank: int) -> Tensor:
    """Coordinates (count, dim) of this rank, or the most there is, with singular values from 1 to 2."""
    rank = min(count, dim, rank)
    U, V = (torch.linalg.qr(torch.randn(k, k, dtype=DOUBLE))[0][:, :rank] for k in (count, dim))
    return (U * torch.linspace(2, 1, rank, dtype=DOUBLE)) @ V.mT


PENALTIES = ("none", "a number", "some coordinates", "all coordinates", "some entries")
WEIGHTS = ("none", "pairs", "entries")


def penalties(kind: str, m: int, n: int) -> Tensor:
    p = torch.rand(m, n, dtype=DOUBLE) + 0.1
    some = p * (torch.rand(m, n) < 0.6)
    return {
        "none": torch.tensor(0.0, dtype=DOUBLE),
        "a number": p[0, 0],
        "some coordinates": some[0],
        "all coordinates": p[0],
        "some entries": some,
    }[kind]


def weighting(kind: str, count: int, m: int) -> Tensor | None:
    w = (torch.rand(count, m, dtype=DOUBLE) + 0.1) * (torch.rand(count, m) < 0.8)
    return {"none": None, "pairs": w[:, 0], "entries": w}[kind]


problems = given(
    count=st.integers(1, 9),
    n=st.integers(1, 5),
    m=st.integers(1, 4),
    rank=st.integers(1, 5),
    penalty=st.sampled_from(PENALTIES),
    weight=st.sampled_from(WEIGHTS),
    shrinks=st.booleans(),
    seed=st.integers(0, 2**16),
)
