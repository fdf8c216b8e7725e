"""Every chart, space, core, map and propagator on another device: the answers of the CPU, and no tensor that stays behind.

`--device cuda` runs these on a GPU; without it they run on a stand-in that refuses what CUDA refuses (proofs_tests/device.py).
"""

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.errors import InducedError
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, integrate, propagator
from induced.propagators.adaptive import adaptive_grid
from induced.propagators.propagate import METHODS, Stepwise
from proofs_tests.laws import asked
from proofs_tests.registry import CHARTS, CORES, ChartCase, CoreCase, agree

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
CONDITION = 1e5
"""The stand-in computes as the CPU does; on CUDA answers differ by the rounding of inverses and functions of matrices."""


def compare(device: torch.device, questions: Mapping[str, Callable[..., Any]], *given: Any) -> None:
    """Ask of the objects and of copies on the device; every tensor of an answer is there, and holds the CPU's numbers."""
    there = [copy.deepcopy(thing).to(device) for thing in given]
    failures = []
    for name, question in questions.items():
        try:
            _compare(device, partial(question, *there), partial(question, *given))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not failures, "\n".join(failures)


def _compare(device: torch.device, on_device: Callable[[], Any], on_cpu: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    try:
        expected = on_cpu()
    except InducedError as error:
        with pytest.raises(type(error)):
            on_device()
        return
    torch.manual_seed(1)
    pairs = zip(asked.tensors(on_device()), asked.tensors(expected), strict=True)
    for came, right in pairs:
        assert came.device.type == device.type, f"a result stayed on {came.device}"
        came, right = came.detach().cpu(), right.detach()
        if not right.is_floating_point():
            assert torch.equal(came, right)
            continue
        finite = right.isfinite()
        assert torch.equal(came.isfinite(), finite)
        agree(came[finite], right[finite], CONDITION)


@pytest.mark.fast
@pytest.mark.parametrize("case", CHARTS, ids=str)
def test_a_chart_and_its_space_give_the_same_on_a_device(case: ChartCase, device: torch.device) -> None:
    g = case.make()
    x = case.points(g, (3,))
    z = g(x).detach()
    compare(device, asked.CHART | (asked.CHART_TOO if THOROUGH else {}), g, x, z)
    X = InducedSpace(g.requires_grad_(False))
    compare(device, asked.SPACE | (asked.SPACE_TOO if THOROUGH else {}), X, x, z.reshape(len(z), -1))


@pytest.mark.fast
@pytest.mark.parametrize("case", CORES, ids=str)
def test_a_core_and_its_map_give_the_same_on_a_device(case: CoreCase, device: torch.device) -> None:
    M = case.matrix()
    A, (m, n) = case.make(M), M.shape
    z, w = torch.randn(2, n).double(), torch.randn(2, m).double()
    compare(device, asked.CORE | (asked.CORE_TOO if THOROUGH else {}), A, z, w)
    if m == n:
        compare(device, asked.SQUARE | (asked.SQUARE_TOO if THOROUGH else {}), A, z, w)
    f = Linearizer(A, EuclideanSpace(n), EuclideanSpace(m))
    questions = asked.MAP | (asked.MAP_TOO if THOROUGH else {})
    if m != n or not case.invertible:
        questions = {name: question for name, question in questions.items() if name not in asked.OF_ONE_SPACE}
    compare(device, questions, f, z, w)


FAMILIES = {
    "U V^T": lambda: LowRankFamily(9, 2, 8),
    "c I + U V^T": lambda: LowRankFamily(9, 2, 8, rest_std=0.1),
    "one basis": lambda: SharedBasisFamily(9, 2, 8),
    "c I in one basis": lambda: SharedBasisFamily(9, 2, 8, rest_std=0.1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_propagators_give_the_same_on_a_device(name: str, method: str, device: torch.device) -> None:
    def collapsed(F: OperatorFamily, z: Tensor) -> Any:
        return propagator(F, steps=17, method=method), integrate(F, z, steps=3, method=method)

    def stepwise(F: OperatorFamily, z: Tensor) -> Any:
        B = Stepwise(F, steps=3, method=method)
        return B(z), B.apply_adjoint(z), propagator(F, steps=3, method=method, states=1)(z)

    def adaptive(F: OperatorFamily, z: Tensor) -> Any:
        return list(adaptive_grid(F, tolerance=1e-2, method=method).times)

    questions = {"propagator": collapsed, "stepwise": stepwise} | ({"adaptive": adaptive} if THOROUGH else {})
    with torch.no_grad():
        compare(device, questions, FAMILIES[name](), torch.randn(2, 9))
