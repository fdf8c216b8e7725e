"""What rounding explains is accepted, at every size, and a defect just above it is still rejected."""

import pytest
import torch

from induced import SVD, EuclideanSpace, InducedSpace, Linearizer, Subspace
from induced.bijections import PositiveDefinite, RationalQuadraticCoupling, real_nvp
from induced.checks import check_group, check_idempotent, check_linear, check_penrose, check_powers, check_svd, require
from induced.operators import Dense, image, kernel, pinv, polar, rank
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.test_checks_reject import rejected
from proofs_tests.registry import SQUARE_CORES, agree, shaken

N = 256
DEFECT = {torch.float32: 1e-4, torch.float64: 1e-10}


class Bent(Linearizer):  # type: ignore[misc]
    """A x + defect |x| e for a unit vector e: off by that share of the norm, and linear without it."""

    defect = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) + self.defect * x.norm(dim=-1, keepdim=True) * torch.eye(N).to(x)[0]


def rotation(dtype: torch.dtype) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0].to(dtype)


@every_dtype
def test_the_zero_map_over_splines_is_linear(dtype: torch.dtype) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        conditioner = torch.nn.Linear(2, 33)
        g = RationalQuadraticCoupling((5,), conditioner, bins=4, bound=1.5).to(dtype)
        X = InducedSpace(g)
        require(check_linear(Linearizer(torch.zeros(5, 5, dtype=dtype), X), 4 * torch.rand(3, 5, dtype=dtype) - 2))


@every_dtype
def test_singular_values_are_accepted_at_every_size(dtype: torch.dtype) -> None:
    for n in (2, 16, 16, 64, N):
        A = torch.randn(n, n, dtype=dtype)
        require(check_svd(Linearizer(Dense(A) @ Dense(A.mT.clone()), EuclideanSpace(n))))


def test_flows_are_accepted_at_every_size() -> None:
    A = torch.randn(N, N, dtype=torch.float64)
    A /= torch.linalg.matrix_norm(A, 2)
    require(check_group(Linearizer(A, EuclideanSpace(N)), torch.randn(3, N, dtype=torch.float64)))


def cores(n: int) -> dict[str, torch.Tensor]:
    """Matrices of norm about 1 that behave differently when iterated."""
    M = torch.randn(n, n, dtype=torch.float64) / n**0.5
    return {
        "any": M,
        "skew": M - M.mT,
        "nilpotent": torch.diag(torch.ones(n - 1, dtype=torch.float64), 1),
        "graded": torch.diag(torch.logspace(0, -12, n, dtype=torch.float64)),
        "dominated by one entry": torch.diag(torch.tensor([1.0] + [1e-6] * (n - 1), dtype=torch.float64)),
    }


@every_dtype
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 0.1, 1.0, 6.0, 30.0, 1e3, 1e6])
def test_powers_and_flows_are_judged_at_every_norm(scale: float, dtype: torch.dtype) -> None:
    x = torch.randn(5, 8, dtype=dtype)
    for name, M in cores(8).items():
        powers = check_powers(Linearizer((scale * M).to(dtype), EuclideanSpace(8)), x)
        group = check_group(Linearizer((scale * M).to(dtype), EuclideanSpace(8)), x)
        require(powers, group)
        assert all(r.tolerance < 1e-3 for r in (*powers, *group) if r.verdict == "holds" and "f^-" not in r.law), name
        # but for the inverses of ill-conditioned cores and what overflows, every law is judged
        assert sum(r.verdict == "holds" for r in powers) >= 6 - (scale == 1e6 and dtype == torch.float32), name
        assert group.counts()["holds"] == 6


@every_dtype
def test_powers_and_flows_of_a_large_norm_are_judged_over_a_learned_chart(dtype: torch.dtype) -> None:
    X = InducedSpace(shaken(real_nvp(8, 2, 8)).to(dtype))
    x = torch.randn(5, 8, dtype=dtype)
    for scale in (0.1, 1.0, 6.0):
        f = Linearizer((scale * cores(8)["any"]).to(dtype), X)
        reports = check_powers(f, x)
        require(reports, check_group(f, x))
        assert reports.counts()["holds"] >= 7


@every_dtype
@pytest.mark.parametrize("skew", [0.0, 1.0, 10.0])
def test_oblique_projections_are_accepted(skew: float, dtype: torch.dtype) -> None:
    K = (skew * torch.randn(4, 4)).round().to(dtype)
    P = torch.cat([torch.cat([torch.eye(4).to(K), K], 1), torch.zeros(4, 8).to(K)])
    X, x = EuclideanSpace(8), torch.randn(4, 8, dtype=dtype)
    inside = torch.cat([-x[:, 4:] @ K.mT, x[:, 4:]], 1)  # in the kernel, as far as rounding goes
    for core in (P, P.mT, torch.eye(8).to(P) - P):
        for at in (x, inside, 0 * x, 1e-20 * x, 1e15 * x):
            reports = check_idempotent(Linearizer(core, X), at)
            require(reports)
            assert reports[0].tolerance < 1e-3
    require(check_idempotent(Linearizer.projection(Subspace.span(X, x[:2])), x))
    P[0, 0] += DEFECT[dtype] * (1 + skew)
    rejected(check_idempotent(Linearizer(P, X), x), "f(f(x)) = f(x)")


def test_pseudoinverses_on_ill_conditioned_matrices_are_accepted_or_not_judged() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        X = InducedSpace(PositiveDefinite(3))
        x, y = (X.point(0.4 * torch.randn(3, 6, dtype=torch.float64)) for _ in range(2))
        Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        f = Linearizer(Q * torch.tensor([1.0, 1, 1, 1, 1, 0.08], dtype=torch.float64), X)
        assert all(r.residual <= r.tolerance for r in check_penrose(f, x, y))


def test_columns_of_low_rank_that_cancel_do_not_raise_the_rank() -> None:
    core = next(core for core in SQUARE_CORES if core.name == "LowRank of rank 1 in 3 columns")
    for seed in (13, 108, 139, 175, 208):  # J^T A J is small beside the columns of its factors
        torch.manual_seed(seed)
        M = core.matrix()
        J = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0]
        A = Dense(J.mT.clone()) @ core.make(M) @ Dense(J)
        agree(pinv(A).matrix(), torch.linalg.pinv(J.mT @ M @ J, rtol=1e-5), 400)
        assert rank(A) == rank(polar(A).Q) == 1 and kernel(A).shape == image(A).shape == (2, 1)


@every_dtype
def test_defects_are_rejected_at_a_large_size(dtype: torch.dtype) -> None:
    X, Q, defect = EuclideanSpace(N), rotation(dtype), DEFECT[dtype]
    x = torch.randn(3, N, dtype=dtype)
    bent = Bent(Q, X)
    require(check_linear(bent, x))
    bent.defect = defect
    rejected(check_linear(bent, x), "f(a u) = a f(u)")
    U, s, Vh = torch.linalg.svd(Q)
    wrong = SVD(U * (1 + defect), s, Vh.mT, X, X)

    class WrongSVD(Linearizer):  # type: ignore[misc]
        def svd(self, rank: int | None = None) -> SVD:
            return wrong

    for law in ("f(v_i) = s_i u_i", "<u_i, u_j>"):
        rejected(check_svd(WrongSVD(Q, X)), law)

    class WrongPinv(Linearizer):  # type: ignore[misc]
        def pinv(self, rtol: float | None = None) -> Linearizer:
            return Linearizer(Q.mT * (1 + defect), X)

    rejected(check_penrose(WrongPinv(Q, X), x, x), "f f+ f = f")

    class WrongPower(Linearizer):  # type: ignore[misc]
        def __pow__(self, k: int) -> Linearizer:  # type: ignore[override]
            return Linearizer(torch.linalg.matrix_power(Q, k) * (1 + defect), X)

        def exp(self, t: float = 1.0) -> Linearizer:  # type: ignore[override]
            return Linearizer(torch.linalg.matrix_exp(t * Q.double()).to(dtype) * (1 + defect), X)

    rejected(check_powers(WrongPower(Q, X), x), "f^3 = f f f")
    rejected(check_group(WrongPower(Q, X), x), "exp(-t f) exp(t f) = id")
    half = Q[:, :128] @ Q[:, :128].mT
    require(check_idempotent(Linearizer(half, X), x))
    rejected(check_idempotent(Linearizer(half * (1 + defect), X), x), "f(f(x)) = f(x)")
