"""Direct sums of operators, and real 2 x 2 blocks that turn and scale."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced._module import reference
from induced._numerics import scaled_norm, widened
from induced._registry import saved_as
from induced._validate import require_like, require_shape
from induced.errors import ShapeError
from induced.operators.algebra import hold, register
from induced.operators.base import Dense, LinearOperator
from induced.operators.columns import complement
from induced.operators.diagonal import Selection
from induced.operators.lowrank import ScaledIdentityPlusLowRank
from induced.operators.matrices import Phi
from induced.operators.reduction import (
    Frame,
    Reduction,
    SignLogDet,
    SingularValues,
    Triplets,
    composed,
    require_regular,
    signed,
)
from induced.operators.rules import Scalar, is_number, per_matrix


# -------------------------------------------------------------------------------------------------------------- direct sum
@final
class Segments(Frame):
    """R^dim cut into segments of one length, each the place of a block."""

    def __init__(self, groups: int, length: int) -> None:
        self.groups, self.length, self.dim = groups, length, groups * length

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        placed = y.new_zeros(len(j), self.groups, self.length)
        return placed.index_put((torch.arange(len(j), device=j.device), j), y).flatten(1).mT

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Dense(self.columns(j, y))

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        if blocks.dim() == 3:
            return BlockDiagonal(Dense(blocks))
        eye = torch.eye(self.groups, dtype=blocks.dtype, device=blocks.device)[:, None, :, None]
        return Dense((blocks.unsqueeze(-2) * eye).flatten(-2).flatten(-3, -2))


@final
class DirectSum(NamedTuple):
    """Reductions side by side; with orthogonal operators around them. It has the functions of a `Reduction`."""

    parts: tuple["Reduction | DirectSum", ...]
    shape: tuple[int, int]
    left: LinearOperator | None = None
    right: LinearOperator | None = None

    @property
    def like_frames(self) -> bool:
        return all(part.like_frames for part in self.parts)

    @property
    def follows(self) -> bool:
        return any(part.follows for part in self.parts)

    def made(self, parts: Sequence[LinearOperator]) -> LinearOperator:
        """The direct sum of other operators between the same orthogonal ones."""
        made: LinearOperator = composed(self.left, beside(parts), self.right)
        return made

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def adjoint(self) -> "DirectSum":
        left, right = (None if Q is None else Q.H for Q in (self.right, self.left))
        return DirectSum(tuple(part.adjoint() for part in self.parts), self.shape[::-1], left, right)

    def scaled(self, a: Tensor) -> "DirectSum":
        return self._replace(parts=tuple(part.scaled(a) for part in self.parts))

    def shifted(self, a: Tensor) -> "DirectSum":
        return self._replace(parts=tuple(part.shifted(a) for part in self.parts))

    def turned(self, left: LinearOperator | None = None, right: LinearOperator | None = None) -> "DirectSum":
        return self._replace(left=composed(left, self.left), right=composed(self.right, right))

    def singular_values(self, zeros: bool = True, all: bool = True) -> SingularValues:
        """Those of the parts; and zeros, where wide and tall parts leave more of them."""
        values, times, zero = (
            list(found) for found in zip(*(part.singular_values(zeros, all) for part in self.parts), strict=True)
        )
        missing = min(self.shape) - sum(map(_least, self.parts))
        if missing:
            none = values[0].new_zeros(*values[0].shape[:-1], 1)
            values, times, zero = [*values, none], [*times, times[0].new_tensor([missing])], [*zero, none]
        return SingularValues(torch.cat(values, -1), torch.cat(times), torch.cat(zero, -1))

    def frobenius(self) -> Tensor:
        return scaled_norm(torch.stack([part.frobenius() for part in self.parts], -1), -1)

    def svd(self, k: int) -> Triplets:
        found = [part.svd(min(k, _least(part))) for part in self.parts]
        U, V = (torch.block_diag(*(triplets[i] for triplets in found)) for i in (0, 2))  # type: ignore[no-untyped-call]
        values = torch.cat([s for _, s, _ in found])
        more = max(0, k - len(values))
        U, V = (torch.cat([X, complement(X, more)], -1) for X in (U, V))
        values = torch.cat([values, values.new_zeros(more)])
        order = values.argsort(descending=True, stable=True)[:k]
        U, V = U.index_select(-1, order), V.index_select(-1, order)
        U = U if self.left is None else self.left(U.mT).mT
        return U, values[order], V if self.right is None else self.right.apply_adjoint(V.mT).mT

    def pinv(self, zero: Tensor | None) -> LinearOperator:
        return self.adjoint().made([part.pinv(zero) for part in self.parts])

    def inverse(self, A: LinearOperator) -> LinearOperator:
        require_regular(self.singular_values(), self.dtype, A)
        return self.adjoint().made([part.inverse(A) for part in self.parts])

    def polar(self) -> tuple[LinearOperator, LinearOperator]:
        Q, P = zip(*(part.polar() for part in self.parts), strict=True)
        return self.made(Q), self._replace(left=None if self.right is None else self.right.H).made(P)

    def phi(self, phi: Phi) -> LinearOperator:
        return self.made([part.phi(phi) for part in self.parts])

    def one(self) -> LinearOperator:
        return self.made([part.one() for part in self.parts])

    def trace(self) -> Tensor:
        return torch.stack([part.trace() for part in self.parts]).sum(0)

    def slogdet(self) -> SignLogDet:
        signs, logs = zip(*(part.slogdet() for part in self.parts), strict=True)
        return SignLogDet(signed(reduce(torch.mul, signs), self.left, self.right), sum(logs))

    def det(self) -> Tensor:
        return signed(reduce(torch.mul, (part.det() for part in self.parts)), self.left, self.right)

    def eigenvalues(self) -> Tensor:
        return torch.cat([part.eigenvalues() for part in self.parts], -1)


def beside(parts: Sequence[LinearOperator]) -> LinearOperator:
    """The direct sum; of batches, as a batch of matrices."""
    if not any(part.batch for part in parts):
        return BlockDiagonal(*parts)
    n, start, rows = sum(part.shape[1] for part in parts), 0, []
    for part in parts:
        M = part.matrix(max(part.shape))
        rows.append(F.pad(M, (start, n - start - M.shape[-1])))
        start += M.shape[-1]
    batch = torch.broadcast_shapes(*(part.batch for part in parts))  # type: ignore[no-untyped-call]
    return Dense(torch.cat([row.expand(*batch, *row.shape[-2:]) for row in rows], -2))


def _shape(part: Reduction | DirectSum) -> tuple[int, int]:
    return part.shape if isinstance(part, DirectSum) else (part.W.dim, part.Z.dim)


def _least(part: Reduction | DirectSum) -> int:
    return min(_shape(part))


def _copies(core: LinearOperator) -> int:
    return core.batch[0] if core.batch else 1


@final
@saved_as("operators.BlockDiagonal", "*cores")
class BlockDiagonal(LinearOperator):
    """The direct sum of operators: each maps a segment of the coordinates to a segment of its own.

    Functions of it are those of the blocks, each as accurate as alone: small blocks do not drown beside large ones.

    Arguments:
        cores: operators or matrices (m_j, n_j); a tensor of shape (k, m, n) stands for k blocks. A parameter trains.

    Raises:
        ShapeError: no core, or an operator with batch dimensions. DtypeError: cores of different dtype or device.

    Law:
        `BlockDiagonal(A, B).matrix() == torch.block_diag(A, B)` (laws/test_direct_sums.py)

    Example:
        >>> import torch
        >>> A = BlockDiagonal(torch.tensor([[2.0]]), torch.tensor([[0.0, 1.0]]))
        >>> A(torch.tensor([1.0, 5.0, 7.0]))
        tensor([2., 7.])
    """

    def __init__(self, *cores: LinearOperator | Tensor) -> None:
        made = [core if isinstance(core, LinearOperator) else Dense(core) for core in cores]
        if not made:
            raise ShapeError("a direct sum has at least one core, got none")
        for core in made:
            if len(core.batch) > isinstance(core, Dense):
                raise ShapeError(f"the cores of a direct sum are operators without a batch, or tensors (k, m, n); got {core}")
            if (mine := reference(core)) is not None:
                require_like(mine, reference(made[0]), "a core of a direct sum")
        m, n = (sum(_copies(core) * core.shape[i] for core in made) for i in (0, 1))
        super().__init__((m, n))
        hold(self, made)

    @property
    def cores(self) -> tuple[LinearOperator, ...]:
        """The cores in order."""
        return tuple(self._modules.values())  # type: ignore[arg-type]

    @property
    def _each(self) -> list[tuple[LinearOperator, int]]:
        """Each core, and how many blocks it stands for."""
        return [(core, _copies(core)) for core in self.cores]

    def _split(self, z: Tensor, adjoint: bool) -> Tensor:
        found, start = [], 0
        for core, k in self._each:
            n = core.shape[0 if adjoint else 1]
            segment = z[..., start : start + k * n]
            if core.batch:
                segment = segment.reshape(*segment.shape[:-1], k, n)
            applied = core.apply_adjoint(segment) if adjoint else core(segment)
            found.append(applied.flatten(-2) if core.batch else applied)
            start += k * n
        return torch.cat(found, -1)

    def forward(self, z: Tensor) -> Tensor:
        return self._split(z, adjoint=False)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._split(w, adjoint=True)

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        if same_frames and any(core.shape[0] != core.shape[1] for core, _ in self._each):
            return super().reduced(True)
        parts = []
        for core, k in self._each:
            part = core.reduced(same_frames)
            if part is None:
                return None
            if core.batch and isinstance(core, Dense):
                m, n = core.shape
                Z = Segments(k, n)
                part = part._replace(W=Z if m == n else Segments(k, m), Z=Z, blocks=core.A)
            parts.append(part)
        return parts[0] if len(parts) == 1 else DirectSum(tuple(parts), self.shape)  # type: ignore[return-value]

    def _paired(self, other: LinearOperator) -> list[tuple[LinearOperator, LinearOperator]]:
        """The cores of both side by side; none where they do not stand for as many blocks."""
        if not isinstance(other, BlockDiagonal) or [k for _, k in self._each] != [k for _, k in other._each]:
            return []
        return [(A, B) for (A, _), (B, _) in zip(self._each, other._each, strict=True)]

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if is_number(other) and not other.batch and all(core.shape[0] == core.shape[1] for core, _ in self._each):
            number: Any = other
            c = number.parts()[0]
            sizes = {core.shape[0] for core, _ in self._each}
            numbers = {n: ScaledIdentityPlusLowRank(c, c.new_zeros(n, 0), c.new_zeros(n, 0)) for n in sizes}
            return BlockDiagonal(*(core._plus(numbers[core.shape[0]]) for core, _ in self._each))
        pairs = self._paired(other)
        if pairs and all(A.shape == B.shape for A, B in pairs):
            return BlockDiagonal(*(A + B for A, B in pairs))
        return super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        pairs = self._paired(other)
        if pairs and all(A.shape[1] == B.shape[0] for A, B in pairs):
            return BlockDiagonal(*(A._times(B) for A, B in pairs))
        return super()._times(other)

    def _scaled(self, a: Scalar) -> LinearOperator:
        if isinstance(a, Tensor) and a.dim():
            return super()._scaled(a)
        return BlockDiagonal(*(core._scaled(a) for core, _ in self._each))

    def _adjoint(self) -> LinearOperator:
        return BlockDiagonal(*(core.H for core, _ in self._each))

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {sum(k for _, k in self._each)} blocks"


# ------------------------------------------------------------------------------------------------- turning and scaling
@final
class Pairs(Frame):
    """The complex vectors (1, -i) / sqrt 2 and (1, i) / sqrt 2 of each pair of coordinates."""

    def __init__(self, pairs: int, device: torch.device) -> None:
        self.dim = self.groups = 2 * pairs
        self.times = torch.full((pairs,), 2, device=device)

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        k = len(j)
        two = torch.stack([torch.cat([y.real, y.imag], -1), torch.cat([y.imag, -y.real], -1)], 1)  # sqrt 2 Re, sqrt 2 Im
        placed = two.new_zeros(k, 2, self.dim // 2, 2)
        placed[torch.arange(k, device=j.device), :, j] = two
        return placed.reshape(2 * k, self.dim).mT

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Selection(torch.cat([2 * j, 2 * j + 1]), self.dim, dtype=y.real.dtype).H

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        return RotationScaling(blocks[..., 0, 0].real, blocks[..., 0, 0].imag)


@final
@saved_as("operators.RotationScaling", "a", "b")
class RotationScaling(LinearOperator):
    """Blocks [[a_j, -b_j], [b_j, a_j]] on the pairs of coordinates: multiplication by the complex numbers a_j + i b_j.

    As the generator of a flow, a is a rate (damping where a < 0) and b an angular frequency. Every function is that of the
    numbers: exp turns by b and scales by e^a, log and powers exist off (-inf, 0].

    Arguments:
        a, b: (*batch, k) each, of one dtype and device; a parameter trains.

    Raises:
        ShapeError: a and b differ in shape.

    Law:
        `exp(RotationScaling(a, b), t)` turns by t b and scales by e^(t a) (laws/test_direct_sums.py)

    Example:
        >>> import torch
        >>> RotationScaling(torch.tensor([0.0]), torch.tensor([1.0]))(torch.tensor([2.0, 3.0]))
        tensor([-3.,  2.])
    """

    a: Tensor
    b: Tensor

    def __init__(self, a: Tensor, b: Tensor) -> None:
        for value, what in ((a, "the real parts"), (b, "the imaginary parts")):
            require_shape(value, a.shape[-1:] if isinstance(a, Tensor) else (), what)
        if a.dim() < 1 or a.shape != b.shape:
            raise ShapeError(
                f"the numbers a + i b have parts of one shape (*batch, k), got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        require_like(b, a, "the imaginary parts")
        super().__init__((2 * a.shape[-1], 2 * a.shape[-1]))
        register(self, "a", a)
        register(self, "b", b)

    @property
    def batch(self) -> torch.Size:
        return self.a.shape[:-1]

    def _reference(self) -> Tensor:
        return self.a

    def numbers(self) -> Tensor:
        """a + i b, complex, (*batch, k)."""
        return torch.complex(widened(self.a), widened(self.b))

    def _turn(self, z: Tensor, b: Tensor) -> Tensor:
        x, y = z.reshape(*z.shape[:-1], z.shape[-1] // 2, 2).unbind(-1)
        return torch.stack([self.a * x - b * y, b * x + self.a * y], -1).flatten(-2)

    def forward(self, z: Tensor) -> Tensor:
        return self._turn(z, self.b)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._turn(w, -self.b)

    def reduced(self, same_frames: bool = False) -> Reduction:
        frame = Pairs(self.a.shape[-1], self.a.device)
        return Reduction(frame, frame, self.numbers()[..., None, None], None, self.a.dtype, torch.finfo(self.a.dtype).eps)

    def _of(self, numbers: Tensor) -> LinearOperator:
        return RotationScaling(numbers.real.to(self.a.dtype), numbers.imag.to(self.a.dtype))

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if is_number(other):
            number: Any = other
            a = self.a + per_matrix(number.parts()[0], 1)
            return RotationScaling(a, self.b.expand_as(a))
        return self._of(self.numbers() + other.numbers()) if isinstance(other, RotationScaling) else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        return self._of(self.numbers() * other.numbers()) if isinstance(other, RotationScaling) else super()._times(other)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return RotationScaling(per_matrix(a, 1) * self.a, per_matrix(a, 1) * self.b)

    def _adjoint(self) -> LinearOperator:
        return RotationScaling(self.a, -self.b)

    def _power(self, k: int) -> LinearOperator:
        return self._of(self.numbers() ** k)
