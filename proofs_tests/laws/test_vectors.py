"""Vectors do the algebra of their space, and decode as late as they may."""

import math

import pytest
import torch

from induced import EuclideanSpace, InducedSpace, Vector
from induced.bijections import Log, real_nvp
from proofs_tests.laws.counted import Counting
from proofs_tests.registry import agree, shaken


# ----------------------------------------------------------------------------------------------------------------------- cost
def test_a_sum_of_vectors_encodes_each_leaf_once_and_decodes_once() -> None:
    g = Counting((2,))
    X = InducedSpace(g)
    vectors = [X(torch.ones(2) * k) for k in range(10)]
    assert g.calls() == (0, 0)
    total = vectors[0]
    for k, v in enumerate(vectors[1:], start=1):
        total = total + k * v
    total = total - vectors[3] / 2 + -vectors[4]
    assert torch.equal(total.point, torch.full((2,), 285.0 - 1.5 - 4.0))
    assert torch.equal(total.point, total.point)
    assert g.calls() == (10, 1)
    assert (total @ vectors[2]).item() == 4 * 2 * 2 * 279.5
    assert g.calls() == (0, 0)


def test_a_leaf_is_not_decoded_again() -> None:
    g = Counting((2,))
    x = torch.ones(2)
    v = InducedSpace(g)(x)
    assert v.point is x
    assert v.norm().item() == pytest.approx(math.sqrt(8))
    assert g.calls() == (1, 0)


# --------------------------------------------------------------------------------------------------------------------- Vector
def test_vectors_do_the_algebra_of_their_space() -> None:
    X = InducedSpace(Log((2,)))
    x, y = torch.tensor([2.0, 3.0]).double(), torch.tensor([5.0, 0.5]).double()
    u, v = X(x), X(y)
    agree((u + v).point, x * y)
    agree((u - v).point, x / y)
    agree((-u).point, 1 / x)
    agree((2 * u).point, x**2)
    agree((u * torch.tensor(2.0)).point, x**2)
    agree((torch.tensor(2.0) * u).point, x**2)
    agree((u / 2).point, x.sqrt())
    agree(u @ v, (x.log() * y.log()).sum())
    agree(u.norm(), x.log().norm())
    assert "Log" in repr(u) and "batch=()" in repr(u)
    assert "batch=(4,)" in repr(X(torch.ones(4, 2)))


def test_a_vector_is_immutable() -> None:
    v = EuclideanSpace(2)(torch.ones(2))
    for name in ("space", "_point", "_coords", "anything"):
        with pytest.raises(TypeError, match="a Vector is immutable; make a new one"):
            setattr(v, name, torch.zeros(2))
    total = v
    total += v
    assert total is not v and torch.equal(v.point, torch.ones(2))


def test_a_vector_takes_no_part_in_arithmetic_with_strangers() -> None:
    v = EuclideanSpace(2)(torch.ones(2))
    for operation in (lambda: v + 1, lambda: v - "x", lambda: v @ 2, lambda: v * v, lambda: v / v, lambda: 1 + v):
        with pytest.raises(TypeError, match="unsupported operand"):
            operation()


def test_gradients_reach_the_points_and_the_chart() -> None:
    g = shaken(real_nvp(3, 2, 4))
    X = InducedSpace(g)
    x = torch.randn(5, 3, requires_grad=True)
    X.norm(X.combine((0.5, 2.0), (x, x.flip(0)))).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())


def test_a_vector_from_coordinates_decodes_to_its_point() -> None:
    X = InducedSpace(Log((2,)))
    assert torch.equal(Vector(X, coords=torch.zeros(2)).point, torch.ones(2))
