"""Orthogonal operators: the inverse is the adjoint, every singular value is 1; products of them are orthogonal again."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor, nn

from induced._numerics import matrix_exp, widened
from induced._registry import saved_as
from induced._validate import eager
from induced.errors import DomainError, ShapeError
from induced.operators.algebra import register, require_matrix
from induced.operators.base import Dense, LinearOperator
from induced.operators.columns import Basis, Columns
from induced.operators.diagonal import Selection, places
from induced.operators.lowrank import ScaledIdentityPlusLowRank, factored, identity
from induced.operators.matrices import Phi
from induced.operators.reduction import Reduction, SignLogDet
from induced.operators.rules import kind


class OrthogonalOperator(LinearOperator):
    """A square operator Q with Q^T Q = I.

    Besides `forward` and `apply_adjoint`, subclasses implement `sign`.

    Law:
        `Q.H(Q(z)) == z`, `inverse(Q) == pinv(Q) == Q.H` (laws/test_structures.py)
    """

    @abstractmethod
    def sign(self) -> Tensor:
        """det Q, +1 or -1, of shape ()."""

    @property
    def orthogonal(self) -> bool:
        return True

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        """No block at all: c = 1 between Q and the identity. Functions of Q want its matrix."""
        if same_frames:
            return super().reduced(True)
        one = kind(self).new_ones(())
        empty = one.new_zeros(self.shape[0], 0, dtype=torch.float64)
        frame = Columns(Basis(empty, empty[:0], empty[:0]), factored, one.dtype)
        return Reduction(frame, frame, empty.new_zeros(1, 0, 0), one, one.dtype, torch.finfo(one.dtype).eps, left=self)

    def _polar(self) -> tuple[LinearOperator, LinearOperator]:
        return self, identity(self.shape[0], kind(self))

    def _slogdet(self) -> SignLogDet:
        return SignLogDet(self.sign(), kind(self).new_zeros(()))

    def _det(self) -> Tensor:
        return self.sign()

    def _numbers(self) -> int:
        """How many numbers hold it: a product is formed where its factors hold no fewer."""
        return sum(t.numel() for tensors in (self.parameters(), self.buffers()) for t in tensors)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, OrthogonalOperator) and self._numbers() + other._numbers() >= math.prod(self.shape):
            return Orthogonal(self._columns(other.matrix(max(other.shape)).mT).mT, check=False)
        if isinstance(other, Dense) and not other.batch:
            return Dense(self._columns(other.A.mT).mT)
        return super()._times(other)


@final
@saved_as("operators.Orthogonal", "Q", build=lambda Q: Orthogonal(Q, check=False))
class Orthogonal(OrthogonalOperator):
    """z -> Q z for a given orthogonal matrix Q of shape (n, n), which does not train.

    A matrix made in float32 is orthogonal to float32, also after `.double()`: make it in the dtype it is used in, or in float64.

    Arguments:
        Q: the matrix. `Householder(V)` and `SkewExponential(S)` are orthogonal operators that train.
        check: whether to compare Q^T Q with I, at O(n^3).

    Raises:
        ShapeError: Q is not square.
        DomainError: Q is an `nn.Parameter`, which an optimiser would move off the orthogonal matrices; or an entry of Q^T Q - I
            exceeds n eps * 10.

    Example:
        >>> import torch
        >>> Q = Orthogonal(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> Q(torch.tensor([1.0, 2.0])), (Q @ Q @ Q)(torch.tensor([1.0, 2.0]))
        (tensor([-2.,  1.]), tensor([ 2., -1.]))
    """

    Q: Tensor

    def __init__(self, Q: Tensor, *, check: bool = True) -> None:
        require_matrix(Q, "an orthogonal matrix", square=True)
        if isinstance(Q, nn.Parameter):
            raise DomainError("a trained matrix does not stay orthogonal: use Householder(V) or SkewExponential(S)")
        super().__init__(Q.shape)
        register(self, "Q", Q)
        if check and Q.numel() and eager(Q):
            deviation = float((Q.mT @ Q - torch.eye(len(Q), dtype=Q.dtype, device=Q.device)).detach().abs().max())
            allowed = 10 * len(Q) * torch.finfo(Q.dtype).eps
            if not deviation <= allowed:
                raise DomainError(
                    f"the matrix is not orthogonal: an entry of Q^T Q - I is {deviation:.3g}, rounding explains {allowed:.3g}; "
                    f"torch.linalg.qr(M)[0] is orthogonal"
                )

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.Q.mT

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w @ self.Q

    def _adjoint(self) -> LinearOperator:
        return Orthogonal(self.Q.mT, check=False)

    def matrix(self, limit: int = 4096) -> Tensor:
        return self.Q

    def sign(self) -> Tensor:
        sign: Tensor = torch.linalg.slogdet(self.Q.detach()).sign
        return sign


@final
@saved_as("operators.Householder", "V")
class Householder(OrthogonalOperator):
    """Q = H_1 ... H_k, H_i = I - 2 v_i v_i^T / |v_i|^2, for the rows v_i of V (k, n), which may train.

    Applied at O(n k) a point and O(n k^2) a call. The product is held in compact form, Q = I - W^T M^-1 W with w_i = v_i / |v_i|
    and M the upper triangle of W W^T, its diagonal halved. k reflections reach a set of dimension k n - k (k + 1) / 2; k = n all
    orthogonal matrices of determinant (-1)^n.

    Raises:
        DomainError: a row of V is 0.

    Example:
        >>> import torch
        >>> Householder(torch.tensor([[1.0, 1.0]]))(torch.tensor([3.0, 4.0])).round(decimals=5)
        tensor([-4., -3.])
    """

    V: Tensor

    def __init__(self, V: Tensor) -> None:
        require_matrix(V, "the vectors of the reflections")
        if V.dim() != 2:
            raise ShapeError(f"the vectors of k reflections of R^n have the shape (k, n), got {tuple(V.shape)}")
        super().__init__((V.shape[1], V.shape[1]))
        register(self, "V", V)
        if eager(V) and not bool((V.detach() != 0).any(-1).all()):
            raise DomainError(f"a reflection needs a vector that is not 0; one of the {len(V)} rows of V is")

    def forward(self, z: Tensor) -> Tensor:
        return self._reflect(z, transposed=False)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._reflect(w, transposed=True)

    def _reflect(self, z: Tensor, *, transposed: bool) -> Tensor:
        W, X = self._compact(transposed=transposed)
        return z - z @ X.mT @ W

    def _compact(self, *, transposed: bool) -> tuple[Tensor, Tensor]:
        """W and X (k, n) with Q = I - W^T X, or Q^T."""
        largest = self.V.detach().abs().amax(-1, keepdim=True)  # no overflow, nor underflow, of |v|^2
        W = widened(self.V / largest)
        W = W / W.norm(dim=-1, keepdim=True)
        M = torch.triu(W @ W.mT, 1) + torch.diag(W.new_full((len(W),), 0.5))
        X = torch.linalg.solve_triangular(M.mT if transposed else M, W, upper=not transposed)
        return W.to(self.V.dtype), X.to(self.V.dtype)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Householder) and len(self.V) + len(other.V) <= self.V.shape[-1]:
            return Householder(torch.cat([self.V, other.V]))
        return super()._times(other)

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        return self.near_identity().reduced(True) if same_frames else super().reduced()

    def near_identity(self) -> ScaledIdentityPlusLowRank:
        """The same operator as I + U V^T."""
        W, X = self._compact(transposed=False)
        return ScaledIdentityPlusLowRank(1.0, -W.mT, X.mT)

    def _trace(self) -> Tensor:
        return self.near_identity()._trace()

    def _eigenvalues(self) -> Tensor:
        return self.near_identity()._eigenvalues()

    def _phi(self, phi: Phi) -> LinearOperator:
        return self.near_identity()._phi(phi)

    def sign(self) -> Tensor:
        return self.V.new_tensor((-1.0) ** len(self.V))


@final
@saved_as("operators.SkewExponential", "S")
class SkewExponential(OrthogonalOperator):
    """Q = exp((S - S^T) / 2) for a free matrix S of shape (n, n); trains where S does, det Q = 1.

    Every rotation is reached. Each application costs one matrix exponential, O(n^3); its rounding grows with the norm of S.

    Example:
        >>> import torch
        >>> SkewExponential(torch.tensor([[0.0, -torch.pi], [0.0, 0.0]]))(torch.tensor([1.0, 0.0])).round(decimals=6).abs()
        tensor([0., 1.])
    """

    S: Tensor

    def __init__(self, S: Tensor) -> None:
        require_matrix(S, "the generator of an orthogonal operator", square=True)
        super().__init__(S.shape)
        register(self, "S", S)

    def matrix(self, limit: int = 4096) -> Tensor:
        Q: Tensor = matrix_exp(widened((self.S - self.S.mT) / 2)).to(self.S.dtype)
        return Q

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix().mT

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w @ self.matrix()

    def _power(self, k: int) -> LinearOperator:
        return SkewExponential(k * self.S)

    def sign(self) -> Tensor:
        return self.S.new_ones(())


@final
@saved_as("operators.Permutation", describe=lambda A: {"order": A.order, "dtype": A.dtype})
class Permutation(OrthogonalOperator):
    """(P z)_i = z_order[i], exact.

    Arguments:
        order: the numbers 0..n-1 in some order.
        dtype: that of the coordinates it takes, torch's default one if not given; `.to(dtype)` changes it.

    Raises:
        DomainError: `order` holds other numbers, or one twice.

    Example:
        >>> import torch
        >>> Permutation([2, 0, 1])(torch.tensor([10.0, 20.0, 30.0]))
        tensor([30., 10., 20.])
    """

    order: Tensor
    _like: Tensor

    def __init__(self, order: Tensor | Sequence[int], dtype: torch.dtype | None = None) -> None:
        order = places(order)
        n = order.numel()
        if order.dim() != 1 or (eager(order) and order.sort().values.tolist() != list(range(n))):
            raise DomainError(f"a permutation of {n} coordinates holds each of 0..{n - 1} once, got {order.tolist()}")
        super().__init__((n, n))
        # first, so that it names the dtype of what holds this operator too
        self.register_buffer("_like", torch.empty(0, dtype=dtype, device=order.device), persistent=False)
        self.register_buffer("order", order)

    def _reference(self) -> Tensor:
        return self._like

    def forward(self, z: Tensor) -> Tensor:
        return z[..., self.order]

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w[..., self.order.argsort()]

    def _adjoint(self) -> LinearOperator:
        return Permutation(self.order.argsort(), self._like.dtype)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Permutation):
            return Permutation(other.order[self.order], self._like.dtype)
        return super()._times(other)

    def sign(self) -> Tensor:
        return parity(self.order).to(self._like)


def parity(order: Tensor) -> Tensor:
    """The determinant of a permutation of n coordinates, (-1)^(n - its cycles); of shape ()."""
    if not eager(order):
        return 1 - 2 * (torch.triu(order[:, None] > order).sum() % 2)
    n = len(order)
    graph = scipy.sparse.csr_array((order.new_ones(n).cpu(), (range(n), order.cpu())), shape=(n, n))
    cycles: int = scipy.sparse.csgraph.connected_components(graph, directed=False)[0]
    return order.new_tensor(1 - 2 * ((n - cycles) % 2))


def off(Q: Tensor) -> LinearOperator:
    """What is orthogonal to the orthonormal columns Q (n, p), as an operator with n - p orthonormal columns, held in O(n p)."""
    n, p = Q.shape
    if not n:
        return Dense(Q)
    rest = Selection(torch.arange(p, n, device=Q.device), n, dtype=Q.dtype).H
    packed, _ = torch.geqrf(Q)
    return Householder((torch.tril(packed, -1) + torch.eye(n, p, dtype=Q.dtype, device=Q.device)).mT) @ rest
