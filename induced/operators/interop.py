"""Operators to and from scipy and whatever else has a shape and products: pylops, CoLA, linear_operator, sparse matrices."""

from typing import Any, final

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from induced.errors import DtypeError, MissingAdjoint, ShapeError
from induced.operators.base import LinearOperator
from induced.operators.dense import Dense

Array = npt.NDArray[Any]

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def to_scipy(A: LinearOperator) -> "scipy.sparse.linalg.LinearOperator[Any]":
    """A as a scipy LinearOperator, so that scipy's iterative methods run on it; it carries no gradients.

    Arguments:
        A: one operator; vectors pass through its device, in its dtype (torch's default dtype for an operator without one).

    Returns:
        An object with matvec, rmatvec, matmat and rmatmat, each one call of A on all columns.

    Raises:
        ShapeError: A is a batch of operators, which scipy does not know.

    Law:
        `to_scipy(A) @ x == A(x)`, `to_scipy(A).H @ y == A.H(y)`, `from_scipy(to_scipy(A)) is A` (laws/test_interop.py)

    Example:
        >>> import torch
        >>> A = Dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> to_scipy(A) @ [1.0, 3.0]
        array([3., 2.], dtype=float32)
    """
    if A.batch:
        raise ShapeError(f"to_scipy takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")
    return _Exported(A)


def from_scipy(obj: object, *, like: Tensor | None = None) -> LinearOperator:
    """A foreign operator - scipy LinearOperator, sparse matrix, pylops, CoLA, linear_operator - as a `ForeignOperator`.

    Arguments:
        obj: anything with `shape` and products: matmat or matvec, with rmatmat or rmatvec; or `@` and `.T`. Objects whose
            `dtype` is torch's are given torch tensors, all others numpy arrays.
        like: names the dtype and device; by default the dtype of obj where it is float32 or float64, on the CPU.

    Raises:
        DtypeError: obj has no such products, or is complex. ShapeError: its shape is not (m, n).

    Law:
        `from_scipy(M)(z) == z @ M.T` for a sparse M (laws/test_interop.py)
    """
    if isinstance(obj, _Exported):
        return obj.operator
    return ForeignOperator(obj, like=like)


def as_operator(obj: object, *, like: Tensor | None = None) -> LinearOperator:
    """obj as an operator: itself, `Dense` of a tensor or array, `from_scipy` of anything else with a shape and products.

    Arguments:
        obj: a LinearOperator, a tensor (an `nn.Parameter` trains), a numpy array, or what `from_scipy` takes.
        like: the dtype and device of an operator made from something that is no tensor.

    Raises:
        DtypeError: obj is none of these, or complex. ShapeError: its shape is not (m, n).

    Example:
        >>> as_operator(scipy.sparse.csr_array([[0.0, 2.0]]))(torch.tensor([1.0, 3.0], dtype=torch.float64))
        tensor([6.], dtype=torch.float64)
    """
    if isinstance(obj, LinearOperator):
        return obj
    if isinstance(obj, Tensor):
        return Dense(obj)
    if isinstance(obj, np.ndarray):
        device = None if like is None else like.device
        return Dense(torch.tensor(np.asarray(obj), dtype=_precision(obj.dtype, obj, like), device=device))
    return from_scipy(obj, like=like)


@final
class ForeignOperator(LinearOperator):
    """A foreign operator, run on arrays outside torch: `from_scipy` and `as_operator` make it.

    Gradients of every order reach z, by products with the foreign adjoint; none reach what the foreign object holds. It works
    under vmap, jvp and jacrev; torch.compile breaks its graph at each product. It moves to another dtype as a module does.

    Raises:
        MissingAdjoint, on use: the adjoint or a gradient is needed and obj has no rmatvec.
        ShapeError, on use: a product has another shape than `shape` promises.
    """

    def __init__(self, obj: object, *, like: Tensor | None = None) -> None:
        has_products = any(hasattr(obj, name) for name in ("matmat", "matvec", "__matmul__"))
        if not has_products or not hasattr(obj, "shape"):
            raise DtypeError(
                f"a {type(obj).__name__} is no operator: expected a LinearOperator, a matrix, or an object with `shape` and "
                f"matvec/rmatvec"
            )
        super().__init__(tuple(obj.shape))
        dtype = getattr(obj, "dtype", None)
        self.obj: Any = obj
        self.takes_tensors = isinstance(dtype, torch.dtype)
        device = None if like is None else like.device
        self.register_buffer("like", torch.zeros((), dtype=_precision(dtype, obj, like), device=device), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return _applied(z, self, False)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return _applied(w, self, True)

    def columns(self, X: Any, adjoint: bool) -> Any:
        """A X, or A^T X, for the columns of an array or tensor of the kind that the foreign operator takes."""
        if X.shape[1] == 0:
            return X[:0].reshape(self.shape[1 if adjoint else 0], 0)
        if adjoint:
            return self._adjoint_columns(X)
        if hasattr(self.obj, "matmat"):
            return self.obj.matmat(X)
        if hasattr(self.obj, "matvec"):
            return _each(self.obj.matvec, X)
        return self.obj @ X

    def _adjoint_columns(self, X: Any) -> Any:
        if not hasattr(self.obj, "rmatvec"):
            if hasattr(self.obj, "matvec") or not hasattr(self.obj, "T"):
                raise MissingAdjoint(_no_adjoint(self.obj))
            return self.obj.T @ X
        try:
            first = _each(self.obj.rmatvec, X[:, :1])
        except NotImplementedError as error:
            raise MissingAdjoint(_no_adjoint(self.obj)) from error
        if X.shape[1] == 1:
            return first
        rest = X[:, 1:]
        rest = self.obj.rmatmat(rest) if hasattr(self.obj, "rmatmat") else _each(self.obj.rmatvec, rest)
        return torch.cat([first, rest], 1) if self.takes_tensors else np.hstack([first, rest])

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {type(self.obj).__module__}.{type(self.obj).__name__}"


def _no_adjoint(obj: object) -> str:
    return (
        f"the adjoint of a {type(obj).__name__} was asked for (by .H, a gradient, or a method that needs it), but it has no "
        f"rmatvec: give it one"
    )


def _each(product: Any, X: Any) -> Any:
    columns = [product(column).reshape(-1) for column in X.T]
    return torch.stack(columns, 1) if isinstance(X, Tensor) else np.stack(columns, 1)


def _applied(z: Tensor, operator: ForeignOperator, adjoint: bool) -> Tensor:
    return _Applied.apply(z, operator, adjoint)  # type: ignore[no-any-return, no-untyped-call]


class _Applied(torch.autograd.Function):
    """z -> A z through a foreign library; linear, so that each derivative is a product with A or A^T again."""

    @staticmethod
    def forward(z: Tensor, operator: ForeignOperator, adjoint: bool) -> Tensor:
        size = operator.shape[1 if adjoint else 0]
        rows = z.detach().reshape(-1, z.shape[-1])
        X = rows.mT if operator.takes_tensors else rows.cpu().numpy().T
        Y = operator.columns(X, adjoint)
        if tuple(Y.shape) != (size, rows.shape[0]):
            raise ShapeError(
                f"a product of {type(operator.obj).__name__}, which has shape {operator.shape}, with {rows.shape[0]} column(s) "
                f"must have shape {(size, rows.shape[0])}, got {tuple(Y.shape)}"
            )
        Y = Y if operator.takes_tensors else torch.from_numpy(np.array(Y))
        return Y.mT.to(z).reshape(*z.shape[:-1], size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ForeignOperator, bool], output: Tensor) -> None:
        _, ctx.operator, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _applied(gradient, ctx.operator, not ctx.adjoint), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _applied(tangent, ctx.operator, ctx.adjoint)

    @staticmethod
    def vmap(info: Any, in_dims: Any, z: Tensor, operator: ForeignOperator, adjoint: bool) -> tuple[Tensor, int]:
        return _applied(z.movedim(in_dims[0], 0), operator, adjoint), 0


class _Exported(scipy.sparse.linalg.LinearOperator):
    """One of our operators in scipy's clothes; a complex vector is two real ones."""

    def __init__(self, operator: LinearOperator) -> None:
        like = operator.reference()
        self.operator, self.kind = operator, torch.zeros((), dtype=None if like is None else like.dtype)
        self.device = None if like is None else like.device
        super().__init__(self.kind.numpy().dtype, operator.shape)  # type: ignore[call-arg]

    def _rows(self, X: Array, adjoint: bool) -> Array:
        if np.iscomplexobj(X):
            return self._rows(X.real, adjoint) + 1j * self._rows(X.imag, adjoint)
        rows = torch.tensor(X.reshape(X.shape[0], -1).T, dtype=self.kind.dtype, device=self.device)
        with torch.no_grad():
            applied = self.operator.apply_adjoint(rows) if adjoint else self.operator(rows)
        result: Array = applied.cpu().numpy().T
        return result

    def _matvec(self, x: Array) -> Array:
        return self._rows(x, False)

    def _rmatvec(self, x: Array) -> Array:
        return self._rows(x, True)

    def _matmat(self, X: Array) -> Array:
        return self._rows(X, False)

    def _rmatmat(self, X: Array) -> Array:
        return self._rows(X, True)


def _precision(dtype: Any, obj: object, like: Tensor | None) -> torch.dtype:
    """The dtype in which a foreign operator is held: that of `like`, or its own where it is float32 or float64."""
    name = str(dtype if isinstance(dtype, torch.dtype) else np.dtype(dtype)).removeprefix("torch.")
    if name.startswith("complex"):
        raise DtypeError(f"operators are real, got a {type(obj).__name__} of {name}: use [[Re, -Im], [Im, Re]] on twice the size")
    return _PRECISIONS.get(name, torch.get_default_dtype()) if like is None else like.dtype
