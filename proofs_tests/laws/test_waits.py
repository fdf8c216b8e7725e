"""How often the library makes the host wait for a device, and copies between them, counted on the stand-in."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections import Conv1x1, Flatten, LatticeCoupling, RandomSplit, glow, real_nvp
from induced.bijections.networks import MLP
from induced.errors import DomainError, DtypeError
from induced.operators import Dense, Projection, exp
from induced.precision import full_precision
from induced.propagators import LowRankFamily, SharedBasisFamily, integrate, propagator
from proofs_tests.device import Mismatch, StandIn
from proofs_tests.registry import agree, conditional, initialized, shaken

Counts = tuple[int, int, int]
"""Waits, copies to the host, copies to the device."""


def images(gpu: StandIn) -> tuple[InducedSpace, Tensor]:
    """The space of a chart with 1x1 convolutions, whose inverses once read an error code each."""
    chart = shaken(initialized(glow((2, 4, 4), 2, 4)), 0.05).requires_grad_(False)
    return InducedSpace(chart).to(gpu.device), torch.randn(3, 2, 4, 4).to(gpu.device)


def counted(gpu: StandIn, action: Callable[[], object]) -> Counts:
    with gpu.recording() as log:
        action()
    return log.counts()


def test_points_cost_one_wait_a_door(gpu: StandIn) -> None:
    X, x = images(gpu)
    f = Linearizer(Dense(torch.randn(32, 32)).to(gpu.device), X)
    z = X.coords(x)
    assert counted(gpu, lambda: X.coords(x)) == (1, 0, 0)
    assert counted(gpu, lambda: X.point(z)) == (1, 0, 0)
    assert counted(gpu, lambda: f(x)) == (2, 0, 0)
    assert counted(gpu, lambda: X.add(x, x)) == (3, 0, 0)
    assert counted(gpu, lambda: X.combine((0.5, -0.5), (x, x))) == (2, 0, 0)
    with full_precision():
        assert counted(gpu, lambda: X.chart(x)) == (0, 0, 0)


def test_a_chart_of_a_number_is_made_without_a_copy(gpu: StandIn) -> None:
    g = conditional(real_nvp(4, 2, 8, context=1)).to(gpu.device)
    x = torch.randn(3, 4).to(gpu.device)
    assert counted(gpu, lambda: g.at(0.5)(x)) == (0, 0, 0)


@pytest.mark.parametrize("family", [LowRankFamily, SharedBasisFamily])
def test_a_collapse_waits_less_than_once_in_ten_steps(family: type[LowRankFamily | SharedBasisFamily], gpu: StandIn) -> None:
    F = family(64, 2, 8, rest_std=0.1).requires_grad_(False).to(gpu.device)
    z = torch.randn(3, 64).to(gpu.device)
    waits, to_host, to_device = counted(gpu, lambda: propagator(F, steps=100))
    assert waits <= 9 and to_host == 0 and to_device <= 2
    assert counted(gpu, lambda: integrate(F, z, steps=100)) == (0, 0, 0)


def test_a_lattice_waits_once_a_coupling(gpu: StandIn) -> None:
    couplings = [LatticeCoupling((4, 2, 2), _net(), flip=flip, bits=12) for flip in (False, True)]
    chart = Flatten((4, 2, 2)) @ couplings[1] @ couplings[0] @ RandomSplit((1, 4, 4))
    f = Linearizer(Projection(torch.ones(16)), InducedSpace(chart)).requires_grad_(False).to(gpu.device)
    x = torch.rand(2, 1, 4, 4).to(gpu.device)
    assert counted(gpu, lambda: f(x)) == (2 + 2 * len(couplings), 0, 0)


def _net() -> torch.nn.Module:
    return torch.nn.Conv2d(2, 2, 3, padding=1)


# ------------------------------------------------------------------------------------------------------------ the errors
def test_a_singular_matrix_is_an_error_without_reading_its_code(gpu: StandIn) -> None:
    chart = Conv1x1((2, 3, 3))
    with torch.no_grad():
        chart.weight.copy_(torch.ones(2, 2))
    X = InducedSpace(chart.to(gpu.device))
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(DomainError, match="nan"):
            X.to(dtype).point(torch.randn(4, 18, dtype=dtype).to(gpu.device))


def test_a_value_outside_the_lattice_is_an_error_at_either_end(gpu: StandIn) -> None:
    g = LatticeCoupling((2,), MLP(1, 1, 4), bits=12).to(gpu.device)
    with pytest.raises(DomainError, match="value of size 5000"):
        g(torch.tensor([0.0, 5000.0]).to(gpu.device))
    with pytest.raises(DomainError, match="value of size nan"):
        g.inverse(torch.tensor([float("nan"), 0.0]).to(gpu.device))


# ---------------------------------------------------------------------------------------------------------- the stand-in
def test_the_stand_in_sees_waits_and_copies(gpu: StandIn) -> None:
    x = torch.eye(3).to(gpu.device)
    assert counted(gpu, lambda: x.sum().item()) == (1, 0, 0)
    assert counted(gpu, lambda: bool((x > 0).all())) == (1, 0, 0)
    assert counted(gpu, lambda: x[x > 0]) == (1, 0, 0)
    assert counted(gpu, lambda: torch.linalg.inv(x)) == (1, 0, 0)
    assert counted(gpu, lambda: torch.linalg.inv_ex(x)) == (0, 0, 0)
    assert counted(gpu, x.tolist) == (0, 1, 0)
    assert counted(gpu, x.cpu) == (0, 1, 0)
    assert counted(gpu, lambda: torch.tensor([1.0], device=gpu.device)) == (0, 0, 1)
    assert counted(gpu, lambda: x[[0, 1]]) == (0, 0, 1)
    assert counted(gpu, lambda: (x + 1).mul(2).softmax(-1)) == (0, 0, 0)
    with gpu.recording() as log:
        x.cpu()
    assert log.events[0].size == 36 and log.events[0].where.startswith("proofs_tests/laws/test_waits.py")
    assert "to host" in str(log)


def test_the_stand_in_refuses_what_cuda_refuses(gpu: StandIn) -> None:
    x = torch.eye(3).to(gpu.device)
    with pytest.raises(Mismatch, match="same device"):
        x + torch.ones(3)
    with pytest.raises(Mismatch, match="same device"):
        torch.stack([x[0, 0], torch.ones(())])
    with pytest.raises(Mismatch, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=gpu.device)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert (x + torch.ones(())).device == gpu.device, "a number of the CPU may stand beside a tensor"


def test_a_stand_in_without_float64_refuses_it() -> None:
    with StandIn(float64=False) as gpu:
        x = torch.ones(2).to(gpu.device)
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64, device=gpu.device)


def test_without_float64_a_chart_works_and_what_needs_it_is_one_error() -> None:
    g = real_nvp(3, 2, 8).requires_grad_(False)
    x, A = torch.randn(2, 3), Dense(torch.randn(3, 3))
    expected = InducedSpace(g).add(x, x), A(x)
    with StandIn(float64=False) as gpu:
        X, there, B = InducedSpace(copy.deepcopy(g)).to(gpu.device), x.to(gpu.device), A.to(gpu.device)
        agree(X.add(there, there).cpu(), expected[0])
        agree(B(there).cpu(), expected[1])
        C = Conv1x1((2, 3, 3)).requires_grad_(False).to(gpu.device)
        lattice = LatticeCoupling((2,), MLP(1, 1, 4), bits=12).to(gpu.device)
        calls: list[Callable[[], object]] = [
            lambda: exp(B),
            lambda: InducedSpace(C).point(torch.randn(2, 18).to(gpu.device)),
            lambda: InducedSpace(lattice).coords(torch.zeros(2).to(gpu.device)),
        ]
        for call in calls:
            with pytest.raises(DtypeError, match="no float64.*on the CPU"):
                call()


# ------------------------------------------------------------------------------------------------- parts that moved since
def test_a_chart_at_a_context_follows_its_parent_to_a_device(gpu: StandIn) -> None:
    g, x = conditional(shaken(real_nvp(4, 2, 8, context=1))).requires_grad_(False), torch.randn(3, 4)
    chart = g.at(0.5)
    expected = chart(x)
    g.to(gpu.device)
    with full_precision():
        agree(chart(x.to(gpu.device)).cpu(), expected)


def test_what_was_made_of_a_map_before_it_moved_says_that_it_stayed(gpu: StandIn) -> None:
    f, x = Linearizer(Dense(torch.randn(4, 4)), InducedSpace(real_nvp(4, 2, 8))).requires_grad_(False), torch.randn(3, 4)
    p = f.pinv()
    expected = p(x)
    f.to(gpu.device)
    with pytest.raises(DtypeError, match="on cpu and takes.*on gpu:0: convert or move one .*made of a map before"):
        p(x.to(gpu.device))
    agree(p.to(gpu.device)(x.to(gpu.device)).cpu(), expected, 100)
