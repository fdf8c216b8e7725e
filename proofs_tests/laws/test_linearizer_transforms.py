"""Linearizers under torch's transforms, compilers and copies, and as modules."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from induced import InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import real_nvp
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, ScaledIdentityPlusLowRank
from proofs_tests.laws.maps import SMALL, endomorphism
from proofs_tests.registry import CONDITION, SQUARE_CORES, agree, shaken


# -------------------------------------------------------------------------------------------------------- torch's transforms
def _core(kind: str) -> LinearOperator:
    generator = torch.Generator().manual_seed(0)
    U, V = torch.randn(2, 4, 1, generator=generator) / 2
    cores = {
        "Dense": Dense(torch.eye(4) + U @ V.mT),
        "Diagonal": Diagonal(torch.tensor([1.0, 2.0, 0.5, -1.0])),
        "LowRank": LowRank(U, V),
        "c I + U V^T": ScaledIdentityPlusLowRank(2.0, U, V),
    }
    return cores[kind]


@pytest.fixture(params=["Dense", "Diagonal", "LowRank", "c I + U V^T"])
def mapping(request: pytest.FixtureRequest) -> Linearizer:
    g = shaken(real_nvp(4, 2, 8))
    return Linearizer(_core(request.param), InducedSpace(g))


def directions(f: Linearizer) -> list[LinearizerOperator]:
    backwards = f.pinv() if isinstance(f.core, LowRank) else f.inv
    return [f, f.H, backwards]


def test_vmap_is_the_batch(mapping: Linearizer) -> None:
    x = torch.randn(5, 4) * SMALL
    for f in directions(mapping):
        agree(torch.func.vmap(f)(x).detach(), f(x).detach(), CONDITION)


def test_jacrev_and_jvp_are_autograd(mapping: Linearizer) -> None:
    x, v = torch.randn(2, 4) * SMALL
    for f in directions(mapping):
        J = torch.autograd.functional.jacobian(f, x)
        agree(torch.func.jacrev(f)(x).detach(), J, CONDITION)
        agree(torch.func.jvp(f, (x,), (v,))[1].detach(), J @ v, CONDITION)
        agree(torch.func.vmap(torch.func.jacrev(f))(x[None])[0].detach(), J, CONDITION)


def test_a_map_compiles_without_breaks(mapping: Linearizer) -> None:
    x = torch.randn(5, 4) * SMALL
    for f in (mapping, mapping.H, mapping.pinv(), mapping.exp(0.5)):
        expected = f(x).detach()
        torch._dynamo.reset()
        agree(torch.compile(f, fullgraph=True, backend="eager")(x).detach(), expected, CONDITION)


def test_a_lazy_inverse_compiles_without_breaks() -> None:
    f = Linearizer(_core("Dense"), InducedSpace(shaken(real_nvp(4, 2, 8)))).inv
    x = torch.randn(5, 4) * SMALL
    expected = f(x).detach()
    torch._dynamo.reset()
    agree(torch.compile(f, fullgraph=True, backend="eager")(x).detach(), expected, CONDITION)


def test_a_map_exports(mapping: Linearizer) -> None:
    x = torch.randn(5, 4) * SMALL
    for f in directions(mapping):
        program = torch.export.export(f, (x,))
        agree(program.module()(x).detach(), f(x).detach(), CONDITION)


def test_vector_algebra_compiles_without_breaks() -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)))
    x, y = torch.randn(2, 5, 3)

    def program(x: Tensor, y: Tensor) -> Tensor:
        return X.combine((0.5, 2.0), (x, y)) + X.segment(x, y, 0.3)

    torch._dynamo.reset()
    agree(torch.compile(program, fullgraph=True, backend="eager")(x, y).detach(), program(x, y).detach(), CONDITION)


# ---------------------------------------------------------------------------------------------------------------- as a module
def test_a_map_follows_its_dtype_and_saves_what_trains() -> None:
    f = Linearizer(Dense(nn.Parameter(torch.eye(3))), InducedSpace(real_nvp(3, 1, 4)))
    assert f.double()(torch.randn(2, 3).double()).dtype == torch.float64
    names = set(dict(f.named_parameters()))
    assert "core.A" in names and names <= set(f.state_dict())


def test_maps_made_of_one_chart_share_its_parameters() -> None:
    g = real_nvp(3, 1, 4)
    X = InducedSpace(g)
    f = Linearizer(torch.eye(3), X)
    together = {id(p) for p in itertools.chain(f.parameters(), (f @ f).parameters(), f.H.parameters())}
    assert together == {id(p) for p in g.parameters()}


def test_the_determinant_of_the_flow_is_the_exponential_of_the_trace() -> None:
    f, _ = endomorphism(SQUARE_CORES[0])
    M = f.core.matrix()
    assert torch.linalg.det(f.exp().core.matrix()).item() == pytest.approx(math.exp(M.trace().item()), rel=1e-12)
