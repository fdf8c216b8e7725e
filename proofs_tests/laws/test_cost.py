"""At n = 50,000 nothing makes a hundredth of an n x n matrix, and expressions of any depth stay cheap to make, apply and name."""

import math
from collections.abc import Callable
from typing import Any, final

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from induced import EuclideanSpace, InducedSpace, Linearizer, Subspace, check
from induced.bijections import Bijection
from induced.checks import check_adjoint, check_group, check_linear, check_penrose, check_svd
from induced.checks.measure import WIDE
from induced.checks.report import Reports
from induced.errors import InducedError, ShapeError
from induced.operators import (
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Permutation,
    Projection,
    ScaledIdentityPlusLowRank,
    Selection,
    as_operator,
    cond,
    det,
    eigenvalues,
    exp,
    function,
    identity,
    image,
    inverse,
    kernel,
    log,
    norm,
    pinv,
    polar,
    power,
    rank,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    to_scipy,
    trace,
)
from induced.operators.krylov import truncated_svd
from induced.operators.linalg import Inverse
from induced.operators.spectral import invariant_subspaces

n, r = 50_000, 8
MOST = n * n // 100


class Small(TorchDispatchMode):
    """Fails where an operation makes a tensor of more than `most` numbers."""

    def __init__(self, most: int = MOST) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() >= 4 * self.most:
                raise AssertionError(f"{func} makes {tuple(x.shape)}")
        return out


class Objects:
    """The operators of the expressions."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.z = torch.randn(4, n)
        U, V = torch.randn(n, r) / n**0.5, torch.randn(n, r) / n**0.5
        self.E = EuclideanSpace(n)
        self.LR, self.PSD = LowRank(U, V), LowRank(U, U)
        self.SI = ScaledIdentityPlusLowRank(0.7, U, V)
        self.D, self.D0 = Diagonal(torch.linspace(0.1, 1, n)), Diagonal((torch.arange(n) > 0).float())
        self.P = Projection((torch.arange(n) % 2).float())
        self.S = Selection(torch.arange(0, n, 2), n)
        self.H, self.Pm = Householder(torch.randn(3, n)), Permutation(torch.randperm(n))
        self.f = Linearizer(self.SI, self.E)


@pytest.fixture(scope="module")
def o() -> Objects:
    return Objects()


def complements(W: Subspace, V: Subspace) -> None:
    assert (W + V).dim + (W & V).dim == W.dim + V.dim
    assert (V + W).dim == (W + V).dim == (n - 2 if V.dim > n // 2 else n)
    angles = W.angles(V)
    assert len(angles) == min(W.dim, V.dim) and angles[0] < 0.1 and angles[-1] > 1.5
    assert (W & V).complement().dim == n - (W & V).dim


EXPRESSIONS: dict[str, Callable[[Objects], Any]] = {
    "svd(SI, 8)": lambda o: svd(o.SI, 8),
    "singular_values(SI)": lambda o: singular_values(o.SI),
    "pinv(SI)": lambda o: pinv(o.SI)(o.z),
    "inverse(SI)": lambda o: inverse(o.SI)(o.z),
    "norm(SI)": lambda o: (norm(o.SI), norm(o.SI, "frobenius"), norm(o.SI, "nuclear")),
    "rank(SI)": lambda o: rank(o.SI),
    "cond(SI)": lambda o: cond(o.SI),
    "det(SI)": lambda o: (det(o.SI), slogdet(o.SI)),
    "eigenvalues(SI)": lambda o: eigenvalues(o.SI),
    "exp(SI)": lambda o: exp(o.SI)(o.z),
    "log(SI)": lambda o: log(o.SI)(o.z),
    "sqrt(SI)": lambda o: sqrt(o.SI)(o.z),
    "polar(SI)": lambda o: [Q(o.z) for Q in polar(o.SI)],
    "solve(SI)": lambda o: solve(o.SI, o.z),
    "kernel(SI)": lambda o: kernel(o.SI),
    "image(SI)": lambda o: image(o.SI),
    "image(LR)": lambda o: image(o.LR),
    "kernel(LR)": lambda o: kernel(o.LR),
    "sqrt(PSD)": lambda o: sqrt(o.PSD)(o.z),
    "power(PSD, 1.5)": lambda o: power(o.PSD, 1.5)(o.z),
    "pinv(LR)": lambda o: pinv(o.LR)(o.z),
    "SI @ SI": lambda o: (o.SI @ o.SI)(o.z),
    "SI + SI": lambda o: (o.SI + o.SI)(o.z),
    "SI**10": lambda o: (o.SI**10)(o.z),
    "D @ SI": lambda o: (o.D @ o.SI)(o.z),
    "trace(D @ SI)": lambda o: trace(o.D @ o.SI),
    "trace(D + SI)": lambda o: trace(o.D + o.SI),
    "norm(D + SI)": lambda o: norm(o.D + o.SI),
    "det(D @ SI)": lambda o: slogdet(o.D @ o.SI),
    "inverse(D @ SI)": lambda o: inverse(o.D @ o.SI)(o.z),
    "kernel(D0)": lambda o: kernel(o.D0),
    "image(D0)": lambda o: image(o.D0),
    "svd(D, 8)": lambda o: svd(o.D, 8),
    "rank(D0)": lambda o: rank(o.D0),
    "polar(D)": lambda o: [Q(o.z) for Q in polar(o.D)],
    "kernel(P)": lambda o: kernel(o.P),
    "image(P)": lambda o: image(o.P),
    "svd(P, 8)": lambda o: svd(o.P, 8),
    "rank(P)": lambda o: rank(o.P),
    "svd(S, 3)": lambda o: svd(o.S, 3),
    "kernel(S)": lambda o: kernel(o.S),
    "image(S)": lambda o: image(o.S),
    "pinv(S)": lambda o: pinv(o.S)(o.S(o.z)),
    "svd(H, 1)": lambda o: svd(o.H, 1),
    "norm(H)": lambda o: (norm(o.H), norm(o.H, "frobenius"), norm(o.H, "nuclear")),
    "rank(H)": lambda o: rank(o.H),
    "kernel(H)": lambda o: kernel(o.H),
    "image(H)": lambda o: image(o.H),
    "H @ H": lambda o: (o.H @ o.H)(o.z),
    "H.H @ H": lambda o: (o.H.H @ o.H)(o.z),
    "Pm @ H": lambda o: (o.Pm @ o.H)(o.z),
    "H @ Pm": lambda o: (o.H @ o.Pm)(o.z),
    "H**5": lambda o: (o.H**5)(o.z),
    "Pm**5": lambda o: (o.Pm**5)(o.z),
    "svd(Pm, 1)": lambda o: svd(o.Pm, 1),
    "det(H)": lambda o: (det(o.H), slogdet(o.Pm), det(o.Pm @ o.H)),
    "polar(H)": lambda o: [Q(o.z) for Q in polar(o.H)],
    "trace(H)": lambda o: trace(o.H),
    "exp(H)": lambda o: exp(o.H)(o.z),
    "H @ SI": lambda o: (svd(o.H @ o.SI, 3), pinv(o.H @ o.SI)(o.z), rank(o.H @ o.SI), norm(o.H @ o.SI)),
    "eigenvalues(D)": lambda o: eigenvalues(o.D),
    "Inverse(SI)": lambda o: (Inverse(o.SI)(o.z), Inverse(o.SI).H(o.z)),
    "Inverse(D)": lambda o: Inverse(o.D)(o.z),
    "resolvent(SI)": lambda o: resolvent(o.SI, 3.0)(o.z),
    "resolvent(H)": lambda o: resolvent(o.H, 3.0)(o.z),
    "function(SI)": lambda o: function(o.SI, torch.sin)(o.z),
    "truncated_svd(D @ SI, 4)": lambda o: truncated_svd(o.D @ o.SI, 4),
    "as_operator(to_scipy(SI))": lambda o: as_operator(to_scipy(o.SI))(o.z),
    "SI.compressed()": lambda o: o.SI.compressed(),
    "f.svd(4).truncate(2)": lambda o: o.f.svd(4).truncate(2)(o.z),
    "f.rank()": lambda o: o.f.rank(),
    "checks of f": lambda o: (
        check_linear(o.f, o.z),
        check_adjoint(o.f, o.z, o.z),
        check_penrose(o.f, o.z, o.z),
        check_svd(o.f, 4),
        check_group(o.f, o.z),
    ),
    "W.project": lambda o: Subspace.span(o.E, o.z[:3]).project(o.z),
    "W + X": lambda o: Subspace.span(o.E, o.z[:3]) + Subspace.span(o.E, o.z[1:]),
    "W & X": lambda o: Subspace.span(o.E, o.z[:3]) & Subspace.span(o.E, o.z[1:]),
    "complements": lambda o: complements(Subspace.span(o.E, o.z[:3]).complement(), Subspace.span(o.E, o.z[1:]).complement()),
    "a complement and W": lambda o: complements(Subspace.span(o.E, o.z[:3]).complement(), Subspace.span(o.E, o.z[1:])),
    "W.complement()": lambda o: Subspace.span(o.E, o.z[:3]).complement(),
    "W.angles(X)": lambda o: Subspace.span(o.E, o.z[:3]).angles(Subspace.span(o.E, o.z[1:])),
    "gram": lambda o: (o.E.gram(o.z), o.E.orthonormalize(o.z)),
    "repr": lambda o: repr(o.f),
}


@pytest.mark.parametrize("what", EXPRESSIONS)
def test_no_matrix_is_made_of_a_large_operator(what: str, o: Objects) -> None:
    with Small(), torch.no_grad():
        EXPRESSIONS[what](o)


@pytest.mark.parametrize("what", ("eigenvalues of all", "invariant subspaces of all", "matrix"))
def test_what_would_be_huge_is_refused_before_it_is_made(what: str, o: Objects) -> None:
    asked: dict[str, Callable[[], Any]] = {
        "eigenvalues of all": lambda: eigenvalues(o.D @ o.SI),
        "invariant subspaces of all": lambda: invariant_subspaces(o.SI),
        "matrix": lambda: o.SI.matrix(),
    }
    with Small(), pytest.raises(ShapeError, match=r"50000|limit|4096"):
        asked[what]()


# ------------------------------------------------------------------------------------------------------ deep expressions
DEPTH = 300


def deep(kind: str) -> tuple[LinearOperator, Tensor, Tensor]:
    """An expression of DEPTH operators, coordinates, and its value there by plain tensors."""
    z, d = torch.randn(5, dtype=torch.float64), torch.linspace(0.9, 1.1, 5, dtype=torch.float64)
    order = [2, 0, 1, 4, 3]
    P, D = Permutation(order, dtype=torch.float64), Diagonal(d)
    A: LinearOperator = P
    expected = z[order]
    for i in range(DEPTH if kind != "mixed" else 60):  # nested modules meet Python's recursion limit at about 100
        B: LinearOperator = (D, P)[i % 2]
        if kind == "sum":
            A, expected = A + B, expected + (d * z, z[order])[i % 2]
        elif kind == "product":
            A, expected = B @ A, (d * expected, expected[order])[i % 2]
        elif kind == "product from the right":
            A = A @ B
        elif kind == "scaling":
            A, expected = A * 1.01, 1.01 * expected
        else:
            A, expected = (A * 1.01 + B) if i % 2 else (A @ P), None  # type: ignore[assignment]
    if expected is None or kind == "product from the right":
        expected = A.matrix() @ z
    return A, z, expected


@pytest.mark.parametrize("kind", ("sum", "product", "product from the right", "scaling", "mixed"))
def test_an_expression_of_300_operators_is_applied_named_and_differentiated(kind: str) -> None:
    A, z, expected = deep(kind)
    assert torch.allclose(A(z), expected, rtol=1e-10)
    w = torch.randn(5, dtype=torch.float64)
    assert torch.allclose((A.H(w) * z).sum(), (w * A(z)).sum(), rtol=1e-9)
    (gradient,) = torch.autograd.grad((w * A(z.requires_grad_())).sum(), z)
    assert torch.allclose(gradient, A.H(w), rtol=1e-9)
    assert len(str(A)) < 2000
    assert torch.allclose(svd(A).values[0], torch.linalg.matrix_norm(A.matrix(), 2))
    assert float(trace(A)) == pytest.approx(float(A.matrix().trace()), rel=1e-9)


def test_the_text_of_a_nested_expression_is_short() -> None:
    assert len(str(deep("mixed")[0])) < 2000


def test_an_error_about_forty_terms_is_short() -> None:
    A: LinearOperator = Householder(torch.randn(1, 6))
    for i in range(40):
        A = A + Permutation(torch.randperm(6), dtype=torch.float32) * (i + 1.0)
    with pytest.raises(InducedError) as raised:
        log(A - A)
    assert len(str(raised.value)) < 2000
    for make in (lambda: A @ identity(7, torch.zeros(())), lambda: A(torch.zeros(5)), lambda: inverse(A - A)):
        with pytest.raises(InducedError) as raised:
            make()
        assert len(str(raised.value)) < 2000


# --------------------------------------------------------------------------------------------------------- checks of wide things
@final
class Counted(Bijection):
    """z = 2 x, with one entry back that is wrong by `off`; it counts the samples that it is asked about."""

    def __init__(self, dim: int, off: float = 0.0) -> None:
        super().__init__((dim,))
        self.off, self.asked = off, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += x.shape[:-1].numel()
        return 2 * x

    def inverse(self, z: Tensor) -> Tensor:
        self.asked += z.shape[:-1].numel()
        return torch.cat([(0.5 + self.off) * z[..., :1], 0.5 * z[..., 1:]], -1)

    def log_abs_det(self, x: Tensor) -> Tensor:
        return math.log(2.0) * x.shape[-1] * torch.ones_like(x[..., 0])

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self.log_abs_det(x)


def test_a_wide_space_is_checked_at_fewer_samples_and_says_what_is_left_out() -> None:
    asked, found = list[int](), list[Reports]()
    for dim in (WIDE, WIDE + 1):
        g = Counted(dim)
        found.append(check(Linearizer(Diagonal(torch.linspace(1, 2, dim)), InducedSpace(g), EuclideanSpace(dim))))
        asked.append(g.asked)
    assert asked[1] < 0.4 * asked[0]
    narrow, wide = ({report.law: report for report in reports} for reports in found)
    assert all(reports.ok for reports in found)
    assert narrow["log|det J|"].verdict == "holds" and "estimated at the first sample" in narrow["log|det J|"].note
    assert wide["log|det J|"].verdict == "not applicable"
    assert wide["log|det J|"].note == f"not estimated above {WIDE} coordinates; there are {WIDE + 1}"
    number = "there are as many triplets as asked for"
    assert (narrow[number].note, wide[number].note) == ("16 of 16 asked for", "2 of 2 asked for")


def test_one_wrong_entry_of_a_wide_chart_is_seen() -> None:
    broken = check(Counted(WIDE + 1, off=1.0))
    assert broken.counts()["violated"] > 0
