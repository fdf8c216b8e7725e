"""Operators to and from scipy and whatever else has a shape and products: pylops, CoLA, linear_operator, sparse matrices."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from induced._module import reference
from induced._numerics import widened
from induced._registry import FOREIGN, not_saved
from induced._validate import require_one_forward, require_precision
from induced.errors import DtypeError, MissingAdjoint, ShapeError
from induced.operators.base import Dense, LinearOperator

Array = npt.NDArray[Any]

_PRECISIONS = {"float32": torch.float32} | dict.fromkeys(("float64", "float96", "float128"), torch.float64)


def to_scipy(A: LinearOperator) -> "scipy.sparse.linalg.LinearOperator[Any]":
    """A as a scipy LinearOperator, so that scipy's iterative methods run on it; it carries no gradients.

    Arguments:
        A: one operator; vectors pass through its device, in its dtype (torch's default dtype for an operator without one).

    Returns:
        An object with matvec, rmatvec, matmat and rmatmat, each one call of A on all columns.

    Raises:
        ShapeError: A is a batch of operators, which scipy does not know. DtypeError: A is not float32 or float64.

    Law:
        `to_scipy(A) @ x == A(x)`, `to_scipy(A).H @ y == A.H(y)`, `as_operator(to_scipy(A)) is A` (laws/test_interop.py)

    Example:
        >>> import torch
        >>> A = Dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> to_scipy(A) @ [1.0, 3.0]
        array([3., 2.], dtype=float32)
    """
    if A.batch:
        raise ShapeError(f"to_scipy takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")
    return _Exported(A)


def as_operator(obj: object, *, like: Tensor | None = None) -> LinearOperator:
    """obj as an operator: itself, `Dense` of a tensor or array, a `ForeignOperator` of anything else with a shape and products.

    Arguments:
        obj: a LinearOperator, a tensor (an `nn.Parameter` trains; a sparse one stays sparse, and no gradient reaches its
            entries), a numpy array, a sparse matrix, or an operator of scipy, pylops, CoLA or linear_operator: anything with
            `shape` and products, matmat or matvec, with rmatmat or rmatvec; or `@` and `.T`. Objects whose `dtype` is torch's
            are given torch tensors, all others numpy arrays.
        like: the dtype and device of an operator made from something that is no tensor; by default, on the CPU, float32 or
            float64 as obj is (longdouble becomes float64, and integers become torch's default dtype).

    Raises:
        DtypeError: obj is none of these, or is complex, half precision or no number, or a sparse tensor that requires a
            gradient. ShapeError: its shape is not (m, n).

    Law:
        `as_operator(M)(z) == z @ M.T` for a sparse M (laws/test_interop.py)

    Example:
        >>> as_operator(scipy.sparse.csr_array([[0.0, 2.0]]))(torch.tensor([1.0, 3.0], dtype=torch.float64))
        tensor([6.], dtype=torch.float64)
    """
    if isinstance(obj, LinearOperator):
        return obj
    if isinstance(obj, Tensor) and obj.layout is torch.strided:
        return Dense(obj)
    if isinstance(obj, np.ndarray):
        return Dense(_tensor(obj, _kind(obj, like)))
    return obj.operator if isinstance(obj, _Exported) else ForeignOperator(obj, like=like)


@final
@not_saved(FOREIGN)
class ForeignOperator(LinearOperator):
    """A foreign operator, run on arrays outside torch: `as_operator` makes it.

    Gradients of every order reach z, by products with the foreign adjoint; none reach what the foreign object holds. It works
    under vmap, jvp and jacrev; torch.compile breaks its graph at each product. It moves to another dtype as a module does.

    Raises:
        MissingAdjoint, on use: the adjoint or a gradient is needed and obj has no rmatvec.
        ShapeError, on use: a product has another shape than `shape` promises. DtypeError, on use: a product is complex.
    """

    def __init__(self, obj: object, *, like: Tensor | None = None) -> None:
        has_products = any(hasattr(obj, name) for name in ("matmat", "matvec", "__matmul__"))
        if not has_products or not hasattr(obj, "shape"):
            raise DtypeError(
                f"a {type(obj).__name__} is no operator: expected a matrix, or an object with `shape` and matvec/rmatvec"
            )
        super().__init__(tuple(obj.shape))
        kind = _kind(obj, like)
        self.obj: Any = _sparse(obj, kind) if isinstance(obj, Tensor) and obj.layout is not torch.strided else obj
        self.takes_tensors = isinstance(getattr(self.obj, "dtype", None), torch.dtype)
        self.register_buffer("like", kind, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return _applied(z, self, False)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return _applied(w, self, True)

    def columns(self, X: Any, adjoint: bool) -> Any:
        """A X, or A^T X, for the columns of an array or tensor of the kind that the foreign operator takes."""
        if X.shape[1] == 0:
            return X[:0].reshape(self.shape[adjoint], 0)
        side = "r" if adjoint else ""
        missing = f"a {type(self.obj).__name__} has no {side}matvec, which .H, a gradient or a method asked for: give it one"
        vector, block = getattr(self.obj, f"{side}matvec", None), getattr(self.obj, f"{side}matmat", None)
        if vector is None and block is None:
            if adjoint and (hasattr(self.obj, "matvec") or not hasattr(self.obj, "T")):
                raise MissingAdjoint(missing)
            vector = partial(operator.matmul, self.obj.T if adjoint else self.obj)
            # what has no more than `@` may be written for vectors alone
            block = vector if scipy.sparse.issparse(self.obj) or _has(self.obj, "matmul", "_matmat") else None
        try:
            if vector is not None and (block is None or X.shape[1] == 1 or _for_vectors(self.obj, (side,))):
                return _each(vector, X)
            return block(X)  # type: ignore[misc]
        except NotImplementedError as error:
            raise MissingAdjoint(missing) from error

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {type(self.obj).__module__}.{type(self.obj).__name__}"


def _has(obj: object, *names: str) -> bool:
    return any(hasattr(obj, name) for name in names)


def _for_vectors(obj: Any, sides: Sequence[str]) -> bool:
    """Whether scipy would hand columns (n, 1) to a product that may be written for vectors (n,): of obj, or of its factors."""
    if not isinstance(obj, scipy.sparse.linalg.LinearOperator):
        return False
    if any(_for_vectors(part, ("", "r")) for part in getattr(obj, "args", ())):
        return True
    default = type(obj)._matmat is scipy.sparse.linalg.LinearOperator._matmat  # type: ignore[attr-defined]
    return default or any(getattr(obj, f"_CustomLinearOperator__{side}matmat_impl", True) is None for side in sides)


def _each(product: Any, X: Any) -> Any:
    columns = [product(column).reshape(-1) for column in X.T]
    return torch.stack(columns, 1) if isinstance(X, Tensor) else np.stack(columns, 1)


def _applied(z: Tensor, operator: ForeignOperator, adjoint: bool) -> Tensor:
    return _Applied.apply(z, operator, adjoint)  # type: ignore[no-any-return, no-untyped-call]


class _Applied(torch.autograd.Function):
    """z -> A z through a foreign library; linear, so that each derivative is a product with A or A^T again."""

    @staticmethod
    def forward(z: Tensor, operator: ForeignOperator, adjoint: bool) -> Tensor:
        size = operator.shape[adjoint]
        rows = widened(z.detach()).reshape(-1, z.shape[-1])
        obj = operator.obj
        X = rows.mT.to(obj.dtype).to(getattr(obj, "device", z.device)) if operator.takes_tensors else rows.cpu().numpy().T
        Y = operator.columns(X, adjoint)
        if tuple(Y.shape) != (size, rows.shape[0]):
            expected = f"of shape {operator.shape} with {rows.shape[0]} column(s) must have shape {(size, rows.shape[0])}"
            raise ShapeError(f"a product of {type(operator.obj).__name__} {expected}, got {tuple(Y.shape)}")
        return _tensor(Y, rows).to(z.dtype).mT.reshape(*z.shape[:-1], size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ForeignOperator, bool], output: Tensor) -> None:
        _, ctx.operator, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _applied(gradient, ctx.operator, not ctx.adjoint), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        require_one_forward()
        return _applied(tangent, ctx.operator, ctx.adjoint)

    @staticmethod
    def vmap(info: Any, in_dims: Any, z: Tensor, operator: ForeignOperator, adjoint: bool) -> tuple[Tensor, int]:
        return _applied(z.movedim(in_dims[0], 0), operator, adjoint), 0


class _Exported(scipy.sparse.linalg.LinearOperator):
    """One of our operators in scipy's clothes; a complex vector is two real ones."""

    def __init__(self, operator: LinearOperator) -> None:
        like = reference(operator)
        self.operator, self.kind = operator, torch.zeros(()) if like is None else like.detach().new_zeros(())
        require_precision(self.kind.dtype, f"{operator}")
        super().__init__(self.kind.cpu().numpy().dtype, operator.shape)  # type: ignore[call-arg]

    def _rows(self, X: Array, adjoint: bool) -> Array:
        if np.iscomplexobj(X):
            return self._rows(X.real, adjoint) + 1j * self._rows(X.imag, adjoint)
        # a copy in plain strides and byte order, which torch takes
        rows = torch.from_numpy(np.array(X.reshape(X.shape[0], -1).T, dtype=self.dtype)).to(self.kind.device)
        with torch.no_grad(), torch.autocast(self.kind.device.type, enabled=False):
            applied = self.operator.apply_adjoint(rows) if adjoint else self.operator(rows)
        result: Array = applied.cpu().numpy().T
        return result

    def _matmat(self, X: Array) -> Array:
        return self._rows(X, False)

    def _rmatmat(self, X: Array) -> Array:
        return self._rows(X, True)

    _matvec, _rmatvec = _matmat, _rmatmat


def _sparse(S: Tensor, kind: Tensor) -> Any:
    """A sparse tensor: on the CPU as scipy's, at a tenth of the time of torch's, elsewhere in the layout that has a transpose."""
    if S.requires_grad:
        raise DtypeError(f"no gradient reaches the entries of a {S.layout} tensor: pass S.detach(), or train S.to_dense()")
    S = S.to(kind.dtype).to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    if S.device.type != "cpu":
        return S
    return scipy.sparse.csr_array((S.values().numpy(), S.indices().numpy()), shape=(S.shape[0], S.shape[1]))


def _kind(obj: object, like: Tensor | None) -> Tensor:
    """A number of the dtype and device in which a foreign operator is held: those of `like`, or its own."""
    dtype = getattr(obj, "dtype", None)
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else np.dtype(dtype).name
    whole = name.startswith(("int", "uint", "bool"))
    kind: Any = torch.get_default_dtype() if whole else _PRECISIONS.get(name, name)
    kind = kind if like is None or name.startswith("complex") else like.dtype
    require_precision(kind, f"the {type(obj).__name__}")
    device = getattr(obj, "device", None) if isinstance(dtype, torch.dtype) else None
    return torch.zeros((), dtype=kind, device=device if like is None else like.device)


def _tensor(Y: Any, kind: Tensor) -> Tensor:
    """A tensor, or an array of any byte order and strides, in the dtype and on the device of `kind`."""
    if not torch.compiler.is_compiling() and "complex" in str(Y.dtype):
        raise DtypeError("a product of a real foreign operator is complex: operators are real, use [[Re, -Im], [Im, Re]]")
    return (Y if isinstance(Y, Tensor) else torch.from_numpy(np.array(Y).astype(str(kind.dtype)[6:]))).to(kind)
