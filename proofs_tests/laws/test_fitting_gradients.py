"""Derivatives of a fitted core, and fits under torch's transforms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace
from induced.errors import DomainError
from induced.fitting import LeastSquares, least_squares
from induced.operators import LowRank
from proofs_tests.laws.fitted import R3, R5, curved, pairs
from proofs_tests.registry import agree

DOUBLE = torch.float64


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_gradients_reach_the_chart_and_are_right(rank: int | None) -> None:
    X, (x, y) = curved(3), pairs(10, 3, 3)
    probe = torch.randn(3, dtype=DOUBLE)
    parameter = next(X.parameters())

    def value() -> Tensor:
        return least_squares(X, X, x, y, rank=rank)(probe).sum()

    (gradient,) = torch.autograd.grad(value(), parameter)
    direction = torch.randn_like(parameter)
    with torch.no_grad():
        h, values = 1e-5, []
        for step in (h, -2 * h):
            parameter.add_(step * direction)
            values.append(float(value()))
    numeric = torch.tensor((values[0] - values[1]) / (2 * h), dtype=DOUBLE)
    assert abs(numeric) > 1e-6
    assert abs((gradient * direction).sum() - numeric) <= 1e-6 * max(1.0, float(abs(numeric)))  # h^2 and eps / h are below 1e-9


@pytest.mark.parametrize("count", [7, 2])
@pytest.mark.parametrize(
    "case", ["plain", "pairs", "a number", "coordinates", "entries", "blocks", "rank 1", "rank 2 and a ridge", "rank and blocks"]
)
def test_first_and_second_derivatives_are_right(case: str, count: int) -> None:
    x, y = pairs(count, 3, 3)
    A_0, w, p = torch.randn(3, 3, dtype=DOUBLE), torch.rand(count, 3, dtype=DOUBLE) + 0.2, torch.rand(3, 3, dtype=DOUBLE) + 0.2
    X, blocks = EuclideanSpace(3), [(1, 2), (2, 1)]

    def core(x: Tensor, y: Tensor, A_0: Tensor, w: Tensor, p: Tensor) -> Tensor:
        keywords: dict[str, dict[str, Any]] = {
            "plain": {},
            "pairs": {"weights": w[:, 0], "ridge": torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE), "prior": A_0},
            "a number": {"ridge": p[0, 0], "prior": A_0, "weights": w[:, 0]},
            "coordinates": {"ridge": p[0], "prior": A_0, "weights": w[:, 0]},
            "entries": {"ridge": p, "prior": A_0, "weights": w},
            "blocks": {"ridge": p, "prior": A_0, "weights": w, "blocks": blocks},
            "rank 1": {"rank": 1},
            "rank 2 and a ridge": {"rank": 2, "ridge": p[0], "prior": A_0, "weights": w[:, 0]},
            "rank and blocks": {"rank": 1, "ridge": p[0], "prior": A_0, "blocks": blocks},
        }
        return least_squares(X, X, x, y, **keywords[case]).core.matrix()

    inputs = [t.requires_grad_() for t in (x, y, A_0, w, p)]
    assert torch.autograd.gradcheck(core, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(core, inputs, fast_mode=True)


@pytest.mark.parametrize("rank", [None, 1])
def test_derivatives_have_every_order_in_both_modes(rank: int | None) -> None:
    x, y = pairs(9, 3, 3)

    def value(s: Tensor) -> Tensor:
        return least_squares(R3, R3, x * s, y.sin() + s**2, rank=rank, ridge=0.2).core.matrix().square().sum()

    s = torch.tensor([1.1, 0.9, 1.2], dtype=DOUBLE)
    reverse, forward, both = torch.func.jacrev, torch.func.jacfwd, torch.func.hessian

    def differences(f: Callable[[Tensor], Tensor], h: float = 1e-4) -> Tensor:
        return torch.stack([(f(s + h * e) - f(s - h * e)) / (2 * h) for e in torch.eye(3, dtype=DOUBLE)], -1)

    gradient, hessian = reverse(value)(s), both(value)(s)
    agree(forward(value)(s), gradient, 1e3)
    for of_second_order in (torch.autograd.functional.hessian(value, s), reverse(forward(value))(s), reverse(reverse(value))(s)):
        agree(of_second_order, hessian, 1e3)
    for exact, numeric in ((hessian, differences(reverse(value))), (reverse(both(value))(s), differences(both(value)))):
        assert (exact - numeric).abs().max() < 1e-6 * exact.abs().max()
    with pytest.raises(DomainError, match="forward mode within forward mode"):
        forward(forward(value))(s)


def test_many_problems_are_solved_under_vmap() -> None:
    x, y, w = torch.randn(4, 9, 3).double(), torch.randn(4, 9, 5).double(), torch.rand(4, 9, 5).double()
    for keywords in ({}, {"ridge": torch.tensor([0.0, 1.0, 2.0])}, {"ridge": 0.1, "blocks": [(2, 1), (3, 2)]}, {"rank": 2}):

        def core(x: Tensor, y: Tensor, w: Tensor, keywords: dict[str, Any] = keywords) -> Tensor:
            weights = w[..., 0] if "rank" in keywords else w
            return least_squares(R3, R5, x, y, weights=weights, **keywords).core.matrix()

        agree(torch.func.vmap(core)(x, y, w), torch.stack([core(*each) for each in zip(x, y, w, strict=True)]), 100)


def test_autocast_changes_no_bit() -> None:
    x, y = torch.randn(200, 3), torch.randn(200, 5)
    weights, blocks = torch.rand(200, 5), [(2, 1), (3, 2)]
    kinds: list[dict[str, Any]] = [{}, {"ridge": 0.1, "prior": LowRank(torch.randn(5, 2), torch.randn(3, 2))}, {"rank": 2}]
    kinds += [{"weights": weights, "ridge": torch.rand(5, 3)}, {"blocks": blocks, "rank": 2}]
    for keywords in kinds:
        expected = least_squares(R3, R5, x, y, **keywords).core.matrix()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = least_squares(R3, R5, x, y, **keywords).core
            problem = LeastSquares(R3, R5)
            problem.update(x, y, weights=keywords.pop("weights", None))
            streamed = problem.solve(**keywords).core
            half = least_squares(R3, R5, x.bfloat16(), y.bfloat16()).core
        assert torch.equal(found.matrix(), expected) and torch.equal(streamed.matrix(), expected)
        assert half.matrix().dtype == torch.float32


def test_gradients_stay_finite_where_the_data_have_less_rank_than_allowed() -> None:
    X, x = curved(3), torch.randn(1, 3, dtype=DOUBLE)
    least_squares(X, X, x.repeat(4, 1), x.repeat(4, 1), rank=2).core.matrix().sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in X.parameters())
