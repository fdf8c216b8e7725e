"""Products of spaces: a Hilbert space whose operations are those of its factors."""

import torch

from induced import EuclideanSpace, HilbertSpace, InducedSpace, ProductSpace
from induced.bijections import Affine, Sinh
from induced.checks import check_space, require
from proofs_tests.laws.charted import flow
from proofs_tests.registry import agree


def product() -> ProductSpace:
    return ProductSpace(flow(3), EuclideanSpace((2, 2)), InducedSpace(Sinh(())))


def test_a_product_is_a_hilbert_space() -> None:
    X = product()
    assert (X.shape, X.dim) == ((8,), 8)
    with torch.no_grad():
        require(check_space(X, torch.randn(5, 8).double()))


def test_operations_of_a_product_are_those_of_its_factors() -> None:
    X = product()
    x, y = torch.randn(4, 8).double(), torch.randn(4, 8).double()
    assert [p.shape for p in X.split(x)] == [(4, 3), (4, 2, 2), (4,)]
    agree(X.join(*X.split(x)), x)
    factors = [F for F in X.factors if isinstance(F, HilbertSpace)]
    parts = [F.add(a, b) for F, a, b in zip(factors, X.split(x), X.split(y), strict=True)]
    agree(X.add(x, y), X.join(*parts))
    inner = (F.inner(a, b) for F, a, b in zip(factors, X.split(x), X.split(y), strict=True))
    agree(X.inner(x, y), sum(inner, torch.zeros(()).double()))


def test_products_of_equal_factors_are_equal() -> None:
    F, E = flow(2), EuclideanSpace(2)
    assert ProductSpace(F, E) == ProductSpace(F, EuclideanSpace(2))
    assert hash(ProductSpace(F, E)) == hash(ProductSpace(F, E))
    assert ProductSpace(F, E) != ProductSpace(E, F)
    assert repr(ProductSpace(E, E)) == "ProductSpace(EuclideanSpace((2,)), EuclideanSpace((2,)))"


def test_the_rounding_of_a_product_sees_each_factor() -> None:
    bad = InducedSpace(Affine((1,), shift=-1e6) @ Affine((1,), shift=1e6))
    x = torch.ones(3, 2).double()
    assert ProductSpace(EuclideanSpace(1), bad).point_roundings(x).min() > 1e5
    assert ProductSpace(EuclideanSpace(1), bad).roundings(x, torch.tensor([[1.0, 0.0]]).double()).max() < 10
