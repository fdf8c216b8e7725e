"""One idea for every function of an operator: A = L W (K_1 + ... + K_J + c I) Z^H R, small blocks in orthonormal frames.

W and Z are frames: J groups of p (of q) orthonormal vectors, complex where that makes the blocks small. c stands for all that
is orthogonal to them, L and R are orthogonal operators around both. What goes with isometries on either side (singular values,
pseudoinverse, polar factors, kernel) works on the blocks whatever the frames are; what goes with similarity alone (exp, trace,
eigenvalues) needs W = Z and no L and R. An operator says how it reduces once, in `reduced()`, and inherits all of them.

| operator | blocks | frames | c |
|---|---|---|---|
| Dense | A itself | R^m and R^n | |
| Diagonal, Projection | n numbers | the unit vectors | |
| BlockDiagonal | its blocks | the unit vectors | |
| RotationScaling | a + i b and its conjugate | (1, -i) and (1, i) of each pair | |
| U V^T | one of r x r | orth U and orth V | 0 |
| c I + U V^T | one of 2r x 2r | orth [U V] twice | c |
| circular convolution, BlockCirculant | channels x channels, one a frequency | the DFT's | |
| orthogonal Q | none; for functions its matrix (Householder: as c I + U V^T) | none; L = Q | 1 |

Adjoint, multiple, inverse, direct sum, products with an orthogonal factor and c I + A transform the reduction of their operand.
What counts as zero is eps times the size of the block that was factored times the norm of what was mixed to form it
(docs/theory/numerical_honesty.md): `relative` * `mixed`, or `relative` times each block's own norm.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from induced._numerics import scaled_norm
from induced._validate import eager
from induced.errors import SingularOperator
from induced.operators.factors import REPEATED, PolarFactor, determinant, precise, reciprocal, svd_of, tracked, undefined, watched
from induced.operators.matrices import Phi

if TYPE_CHECKING:  # its module lies above this one
    from induced.operators.base import LinearOperator

Triplets = tuple[Tensor, Tensor, Tensor]


def single(K: Tensor) -> bool:
    """Whether blocks are single numbers, which need no factorisation."""
    return K.shape[-2:].numel() == 1


class Frame(ABC):
    """Orthonormal vectors of R^dim, in groups.

    Attributes:
        dim: their length.
        groups: how many groups there are, those of complex pairs counted twice.
        times: (J,) how often each block stands: twice for one of a complex pair, 0 for the other where both are listed; None
            where all stand once.
        follows: whether the vectors move with tensors that track gradients; what `join` makes of them then lacks derivatives.
    """

    dim: int
    groups: int
    times: Tensor | None = None
    follows: bool = False

    @abstractmethod
    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        """The vectors (dim, k) of block coordinates y (k, p) in the groups j (k,).

        Complex frames give two for each: sqrt 2 Re and sqrt 2 Im, or the real vector and 0.
        """

    @abstractmethod
    def span(self, j: Tensor, y: Tensor) -> "LinearOperator":
        """The same vectors, those that are 0 left out, as an operator into R^dim."""

    @abstractmethod
    def join(self, other: "Frame", blocks: Tensor, c: Tensor | None) -> "LinearOperator":
        """W (K_1 + ... + K_J + c I) Z^H for W this frame and Z the other."""

    def rest(self, k: int) -> Tensor:
        """k orthonormal columns orthogonal to the frame; for frames that span R^dim, k = 0."""
        raise NotImplementedError

    def factors(self, K: Tensor) -> Triplets:
        """Singular triplets (*batch, J, p, s), (*batch, J, s), (*batch, J, s, q) of the blocks."""
        if single(K):
            return torch.where(K == 0, torch.ones_like(K), K.sgn()), K[..., 0].abs(), torch.ones_like(K)
        return svd_of(precise(K))


class SingularValues(NamedTuple):
    """`values` (*batch, k), each `times` (k,) over: all min(m, n) of them; and (*batch, k) what counts as `zero` among them."""

    values: Tensor
    times: Tensor
    zero: Tensor


class SVDFactors(NamedTuple):
    """A = U diag(values) V^T with U (m, k), values (k,) descending, V (n, k)."""

    U: Tensor
    values: Tensor
    V: Tensor


class SignLogDet(NamedTuple):
    """det A = sign * exp(logabs); sign is 0 and logabs -inf where A is singular."""

    sign: Tensor
    logabs: Tensor


@final
class Reduction(NamedTuple):
    """A = left W (K_1 + ... + K_J + c I) Z^H right.

    Attributes:
        W, Z: the frames of the blocks' rows and columns; one object where they are the same.
        blocks: (*batch, J, p, q).
        c: (*batch,), the number on what is orthogonal to the frames, or None for 0.
        dtype: that of the operator; blocks may be more precise.
        relative: eps times the size of the block that was factored.
        mixed: makes the norm (*batch,) of what was mixed to form the blocks; None: their own norms.
        left, right: orthogonal operators; the isometry of Z's complement onto W's is theirs.
    """

    W: Frame
    Z: Frame
    blocks: Tensor
    c: Tensor | None
    dtype: torch.dtype
    relative: float
    mixed: Callable[[], Tensor] | None = None
    left: "LinearOperator | None" = None
    right: "LinearOperator | None" = None

    @property
    def like_frames(self) -> bool:
        """Whether the frames leave the sign of a determinant."""
        return self.W is self.Z

    @property
    def follows(self) -> bool:
        """Whether frames move, so that operators made of them lack a part of their derivatives."""
        return self.W.follows or self.Z.follows

    @property
    def repeated(self) -> int:
        """How many singular values are |c|."""
        return min(self.W.dim, self.Z.dim) - self.W.groups * min(self.blocks.shape[-2:])

    def number(self) -> Tensor:
        """c, 0 where there is none."""
        return self.blocks.real.new_zeros(self.blocks.shape[:-3]) if self.c is None else self.c

    # ------------------------------------------------------------------------------------------------- other reductions
    def adjoint(self) -> "Reduction":
        turned = [None if Q is None else Q.H for Q in (self.right, self.left)]
        return self._replace(W=self.Z, Z=self.W, blocks=self.blocks.mH, left=turned[0], right=turned[1])

    def scaled(self, a: Tensor) -> "Reduction":
        own = self.mixed
        mixed = None if own is None else lambda: a.abs() * own()
        return self._replace(blocks=a[..., None, None, None] * self.blocks, c=None if self.c is None else a * self.c, mixed=mixed)

    def shifted(self, a: Tensor) -> "Reduction":
        """That of A + a I, for W = Z."""
        eye = torch.eye(self.blocks.shape[-1], dtype=self.blocks.dtype, device=self.blocks.device)
        own = self.mixed or (lambda: scaled_norm(scaled_norm(self.blocks.detach(), (-2, -1)), -1))
        return self._replace(
            blocks=self.blocks + a[..., None, None, None] * eye,
            c=None if self.c is None else a + self.c,
            mixed=lambda: own() + a.abs(),
        )

    def turned(self, left: "LinearOperator | None" = None, right: "LinearOperator | None" = None) -> "Reduction":
        """That of left A right, for orthogonal operators."""
        return self._replace(left=composed(left, self.left), right=composed(self.right, right))

    def made(self, blocks: Tensor, c: Tensor | None) -> "LinearOperator":
        """The operator of other blocks and another c between the same frames and orthogonal operators."""
        made: LinearOperator = composed(self.left, self.W.join(self.Z, blocks, c), self.right)
        return made

    # --------------------------------------------------------------------------------------------------- singular values
    def zero(self, s: Tensor, given: Tensor | None) -> Tensor:
        """What counts as zero among values (*batch, J, k) of the blocks: `given` (*batch,), or what rounding leaves of a zero."""
        given = self._absolute(given)
        if given is not None:
            return given[..., None, None].to(s).expand(*s.shape[:-1], 1)
        return self.relative * s.amax(-1, keepdim=True) if s.numel() else s.new_zeros(*s.shape[:-1], 1)

    def zero_of_c(self, given: Tensor | None) -> Tensor:
        given = self._absolute(given)
        return torch.zeros_like(self.number()) if given is None else given.to(self.number())

    def _absolute(self, given: Tensor | None) -> Tensor | None:
        """The cut-off (*batch,) for all blocks, None where each has its own."""
        return self.relative * self.mixed().detach() if given is None and self.mixed is not None else given

    def values(self, all: bool = True) -> Tensor:
        """The singular values (*batch, J, k) of the blocks; some of them, if not `all`, are then used."""
        K = self.blocks
        if single(K):
            return K[..., 0].abs()
        return svd_of(precise(K), all)[1] if tracked(K) else torch.linalg.svdvals(precise(K))

    def singular_values(self, zeros: bool = True, all: bool = True) -> SingularValues:
        """All of them, and what counts as zero among them, if that is asked for."""
        s = self.values(all)
        zero = self.zero(s.detach(), None).expand(s.shape).flatten(-2) if zeros else s.new_zeros(0)
        times = torch.ones(s.shape[-2], dtype=torch.int64, device=s.device) if self.W.times is None else self.W.times
        times, values = times.repeat_interleave(s.shape[-1]), s.flatten(-2)
        if self.repeated:
            c = self.number().abs().to(values)
            values = torch.cat([values, c.unsqueeze(-1)], -1)
            zero = torch.cat([zero, self.zero_of_c(None).unsqueeze(-1).to(zero)], -1) if zeros else zero
            times = torch.cat([times, times.new_tensor([self.repeated])])
        return SingularValues(values, times, zero)

    def frobenius(self) -> Tensor:
        """The root of the sum of squares of the singular values."""
        sizes = scaled_norm(self.blocks, (-2, -1))
        if self.W.times is not None:
            sizes = sizes * self.W.times.to(sizes).sqrt()
        if self.repeated:
            sizes = torch.cat([sizes, self.repeated**0.5 * self.number().abs().unsqueeze(-1).to(sizes)], -1)
        return scaled_norm(sizes, -1).to(self.dtype)

    def regular(self, given: Tensor | None) -> bool:
        """Whether no singular value of a block, nor |c|, counts as zero."""
        s = self.values().detach()
        regular = bool((s > self.zero(s, given)).all())
        return regular and (self.c is None or bool((self.c.abs() > self.zero_of_c(given)).all()))

    def svd(self, k: int) -> Triplets:
        """The k largest singular triplets: U (m, k), values (k,) descending, V (n, k)."""
        u, s, vh = self.W.factors(self.blocks)
        flat, left, right = s.flatten(), u.mT.flatten(0, 1), vh.conj().flatten(0, 1)
        if len(s) == 1:  # one block, whose values descend
            values, j, left, right = flat[:k], flat.new_zeros(min(k, len(flat)), dtype=torch.int64), left[:k], right[:k]
        else:
            each = s.shape[-1]
            if (times := self.W.times) is not None:
                flat = flat.masked_fill(times.repeat_interleave(each, output_size=len(flat)) == 0, -1.0)
            order = flat.argsort(descending=True, stable=True)[:k]
            values, j, left, right = flat[order], order // each, left[order], right[order]
        if self.W.times is not None:  # two columns of each complex vector, of which the second may be none
            values = torch.stack([values, torch.where(self.W.times[j] == 2, values, -torch.ones_like(values))], -1).flatten()
        c = self.number()
        more = min(self.repeated, k)
        if more and eager(values):
            more = min(more, max(0, k - int((values > c.abs()).sum())))
        others = undefined(self.Z.rest(more), self.blocks) if more else None
        U, V = self.W.columns(j, left), self.Z.columns(j, right)
        if others is not None:
            turned = (
                undefined(self.W.rest(more), self.blocks)
                if self.c is None
                else torch.copysign(torch.ones_like(c), c).to(others) * others
            )
            values = torch.cat([values, c.abs().to(values).expand(more)])
            U, V = torch.cat([U, turned], -1), torch.cat([V, others], -1)
        if more or self.W.times is not None:
            values, order = (X[:k] for X in values.sort(descending=True, stable=True))
            U, V = (X.index_select(-1, order) for X in (U, V))
        U = U if self.left is None else self.left(U.mT).mT
        V = V if self.right is None else self.right.apply_adjoint(V.mT).mT
        return U.to(self.dtype), values.to(self.dtype), V.to(self.dtype)

    def pinv(self, given: Tensor | None) -> "LinearOperator":
        """A+ = R^H Z (K+ + c+ I) W^H L^H; singular values up to `given` (*batch,) count as zero, or by rounding."""
        K = self.blocks
        if single(K):
            inverse = reciprocal(K, self.zero(K[..., 0].detach().abs(), given).unsqueeze(-1))
        elif K.is_complex() and torch.compiler.is_compiling():  # there torch's own is wrong for complex matrices
            u, s, vh = self.W.factors(K)
            inverse = (vh.mH * reciprocal(s, self.zero(s, given)).unsqueeze(-2)) @ u.mH
        elif given is None and self.mixed is None:
            inverse = torch.linalg.pinv(precise(K), rtol=self.relative)
        else:
            zero = self.zero(precise(K).detach().real.flatten(-2)[..., :1], given).squeeze(-1)
            inverse = torch.linalg.pinv(precise(K), atol=zero, rtol=torch.zeros_like(zero))
        c = None if self.c is None else reciprocal(self.c, self.zero_of_c(given))
        return self.adjoint().made(inverse.to(K.dtype), c)

    def inverse(self, A: "LinearOperator") -> "LinearOperator":
        """A^-1, likewise; raises where a singular value counts as zero."""
        require_regular(self.singular_values(), self.dtype, A)
        K = self.blocks
        inverse = 1.0 / K if single(K) else torch.linalg.inv_ex(K).inverse
        return self.adjoint().made(inverse, None if self.c is None else 1.0 / self.c)

    def polar(self) -> "tuple[LinearOperator, LinearOperator]":
        """Q and P = (A^T A)^(1/2) with A = Q P."""
        K, zero = self.blocks, self._absolute(None)
        cut = self.relative if zero is None else zero[..., None, None].to(K.real)
        Q: Tensor = PolarFactor.apply(precise(K), cut, self.W)  # type: ignore[no-untyped-call]
        P = Q.mH @ precise(K)
        P = (P + P.mH) / 2
        c = sign = None
        if self.c is not None:
            c = self.c.abs()
            sign = torch.where(c > self.zero_of_c(None), self.c.sign(), torch.zeros_like(c))
        inner = self._replace(W=self.Z, left=None if self.right is None else self.right.H)
        return self.made(Q.to(K.dtype), sign), inner.made(P.to(K.dtype), c)

    # ------------------------------------------------------------------------------------------------------- similarity
    def trace(self) -> Tensor:
        diagonal = self.blocks.diagonal(dim1=-2, dim2=-1).sum(-1).real
        blocks = diagonal.sum(-1) if self.W.times is None else (diagonal * self.W.times).sum(-1)
        return (blocks + self.repeated * self.number()).to(self.dtype)

    def slogdet(self) -> SignLogDet:
        """Of the blocks, of c and of L and R, for W = Z: L and R are signs, and so would be W and Z if they differed."""
        K = self.blocks
        if single(K):
            sign, logabs = K[..., 0, 0].sgn(), K[..., 0, 0].abs().log()
        else:
            sign, logabs = torch.linalg.slogdet(K)
        if (times := self.W.times) is not None:  # conjugate pairs
            sign = torch.where(times == 1, sign, torch.ones_like(sign))
            logabs = torch.where(times > 0, logabs * times, torch.zeros_like(logabs))
        s, x = sign.prod(-1).real.sign(), logabs.sum(-1)
        if self.repeated:
            s, x = s * self.number().sign() ** self.repeated, x + self.repeated * self.number().abs().log()
        return SignLogDet(signed(s, self.left, self.right).to(self.dtype), x.to(self.dtype))

    def det(self) -> Tensor:
        K = self.blocks
        values = K[..., 0, 0] if single(K) else determinant(K)
        if self.W.times is not None:
            pairs = torch.where(self.W.times == 2, (values * values.conj()).real, torch.ones_like(values.real))
            values = torch.where(self.W.times == 1, values.real, pairs)
        value = signed(values.prod(-1), self.left, self.right)
        return (value * self.number() ** self.repeated if self.repeated else value).to(self.dtype)

    def one(self) -> "LinearOperator":
        """The identity, in the structure of A."""
        K = self.blocks
        eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device).expand(K.shape)
        return self.made(eye, None if self.c is None else torch.ones_like(self.c))

    def eigenvalues(self) -> Tensor:
        K = self.blocks
        kind = torch.promote_types(self.dtype, torch.complex64)
        w = K[..., 0].to(kind) if single(K) else torch.linalg.eigvals(watched(K, REPEATED))
        found = [w.flatten(-2)]
        if (times := self.W.times) is not None:
            found = [w[..., times > 0, :].flatten(-2), w[..., times == 2, :].conj().flatten(-2)]
        if self.repeated:
            found.append(self.number().unsqueeze(-1).expand(*w.shape[:-2], self.repeated).to(w.dtype))
        return torch.cat(found, -1).to(kind)

    def phi(self, phi: Phi) -> "LinearOperator":
        """phi(A) = W (phi(K_1) + ... + phi(c) I) W^H."""
        K = self.blocks
        if single(K) and not K.is_complex():
            image = phi.of_scalars(K[..., 0, 0].double())[..., None, None]
        else:
            # what is peeled is what counts as zero; what is refused, what the rounding of the data leaves
            size = scaled_norm(K.detach(), (-2, -1)) if self.mixed is None else self.mixed().detach().unsqueeze(-1)
            zero = size * (self.relative if phi.peels else torch.finfo(self.dtype).eps)
            image = phi.of_matrix(K, zero.expand(K.shape[:-2]))
        c = None if self.c is None else phi.of_scalars(self.c.double()).to(self.c)
        return self.made(image.to(K.dtype), c)


def composed(*factors: Any) -> Any:
    """The product of operators, None being the identity."""
    return reduce(lambda A, B: B if A is None else A if B is None else A._times(B), factors)


def signed(value: Tensor, *factors: "LinearOperator | None") -> Tensor:
    """A number times the determinants of orthogonal operators, None being the identity."""
    return reduce(mul, [Q._slogdet().sign for Q in factors if Q is not None], value)


def require_regular(s: SingularValues, dtype: torch.dtype, A: "LinearOperator") -> None:
    """Raise SingularOperator where a singular value counts as zero; a no-op where values may not be looked at."""
    if not eager(s.values) or not s.values.numel():
        return
    values, zero = s.values.detach(), s.zero
    if bool((values > zero).all()):
        return
    worst = int((values - zero).argmin())
    least, rounding = float(values.flatten()[worst]), float(zero.flatten()[worst])
    if not rounding:
        raise SingularOperator(
            f"the operator is singular at {dtype}: a singular value is 0; pinv is the inverse on the image: {A}"
        )
    raise SingularOperator(
        f"the operator is singular at {dtype}: its least singular value, {least:.3g}, is no larger than its rounding, "
        f"{rounding:.3g}; use pinv, or float64: {A}"
    )
