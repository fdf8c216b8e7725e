"""Operators cross to scipy and back, and foreign operators obey the laws of ours. The oracle is the matrix they are made of."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, Linearizer, check
from induced.bijections import glow, real_nvp
from induced.errors import DomainError, MissingAdjoint
from induced.operators import Dense, LinearOperator, Permutation, Selection, as_operator, to_scipy
from induced.operators.interop import ForeignOperator
from induced.propagators import LowRankFamily, propagator
from proofs_tests.registry import CORES, DTYPES, CoreCase, agree


class Duck:
    """A product column by column, and no more: no dtype, no matmat."""

    def __init__(self, M: np.ndarray) -> None:
        self.M, self.shape = M, M.shape

    def matvec(self, x: np.ndarray) -> np.ndarray:
        return self.M @ x

    def rmatvec(self, y: np.ndarray) -> np.ndarray:
        return self.M.T @ y


class Transposable:
    """A product by `@`, whose transpose is `.T`."""

    def __init__(self, M: np.ndarray) -> None:
        self.M, self.shape, self.dtype = M, M.shape, M.dtype

    def __matmul__(self, X: np.ndarray) -> np.ndarray:
        return self.M @ X

    @property
    def T(self) -> "Transposable":
        return Transposable(self.M.T)


class Vectors(Transposable):
    """A product by `@` of vectors alone: of columns it makes something else."""

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return (self.M * x).sum(-1)

    @property
    def T(self) -> "Vectors":
        return Vectors(self.M.T)


def of_vectors(M: np.ndarray) -> scipy.sparse.linalg.LinearOperator:
    """scipy's operator of products that take vectors alone."""
    return scipy.sparse.linalg.LinearOperator(
        M.shape, matvec=lambda x: (M * x).sum(-1), rmatvec=lambda y: (M.T * y).sum(-1), dtype=M.dtype
    )


def compressed(M: np.ndarray, layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: these layouts are in beta
        return torch.from_numpy(M).to_sparse(layout=layout, blocksize=(1, 1) if layout is torch.sparse_bsc else None)


FOREIGN: dict[str, Callable[[np.ndarray], object]] = {
    "scipy LinearOperator": scipy.sparse.linalg.aslinearoperator,
    "scipy with no matmat": lambda M: scipy.sparse.linalg.LinearOperator(
        M.shape, matvec=lambda x: M @ x, rmatvec=lambda y: M.T @ y, dtype=M.dtype
    ),
    "scipy product": lambda M: of_vectors(M) @ of_vectors(np.eye(M.shape[1], dtype=M.dtype)),
    "scipy sum": lambda M: of_vectors(M / 2) + of_vectors(M / 2),
    "scipy adjoint": lambda M: of_vectors(M.T).H,
    "scipy sparse array": scipy.sparse.csr_array,
    "scipy sparse matrix": scipy.sparse.coo_matrix,
    "pylops": lambda M: pytest.importorskip("pylops").MatrixMult(M, dtype=M.dtype),
    "CoLA": lambda M: pytest.importorskip("cola").ops.Dense(torch.from_numpy(M)),
    "linear_operator": lambda M: pytest.importorskip("linear_operator").to_linear_operator(torch.from_numpy(M)),
    "matvec and rmatvec alone": Duck,
    "@ and .T alone": Transposable,
    "@ of vectors alone": Vectors,
    "torch COO": lambda M: torch.from_numpy(M).to_sparse(),
    "torch CSR": lambda M: compressed(M, torch.sparse_csr),
    "torch BSC": lambda M: compressed(M, torch.sparse_bsc),
    "numpy": lambda M: M,
    "tensor": torch.from_numpy,
}

foreign = pytest.mark.parametrize("name", FOREIGN)


def drawn(m: int = 5, n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, n).to(dtype)


def wrapped(name: str, M: Tensor) -> LinearOperator:
    return as_operator(FOREIGN[name](M.numpy()), like=M if name == "matvec and rmatvec alone" else None)


@foreign
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (0,), (3, 2)], ids=str)
def test_a_foreign_operator_is_its_matrix(name: str, dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    M = drawn(dtype=dtype)
    A = wrapped(name, M)
    z, w = torch.randn(*batch, 4).to(dtype), torch.randn(*batch, 5).to(dtype)
    assert A.shape == (5, 4)
    agree(A(z), z @ M.mT)
    agree(A.apply_adjoint(w), w @ M)
    agree(A.H(w), w @ M)
    agree(A.matrix(), M)


@foreign
def test_gradients_of_every_order_pass_through_a_foreign_operator(name: str) -> None:
    M = drawn()
    A = wrapped(name, M)
    z = torch.randn(2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(A, z, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(A, z)
    agree(torch.func.jacrev(A)(z[0].detach()), M)
    agree(torch.func.jacfwd(A)(z[0].detach()), M)
    agree(torch.vmap(A, in_dims=1)(z.detach().mT), z.detach() @ M.mT)

    def square(x: Tensor) -> Tensor:
        return A(x).pow(2).sum()

    agree(torch.func.hessian(square)(z[0].detach()), 2 * M.mT @ M)
    if isinstance(A, ForeignOperator):
        with pytest.raises(DomainError, match="forward mode within forward mode"):  # torch would give 0
            torch.func.jacfwd(torch.func.jacfwd(square))(z[0].detach())


@foreign
def test_a_foreign_operator_is_the_core_of_a_linearizer(name: str) -> None:
    M = drawn(4, 4)
    X = EuclideanSpace(4)
    f, expected = Linearizer(wrapped(name, M), X), Linearizer(M, X)
    x = torch.randn(3, 4).double()
    agree(f(x), expected(x))
    agree(f.H(x), expected.H(x))
    agree((f @ f)(x), (expected @ expected)(x))
    agree((f + expected)(x), 2 * expected(x))
    agree(f.svd().values, torch.linalg.svdvals(M))


def test_a_foreign_operator_moves_to_another_dtype_as_a_module_does() -> None:
    M = drawn()
    A = as_operator(scipy.sparse.csr_array(M.numpy())).float()
    agree(A(torch.ones(4)), M.float() @ torch.ones(4))
    assert not A.state_dict()


def test_a_foreign_operator_that_takes_tensors_moves_to_another_dtype() -> None:
    M = drawn()
    A = as_operator(pytest.importorskip("linear_operator").to_linear_operator(M)).float()
    agree(A(torch.eye(4)), M.float().mT)


def test_an_operator_of_a_sparse_tensor_is_copied_and_keeps_its_size() -> None:
    places, values = torch.tensor([[0, 9999, 0], [5, 7, 5]]), torch.tensor([2.0, 3.0, 4.0])
    S = torch.sparse_coo_tensor(places, values, (10000, 10000), check_invariants=True)
    A = copy.deepcopy(as_operator(S))
    z = torch.arange(10000.0)
    found = (A(z)[0], A(z)[9999], A(z).count_nonzero(), A.H(z)[7])
    assert [float(x) for x in found] == [30.0, 21.0, 2, 3 * 9999.0]


def test_like_names_the_dtype() -> None:
    like = torch.zeros((), dtype=torch.float32)
    assert as_operator(np.eye(2), like=like).matrix().dtype == torch.float32
    assert as_operator(scipy.sparse.eye_array(2), like=like).matrix().dtype == torch.float32
    assert as_operator(np.eye(2, dtype=int)).matrix().dtype == torch.get_default_dtype()
    assert as_operator(scipy.sparse.eye_array(2, dtype=int)).matrix().dtype == torch.get_default_dtype()


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reversed": lambda M: M[::-1, ::-1],
    "big-endian": lambda M: M.astype(">f8"),
    "big-endian float32": lambda M: M.astype(">f4"),
    "longdouble": lambda M: M.astype(np.longdouble),
    "transposed": lambda M: np.asfortranarray(M),
    "strided": lambda M: np.repeat(M, 2, 1)[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_every_layout(layout: str) -> None:
    M = np.random.default_rng(0).standard_normal((4, 4))
    laid = LAYOUTS[layout](M)
    exact = torch.from_numpy(laid.astype(np.float32 if "float32" in layout else np.float64))
    agree(as_operator(laid).matrix(), exact)

    class Laid(Duck):
        def matvec(self, x: np.ndarray) -> np.ndarray:
            return LAYOUTS[layout](np.tile(super().matvec(x)[:, None], 2))[:, 0]

    product = LAYOUTS[layout](np.tile((laid.astype(float) @ np.ones(4))[:, None], 2))[:, 0]
    agree(torch.from_numpy(to_scipy(Dense(exact)) @ laid), exact @ exact)
    agree(as_operator(Laid(laid.astype(float)))(torch.ones(4).double()), torch.from_numpy(product.astype(float)))
    agree(as_operator(Transposable(laid), like=torch.zeros(()))(torch.eye(4)), exact.float().mT)


def test_numbers_and_indices_of_numpy() -> None:
    zero: Any = np.int64(0)
    two: Any = np.int64(2)
    E = EuclideanSpace(two + 1)
    assert E == EuclideanSpace(3) and EuclideanSpace((two, two)) == EuclideanSpace((2, 2))
    M = drawn(3, 3)
    f, v = Linearizer(M, E), E(torch.ones(3).double())
    agree((f**two).core.matrix(), M @ M)
    numbers: list[Any] = [np.float32(0.5), np.float64(0.5), np.array([0.5])[0]]
    for a in numbers:
        agree((f * a).core.matrix(), M / 2)
        agree((v * a).coords, torch.full((3,), 0.5).double())
        agree((a * v).coords, torch.full((3,), 0.5).double())
    agree(f.svd(two).values, torch.linalg.svdvals(M)[:2])
    backwards: Any = np.arange(3)[::-1]
    assert Permutation(backwards)(torch.arange(3.0)).tolist() == Selection(backwards, 3)(torch.arange(3.0)).tolist() == [2, 1, 0]
    assert real_nvp(two, two, two).shape == (2,)
    assert glow((1, two, two), blocks=1, width=two).shape == (1, 2, 2)
    assert propagator(LowRankFamily(3, 1), steps=two).shape == (3, 3)
    assert check(EuclideanSpace(two), samples=two, seed=zero).ok


def test_a_product_of_vectors_is_not_given_columns() -> None:
    # scipy's own matmat hands it arrays (4, 1), whose last axis is no vector
    M = scipy.linalg.hilbert(4)
    A = as_operator(
        scipy.sparse.linalg.LinearOperator(
            (4, 4), matvec=lambda x: np.cumsum(x, -1), rmatvec=lambda y: np.cumsum(y[..., ::-1], -1)[..., ::-1], dtype=M.dtype
        )
    )
    agree(A.matrix(), torch.ones(4, 4).double().tril())
    agree(A.H.matrix(), torch.ones(4, 4).double().triu())


def test_operators_and_parameters_stay_what_they_are() -> None:
    A, P = Dense(torch.eye(2)), nn.Parameter(torch.eye(2))
    assert as_operator(A) is A
    assert dict(as_operator(P).named_parameters())["A"] is P
    assert as_operator(to_scipy(A)) is A


def test_an_array_is_copied() -> None:
    M = np.eye(2)
    A = as_operator(M)
    M[:] = 0
    agree(A.matrix(), torch.eye(2).double())


@pytest.mark.parametrize("case", CORES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_operator_goes_to_scipy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A, kind = to_scipy(case.make(M)), np.dtype(str(dtype).removeprefix("torch."))
    m, n = M.shape
    x, X = np.random.default_rng(0).standard_normal(n), np.random.default_rng(1).standard_normal((n, 3))
    y, Y = np.random.default_rng(2).standard_normal(m), np.random.default_rng(3).standard_normal((m, 3))
    assert A.shape == (m, n) and A.dtype == kind

    def like_ours(a: np.ndarray) -> Tensor:
        assert a.dtype == kind
        return torch.from_numpy(np.ascontiguousarray(a))

    agree(like_ours(A.matvec(x)), (M.double() @ torch.from_numpy(x)).to(dtype), 20)
    agree(like_ours(A.matmat(X)), (M.double() @ torch.from_numpy(X)).to(dtype), 20)
    agree(like_ours(A.rmatvec(y)), (M.double().mT @ torch.from_numpy(y)).to(dtype), 20)
    agree(like_ours(A.rmatmat(Y)), (M.double().mT @ torch.from_numpy(Y)).to(dtype), 20)


def test_a_complex_vector_is_two_real_ones() -> None:
    M, x = drawn(), np.array([1, 1j, 2 - 1j, 0])
    assert np.allclose(to_scipy(Dense(M)) @ x, M.numpy() @ x, rtol=1e-14)


def test_scipys_own_methods_run_on_our_operators() -> None:
    M = drawn(6, 6) + 6 * torch.eye(6).double()
    b = torch.randn(6).double()
    x, info = scipy.sparse.linalg.gmres(to_scipy(Dense(M)), b.numpy(), rtol=1e-14)
    assert info == 0
    agree(torch.from_numpy(x), torch.linalg.solve(M, b), 10)


WITHOUT_ADJOINT: dict[str, Callable[[], object]] = {
    "scipy": lambda: scipy.sparse.linalg.LinearOperator((3, 3), matvec=lambda x: 2 * x, dtype=np.float64),
    "pylops": lambda: pytest.importorskip("pylops").FunctionOperator(lambda x: 2 * x, 3, 3),
}


@pytest.mark.parametrize("library", WITHOUT_ADJOINT)
def test_an_operator_without_an_adjoint_works_forwards_and_names_what_is_missing(library: str) -> None:
    A = as_operator(WITHOUT_ADJOINT[library]())
    z = torch.ones(2, 3).double()
    agree(A(z), 2 * z)
    for ask in (A.H, A.apply_adjoint, lambda w: torch.func.grad(lambda z: A(z).sum())(w)):
        with pytest.raises(MissingAdjoint, match="rmatvec"):
            ask(z)


def test_a_false_adjoint_is_rejected() -> None:
    class Liar(Duck):
        def rmatvec(self, y: np.ndarray) -> np.ndarray:
            return 2 * self.M.T @ y

    M = drawn()
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(as_operator(Liar(M.numpy())).H(torch.ones(5).double()), M.mT @ torch.ones(5).double())


def test_a_wrapped_operator_says_what_it_wraps() -> None:
    assert "csr_array" in repr(as_operator(scipy.sparse.csr_array(np.eye(2))))
    assert isinstance(as_operator(scipy.sparse.csr_array(np.eye(2))), ForeignOperator)
