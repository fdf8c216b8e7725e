"""Linear charts: one for every invertible operator. The oracle is the matrix."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced.bijections import Conv1x1, Linear, roundtrip
from induced.operators import LU, BlockDiagonal, Dense, Diagonal, Householder, LinearOperator, Permutation, SkewExponential
from induced.operators.base import Product, Sum
from proofs_tests.registry import DTYPES, agree, shaken

TRAINED: list[Callable[[], LinearOperator]] = [
    lambda: LU(4),
    lambda: Householder(nn.Parameter(torch.randn(3, 4))),
    lambda: SkewExponential(nn.Parameter(torch.randn(4, 4))),
    lambda: Dense(nn.Parameter(torch.eye(4) + torch.randn(4, 4) / 5)),
]
every_operator = pytest.mark.parametrize("make", TRAINED, ids=["LU", "Householder", "SkewExponential", "Dense"])


@every_operator
def test_a_linear_chart_is_its_matrix_at_every_position(make: Callable[[], LinearOperator]) -> None:
    A = make().double()
    M = A.matrix().detach()
    x, image = torch.randn(3, 4).double(), torch.randn(2, 4, 3, 5).double()
    agree(Linear(A)(x).detach(), x @ M.mT)
    agree(Linear(A, (4, 3, 5))(image).detach(), F.conv2d(image, M[:, :, None, None]))
    agree(Linear(A, (4, 3, 5)).log_abs_det(image).detach(), 15 * torch.linalg.slogdet(M).logabsdet.expand(2))


@every_operator
def test_a_step_of_an_optimiser_makes_no_inverse_stale(make: Callable[[], LinearOperator]) -> None:
    g = Linear(make().double())
    x, back = torch.randn(16, 4).double(), g.inv
    optimiser = torch.optim.Adam(g.parameters(), lr=0.1)
    for _ in range(3):
        before = g(x).detach()
        optimiser.zero_grad()
        # through the inverse and the determinant too
        (g(x).pow(4).mean() + back(x).pow(4).mean() - g.log_abs_det(x).mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())
        optimiser.step()
        assert (g(x) - before).abs().max() > 1e-3
        agree(back(g(x)).detach(), x, float(torch.linalg.cond(g.operator.matrix().detach())))


@every_operator
def test_linear_charts_compile_in_both_directions(make: Callable[[], LinearOperator]) -> None:
    g = Linear(make().double(), (4, 2))
    x = torch.randn(3, 4, 2).double()
    torch.compiler.reset()
    for f in (g, g.inverse, g.log_abs_det):
        agree(torch.compile(f, backend="eager", fullgraph=True)(x).detach(), f(x).detach(), 10)
    agree(torch.func.vmap(g.inverse)(x).detach(), g.inverse(x).detach(), 10)


def graded(n: int, condition: float) -> Tensor:
    """A random matrix with singular values from 1 down to 1 / condition, in float64."""
    Q, P = (torch.linalg.qr(torch.randn(n, n).double())[0] for _ in range(2))
    return (Q * torch.logspace(0, -math.log10(condition), n).double()) @ P


ILL_CONDITIONED: dict[str, Callable[[Tensor], LinearOperator]] = {
    "Dense": Dense,
    "LU": LU.of,
    "product": lambda M: Product(LU.of(M), Dense(graded(len(M), 10))),
    "blocks": lambda M: BlockDiagonal(torch.stack([M, graded(len(M), 10)])),
    "sum": lambda M: Sum(Dense(M), Diagonal(M.diagonal())),
    "rows": lambda M: Dense(M * torch.logspace(0, 3, len(M)).double()[:, None]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", ILL_CONDITIONED.values(), ids=ILL_CONDITIONED)
def test_the_amplification_explains_a_chart_of_any_condition(
    make: Callable[[Tensor], LinearOperator], dtype: torch.dtype
) -> None:
    for n in (1, 2, 4, 16, 64):
        for condition in (1, 1e2, 1e4) if dtype == torch.float32 else (1, 1e2, 1e4, 1e7):
            g = Linear(make(graded(n, condition)).to(dtype))
            x = torch.randn(20, *g.shape, dtype=dtype)
            with torch.no_grad():
                there, back = roundtrip(g, x), roundtrip(g.inv, g(x))
            assert there.ok and back.ok, (n, condition, there, back)
            if n >= 4:
                assert there.predicted <= 300 * there.error and back.predicted <= 300 * back.error, (n, condition, there, back)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_inverse_of_a_matrix_meets_its_coordinates_whatever_the_condition(dtype: torch.dtype) -> None:
    """z - A x is a few roundings of |A| |x|; a product with A^-1 alone leaves eps |A| |A^-1| |z|."""
    eps = torch.finfo(dtype).eps
    for n in (2, 16):
        A = graded(n, 1e-2 / eps).to(dtype)
        z = torch.randn(50, n, dtype=dtype) @ A.mT
        x, plain = Linear(Dense(A)).inverse(z), z @ torch.linalg.inv(A.double()).to(dtype).mT
        gap, missed = ((y.double() @ A.double().mT - z).norm(dim=-1).max() for y in (x, plain))
        least = eps * float((x.double().abs() @ A.double().abs().mT).norm(dim=-1).max())
        assert gap <= 2 * least and missed > 100 * least


def test_a_permutation_is_an_exact_chart() -> None:
    g = Linear(Permutation([2, 0, 1]), (3, 2))
    x = torch.randn(5, 3, 2)
    assert g.moves_entries and not Linear(LU(3)).moves_entries
    assert torch.equal(g(x), x[:, [2, 0, 1]]) and torch.equal(g.inverse(g(x)), x)
    torch.compiler.reset()
    assert torch.equal(torch.compile(g.inverse, backend="eager", fullgraph=True)(x), g.inverse(x))
    assert torch.equal(g.log_abs_det(x), torch.zeros(5))


def test_a_chart_takes_the_dtype_of_its_operator() -> None:
    assert Linear(Diagonal(torch.ones(2).double())).dtype == torch.float64
    assert Linear(Permutation([0])).double().dtype == torch.float64


def test_a_1x1_convolution_is_the_linear_chart_of_its_weight() -> None:
    g = shaken(Conv1x1((3, 2, 4)))
    h = Linear(Dense(g.weight), (3, 2, 4))
    x = torch.randn(5, 3, 2, 4)
    assert list(g.state_dict()) == ["weight"] and h.operator.A is g.weight
    for f, k in ((g, h), (g.inverse, h.inverse), (g.log_abs_det, h.log_abs_det)):
        assert torch.equal(f(x), k(x))
    torch.compiler.reset()
    agree(torch.compile(g, backend="eager", fullgraph=True)(x).detach(), g(x).detach())


def test_the_inverse_of_a_matrix_is_rounded_once() -> None:
    W = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2.0**-20]])
    back = Linear(Dense(W)).inverse(torch.eye(2)).mT
    assert torch.equal(back, torch.linalg.inv(W.double()).float())


def test_linear_charts_run_in_their_own_precision_under_autocast() -> None:
    for g in (Conv1x1((3, 2, 2)), Linear(LU(3), (3, 2, 2))):
        x = torch.randn(4, 3, 2, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = g(x.bfloat16().float())
            assert z.dtype == torch.float32
            agree(g.inverse(z).detach(), x.bfloat16().float(), 10)
