"""First derivatives of functions of structured operators are right, second ones right or refused; so under torch.func.

The oracles are central differences of numpy and scipy functions of the dense matrix, along one direction of all parameters.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from induced.errors import DomainError
from induced.operators import Dense, LinearOperator, LowRank, det
from proofs_tests.laws.derivative_cases import (
    FEW,
    FUNCTIONS,
    NUMBER,
    STRUCTURES,
    THOROUGH,
    Leaves,
    along,
    drawn,
    eye,
    first,
    moved,
    named,
    near,
    pairs,
    refused,
    second,
    shifted,
    steps,
    tracking,
)


# ----------------------------------------------------------------------------------------------------- first derivatives
@pytest.mark.parametrize(("which", "name"), named(*pairs()))
def test_first_derivatives_are_those_of_differences(which: str, name: str) -> None:
    structure, f = STRUCTURES[which], FUNCTIONS[name]
    leaves = tracking(structure.leaves)
    value = f.of(structure.make(*leaves))
    assert near(value.detach(), f.oracle(structure.matrix(*structure.leaves).numpy()), 1e-9)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None] * len(leaves)
    assert near(along(gradients, leaves), first(structure, f), 1e-7)


# ---------------------------------------------------------------------------------------------------- second derivatives
def by_grad(f: Callable[..., Tensor], leaves: Leaves) -> Tensor:
    leaves = tracking(leaves)
    value = f(*leaves)
    once = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True) if value.requires_grad else ()
    total = along(once, leaves) if once else value * 0
    return along(torch.autograd.grad(total, leaves, allow_unused=True), leaves) if total.requires_grad else total * 0


def by_backward(f: Callable[..., Tensor], leaves: Leaves) -> Tensor:
    leaves = tracking(leaves)
    value = f(*leaves)
    if not value.requires_grad:
        return value * 0
    value.backward(create_graph=True)
    total = along([leaf.grad for leaf in leaves], leaves)
    for leaf in leaves:
        leaf.grad = None
    if not total.requires_grad:
        return total * 0
    total.backward()
    return along([leaf.grad for leaf in leaves], leaves)


def contracted(rows: Any, leaves: Leaves) -> Tensor:
    """v^T H v of the blocks of H."""
    found = [
        torch.tensordot(torch.tensordot(a, block, dims=a.dim()), b, dims=b.dim())
        for a, row in zip(steps(leaves), rows, strict=True)
        for b, block in zip(steps(leaves), row, strict=True)
    ]
    return sum(found, torch.zeros((), dtype=torch.float64))


def by_hessian(f: Callable[..., Tensor], leaves: Leaves) -> Tensor:
    return contracted(torch.autograd.functional.hessian(f, leaves), leaves)


@pytest.mark.filterwarnings("ignore:Using backward")  # with create_graph=True, which is the point
@pytest.mark.parametrize("differentiate", [by_grad, by_backward, by_hessian])
@pytest.mark.parametrize(("which", "name"), named(*pairs(STRUCTURES if THOROUGH else FEW)))
def test_second_derivatives_are_right_or_refused(
    which: str, name: str, differentiate: Callable[[Callable[..., Tensor], Leaves], Tensor]
) -> None:
    structure, f = STRUCTURES[which], FUNCTIONS[name]
    try:
        found = differentiate(lambda *leaves: f.of(structure.make(*leaves)), structure.leaves)
    except DomainError as error:
        assert (why := refused(which, name)) and str(error).startswith(why)
        return
    assert near(found.detach(), second(structure, f), 1e-5)


MADE: dict[str, Callable[..., LinearOperator]] = {
    "LowRank": lambda c, X, Y: LowRank(X, Y),
    "c I + U V^T": shifted,
    "c I + U U^T": lambda c, X, Y: shifted(c, X, X),
    "Dense": lambda c, X, Y: Dense(c * eye(len(X)) + X @ X.mT + torch.diag(torch.arange(len(X))).double()),
}


@given(st.sampled_from(list(MADE)), st.sampled_from(list(FUNCTIONS)), st.integers(4, 9), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None)
def test_hessians_are_differences_of_gradients(which: str, name: str, n: int, r: int, seed: int) -> None:
    """Where they exist: of operators drawn at random, along two directions."""
    f = FUNCTIONS[name]
    assume(which != "LowRank" or f.applies(STRUCTURES["U V^T"]))
    leaves = (NUMBER, *(drawn(n, r, seed=seed + i) for i in (0, 1)))
    assume(which == "Dense" or 2 * r < n)

    def gradient(*at: Tensor) -> Tensor:
        at = tuple(leaf if leaf.requires_grad else leaf.clone().requires_grad_() for leaf in at)
        value = f.of(MADE[which](*at))
        if not value.requires_grad:
            return value * 0
        return along(torch.autograd.grad(value, at, create_graph=True, allow_unused=True), at)

    leaves = tracking(leaves)
    slope = gradient(*leaves)
    found = torch.autograd.grad(slope, leaves, allow_unused=True) if slope.requires_grad else [None] * 3
    h = 1e-4
    for i, leaf in enumerate(leaves):
        step = drawn(*leaf.shape, seed=31)
        ahead, behind = (
            gradient(*(x.detach() + sign * h * step if j == i else x for j, x in enumerate(leaves))) for sign in (1, -1)
        )
        expected = float((ahead - behind).detach()) / (2 * h)
        assert near(torch.zeros(()) if found[i] is None else (found[i] * step).sum(), expected, 1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("nullity", [1, 2, 3])
def test_the_determinant_of_a_singular_matrix_has_its_minors_for_derivatives(nullity: int) -> None:
    """torch's own gradient is 0 there."""
    M = torch.cat([drawn(5 - nullity, 5), torch.zeros(nullity, 5).double()])
    leaf = M.clone().requires_grad_()
    (found,) = torch.autograd.grad(det(Dense(leaf)), leaf, create_graph=True)
    cofactors = [
        [(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(M.numpy(), i, 0), j, 1)) for j in range(5)] for i in range(5)
    ]
    assert np.allclose(found.detach(), cofactors, atol=1e-14)
    assert (nullity == 1) == bool(found.detach().abs().max() > 1e-8)


# ------------------------------------------------------------------------------------------------------------ torch.func
def every(leaves: Leaves) -> tuple[int, ...]:
    return tuple(range(len(leaves)))


def by_vmap(f: Callable[..., Tensor], leaves: Leaves) -> Tensor:
    """The gradients of two operators at once; that of the first."""
    both = tuple(torch.stack(pair) for pair in zip(leaves, moved(leaves, 0.1), strict=True))
    gradients = torch.func.vmap(torch.func.grad(f, argnums=every(leaves)))(*both)
    return along([gradient[0] for gradient in gradients], leaves)


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], Leaves], Tensor]] = {
    "grad": lambda f, leaves: along(torch.func.grad(f, argnums=every(leaves))(*leaves), leaves),
    "jacrev": lambda f, leaves: along(torch.func.jacrev(f, argnums=every(leaves))(*leaves), leaves),
    "jvp": lambda f, leaves: torch.func.jvp(f, leaves, steps(leaves))[1],
    "vmap": by_vmap,
    "hessian": lambda f, leaves: contracted(torch.func.hessian(f, every(leaves))(*leaves), leaves),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own, for what vmap takes one by one
@pytest.mark.parametrize(
    ("which", "name", "transform"),
    named(*[(*cell, transform) for cell in pairs(STRUCTURES if THOROUGH else FEW) for transform in TRANSFORMS]),
)
def test_under_torch_func_derivatives_are_right_or_nan(which: str, name: str, transform: str) -> None:
    """First ones are right; the second ones that eager mode refuses are nan."""
    structure, f = STRUCTURES[which], FUNCTIONS[name]
    found = TRANSFORMS[transform](lambda *leaves: f.of(structure.make(*leaves)), structure.leaves).detach()
    if transform == "hessian" and refused(which, name) and bool(found.isnan()):
        return
    assert near(found, second(structure, f) if transform == "hessian" else first(structure, f), 1e-5)
