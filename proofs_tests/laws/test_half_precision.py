"""Half precision: operators apply, add and multiply in it; functions of them refuse it by name. Oracle: the same in float64."""

from collections.abc import Callable

import pytest
import torch

import induced.operators as ops
from induced.errors import DtypeError, InducedError
from induced.operators import LinearOperator, krylov
from induced.operators.linalg import Inverse
from induced.operators.spectral import invariant_subspaces
from proofs_tests.registry import SQUARE_CORES, CoreCase

HALVES = (torch.bfloat16, torch.float16)

PRODUCTS: dict[str, Callable[[LinearOperator], LinearOperator]] = {
    "A": lambda A: A,
    "A.H": lambda A: A.H,
    "2 A": lambda A: 2 * A,
    "A + A.H": lambda A: A + A.H,
    "A @ A": lambda A: A @ A,
    "A ** 2": lambda A: A**2,
}
NAMES = ["svd", "pinv", "inverse", "polar", "kernel", "image", "rank", "norm", "cond", "trace", "det", "eigenvalues"]
NAMES += ["singular_values", "slogdet"]
FUNCTIONS: dict[str, Callable[[LinearOperator], object]] = {
    **{name: getattr(ops, name) for name in [*NAMES, "exp", "log", "sqrt"]},
    "invariant_subspaces": invariant_subspaces,
    "A ** -1": lambda A: A**-1,
    "A ** 0.5": lambda A: A**0.5,
    "resolvent": lambda A: ops.resolvent(A, 9.0),
    "exp_multiply": lambda A: ops.exp_multiply(A, torch.ones(A.shape[0]).to(A.matrix().dtype)),
    "solve": lambda A: ops.solve(A, torch.ones(A.shape[0]).to(A.matrix().dtype)),
    "function": lambda A: ops.function(A, torch.sin),
    "truncated_svd": lambda A: krylov.truncated_svd(A, 1),
    "truncated_eigenvalues": lambda A: krylov.truncated_eigenvalues(A, 1),
    "iterative_solve": lambda A: krylov.iterative_solve(A, torch.ones(A.shape[0]).to(A.matrix().dtype)),
    "to_scipy": ops.to_scipy,
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
def test_products_in_half_precision_are_rounded_and_functions_refuse_it(case: CoreCase, dtype: torch.dtype) -> None:
    A = case.make(case.matrix(torch.float32)).to(dtype)
    if isinstance(A, Inverse):  # it is a function of the operator that it holds
        with pytest.raises(DtypeError, match="float32 or float64"):
            A.matrix()
        return
    M, z = A.matrix().double(), torch.randn(3, A.shape[1]).to(dtype)
    oracle = {"A": M, "A.H": M.mT, "2 A": 2 * M, "A + A.H": M + M.mT, "A @ A": M @ M, "A ** 2": M @ M}
    for name, form in PRODUCTS.items():
        found = form(A)(z)
        assert found.dtype == dtype
        size = torch.linalg.matrix_norm(M) ** (2 if name in ("A @ A", "A ** 2") else 1) * z.double().norm()
        assert (found.double() - z.double() @ oracle[name].mT).norm() <= 20 * torch.finfo(dtype).eps * size, name
    for name, function in FUNCTIONS.items():
        with pytest.raises(InducedError, match="float32 or float64"):
            function(A)
            pytest.fail(name)
