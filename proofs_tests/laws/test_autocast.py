"""Under autocast linear algebra keeps the precision of its tensors: every function gives the bits that it gives outside."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedError, InducedSpace, Linearizer, Subspace
from induced.bijections import AffineCoupling, PositiveDefinite, real_nvp
from induced.bijections.networks import MLP
from induced.operators import (
    Dense,
    LinearOperator,
    LowRank,
    cond,
    det,
    eigenvalues,
    exp,
    image,
    inverse,
    kernel,
    log,
    norm,
    pinv,
    polar,
    power,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    trace,
)
from induced.propagators import LowRankFamily, integrate, propagator
from induced.subspaces import principal_components
from proofs_tests.registry import CORES, CoreCase

FUNCTIONS: dict[str, Callable[[LinearOperator], object]] = {
    "A @ A.H": lambda A: A @ A.H,
    "A + A A* A": lambda A: A + A @ A.H @ A,
    "A ** 5": lambda A: A**5,
    "A.H": lambda A: A.H,
    "cond": cond,
    "det": det,
    "eigenvalues": eigenvalues,
    "exp": exp,
    "image": image,
    "inverse": inverse,
    "kernel": kernel,
    "log": lambda A: log(A.H @ A + exp(A - A)),
    "norm": norm,
    "pinv": pinv,
    "polar": polar,
    "power": lambda A: power(A, -3),
    "resolvent": lambda A: resolvent(A, 7.5),
    "singular_values": lambda A: singular_values(A).values,
    "slogdet": slogdet,
    "solve": lambda A: solve(A, torch.linspace(0.3, 1, A.shape[0])),
    "sqrt": lambda A: sqrt(A.H @ A + exp(A - A)),
    "svd": svd,
    "trace": trace,
}


def tensors(value: object) -> Iterator[Tensor]:
    """What a result is, in tensors: an operator is its matrix."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, LinearOperator):
        yield value.matrix()
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors(part)


def outcome(compute: Callable[[], object]) -> list[Tensor] | type[Exception]:
    try:
        return [tensor.detach() for tensor in tensors(compute())]
    except InducedError as error:
        return type(error)


def same(compute: Callable[[], object], what: str = "") -> None:
    expected = outcome(compute)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(compute)
    if isinstance(expected, type) or isinstance(found, type):
        assert found == expected, what
        return
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype, what
        assert torch.equal(one, other), f"{what}: {float((one - other).abs().max())}"


@pytest.mark.parametrize("case", CORES, ids=str)
def test_functions_of_operators_do_not_see_autocast(case: CoreCase) -> None:
    A = case.make(case.matrix(torch.float32))
    for name, function in FUNCTIONS.items():
        same(lambda function=function: function(A), name)  # type: ignore[misc]


def test_a_product_of_matrices_does() -> None:
    A = torch.randn(6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert (A @ A).dtype == torch.bfloat16
        assert (Dense(A) @ Dense(A)).matrix().dtype == torch.float32


def test_compression_and_propagators() -> None:
    same(lambda: LowRank(torch.ones(5, 3), torch.ones(4, 3)).compressed())
    family, z = LowRankFamily(6, 2), torch.randn(3, 6)
    family.hidden.requires_grad_(False)
    for method in ("euler", "midpoint", "rk4", "magnus4"):
        same(lambda method=method: propagator(family, steps=3, method=method))  # type: ignore[misc]
        same(lambda method=method: integrate(family, z, steps=3, method=method))  # type: ignore[misc]


def test_geometry_of_spaces() -> None:
    """Where the chart has no network its points and products keep their bits; half-precision points are taken in float32."""
    E, x = EuclideanSpace(6), torch.randn(4, 6)
    P, S = InducedSpace(PositiveDefinite(3)), 2 * torch.eye(3) + 0.3 * torch.ones(3, 3)
    for compute in (
        lambda: E.gram(x),
        lambda: E.orthonormalize(x),
        lambda: E.metric(x),
        lambda: P.coords(S),
        lambda: P.point(P.coords(S)),
        lambda: P.add(S, S),
        lambda: P.chart.log_abs_det(S),
    ):
        same(compute)
    with torch.autocast("cpu", torch.bfloat16):
        assert E.gram(x.bfloat16()).dtype == torch.float32


def test_subspaces_and_components() -> None:
    E, x = EuclideanSpace(8), torch.randn(3, 8)
    W, V = Subspace.span(E, x), Subspace.span(E, torch.randn(4, 8))
    components = principal_components(E, torch.randn(20, 8), 2)
    for compute in (
        lambda: Subspace.span(E, x).Q,
        lambda: W.coords(x),
        lambda: W.project(x),
        lambda: W.residual(x),
        lambda: W.contains(x),
        lambda: W.projector(),
        lambda: W.complement().Q,
        lambda: W.angles(V),
        lambda: (W + V).Q,
        lambda: (W.complement() & V).Q,
        lambda: components.coords(x),
        lambda: components.point(components.coords(x)),
        lambda: principal_components(E, x, 1).subspace.Q,
    ):
        same(compute)


def test_the_networks_of_a_chart_still_run_in_the_lower_precision() -> None:
    seen: list[torch.dtype] = []
    net = MLP(2, 4, 8)
    net.last.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    X = InducedSpace(AffineCoupling((4,), net))
    with torch.autocast("cpu", torch.bfloat16):
        X.norm(torch.randn(3, 4))
    assert seen == [torch.bfloat16]


def test_algebra_of_maps() -> None:
    X = InducedSpace(real_nvp(4))
    f = Linearizer(torch.eye(4) + 0.1 * torch.randn(4, 4), X)
    for compute in (
        lambda: (f @ f).core,
        lambda: (f + f.H).core,
        lambda: f.pinv().core,
        lambda: f.exp().core,
        lambda: (f**3).core,
        lambda: f.svd().values,
    ):
        same(compute)
