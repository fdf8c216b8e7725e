"""Operators that commute with cyclic shifts, as matrices between channels, one for each frequency."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from induced._numerics import scaled_norm, widened
from induced._registry import saved_as
from induced.errors import ShapeError
from induced.operators.algebra import register
from induced.operators.base import Adjoint, Dense, LinearOperator
from induced.operators.reduction import Frame, Reduction, Triplets, single
from induced.operators.rules import Scalar, is_number, per_matrix


class ShiftInvariant(LinearOperator):
    """An operator between channels on a grid that may commute with the cyclic shifts of the grid."""

    @abstractmethod
    def circulant(self) -> "BlockCirculant | None":
        """The operator in the Fourier domain, or None where it does not commute with cyclic shifts."""

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        C = self.circulant()
        if C is None:
            return super().reduced(same_frames)
        S = C.symbol.flatten(len(C.batch), -3)
        Z = Fourier(C.size, S.shape[-1], S.device)
        W = Z if S.shape[-1] == S.shape[-2] else Fourier(C.size, S.shape[-2], S.device)
        size = max(S.shape[-2:]) + math.log2(max(Z.groups, 1))
        return Reduction(
            W, Z, S, None, S.real.dtype, torch.finfo(S.dtype).eps * size, lambda: scaled_norm(S.detach(), (-2, -1)).amax(-1)
        )

    def _plus(self, other: LinearOperator) -> LinearOperator:
        pair = _both(self, other)
        return pair[0]._of(pair[0].symbol + pair[1].symbol) if pair else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        pair = _both(self, other)
        return pair[0]._of(pair[0].symbol @ pair[1].symbol) if pair else super()._times(other)

    def _after(self, left: LinearOperator) -> LinearOperator:
        pair = _both(self, left)
        return pair[0]._of(pair[1].symbol @ pair[0].symbol) if pair else super()._after(left)


def _both(A: ShiftInvariant, B: LinearOperator) -> "tuple[BlockCirculant, BlockCirculant] | None":
    """A and B in the Fourier domain, if both have one and it is the same."""
    inner: Any = B.operator if isinstance(B, Adjoint) else B
    left = A.circulant() if isinstance(inner, ShiftInvariant) or is_number(B) else None
    right = inner.circulant() if isinstance(inner, ShiftInvariant) else left and left._number(inner.parts()[0])
    if left is None or right is None or left.size != right.size:
        return None
    return left, right if inner is B else right.H  # type: ignore[return-value]


def _of_blocks(blocks: Tensor, size: Sequence[int]) -> "BlockCirculant":
    return BlockCirculant(torch.view_as_complex(widened(blocks).contiguous()), size, blocks.dtype)


@final
@saved_as("operators.BlockCirculant", "blocks", "size", build=_of_blocks)
class BlockCirculant(ShiftInvariant):
    """A convolution over a whole cyclic grid: (A z)^(f) = S(f) z^(f) at each frequency f, S(f) a (C_out, C_in) complex matrix.

    Coordinates are (C, *size) arrays, flattened. The class is closed under sum, product, adjoint, powers, inverse, pseudoinverse
    and functions, each at O(C^3 N) for N grid points and O(C N log N) for a Fourier transform; c I counts as one.

    Arguments:
        symbol: S on the frequencies of `torch.fft.rfftn`, complex, of shape (*batch, *half, C_out, C_in); kept as pairs of real
            numbers, so that the operator follows `.to(dtype)`. Where a frequency is its own negative S is real.
        size: the sides of the grid.
        dtype: of the pairs; that of the symbol by default.

    Raises:
        ShapeError: the symbol is not complex, or does not have the frequencies of the grid.

    Law:
        `A.matrix()` is that of the convolution, and so is every function of it (laws/test_convolutions.py)

    Example:
        >>> import torch
        >>> shift = BlockCirculant.of(torch.tensor([[[0.0, 1.0, 0.0]]]), axes=1)
        >>> shift(torch.tensor([1.0, 2.0, 3.0])).round(decimals=5)
        tensor([3., 1., 2.])
    """

    blocks: Tensor

    def __init__(self, symbol: Tensor, size: Sequence[int], dtype: torch.dtype | None = None) -> None:
        size = tuple(int(n) for n in size)
        half = (*size[:-1], size[-1] // 2 + 1)
        d = len(half)
        if not symbol.is_complex() or tuple(symbol.shape[-d - 2 : -2]) != half:
            raise ShapeError(
                f"the symbol on a grid {size} is complex, of shape (*batch, {', '.join(map(str, half))}, C_out, C_in), "
                f"got {tuple(symbol.shape)} {symbol.dtype}"
            )
        N = torch.Size(size).numel()
        super().__init__((symbol.shape[-2] * N, symbol.shape[-1] * N))
        self.size = size
        register(self, "blocks", torch.view_as_real(symbol.resolve_conj()).to(dtype or symbol.real.dtype))

    @classmethod
    def of(cls, response: Tensor, axes: int) -> "BlockCirculant":
        """y[o, p] = sum_(i, m) response[o, i, m] x[i, p - m], for a response (*batch, C_out, C_in, *size) of so many axes."""
        return cls(_symbol(widened(response), axes), response.shape[-axes:], response.dtype)

    @property
    def symbol(self) -> Tensor:
        """S, complex, of shape (*batch, *half, C_out, C_in)."""
        return torch.view_as_complex(widened(self.blocks).contiguous())

    @property
    def batch(self) -> torch.Size:
        return self.blocks.shape[: -len(self.size) - 3]

    def circulant(self) -> "BlockCirculant":
        return self

    def _of(self, symbol: Tensor) -> "BlockCirculant":
        return BlockCirculant(symbol, self.size, self.blocks.dtype)

    def _number(self, a: Tensor) -> "BlockCirculant":
        """a I."""
        S = self.symbol
        eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device).expand(S.shape)
        return self._of(per_matrix(a, len(self.size) + 2) * eye)

    def forward(self, z: Tensor) -> Tensor:
        return self._filter(self.symbol, z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._filter(self.symbol.mH, w)

    def _filter(self, symbol: Tensor, z: Tensor) -> Tensor:
        d = len(self.size)
        batch = torch.broadcast_shapes(z.shape[:-1], self.batch)  # type: ignore[no-untyped-call]
        if 0 in batch:  # MKL refuses it
            return empty_batch(z, batch, symbol.shape[-2] * torch.Size(self.size).numel())
        grid = widened(z).reshape(*z.shape[:-1], symbol.shape[-1], *self.size)
        spectrum = torch.einsum("...oi,...i->...o", symbol, _symbol(grid, d, channels=1))
        y: Tensor = torch.fft.irfftn(spectrum.movedim(-1, -d - 1), s=self.size, dim=tuple(range(-d, 0)))
        return y.flatten(-d - 1).to(z.dtype)

    def _adjoint(self) -> LinearOperator:
        return self._of(self.symbol.mH)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return self._of(per_matrix(a, len(self.size) + 2) * self.symbol)

    def _power(self, k: int) -> LinearOperator:
        return self._of(torch.linalg.matrix_power(self.symbol, k))


def empty_batch(z: Tensor, batch: Sequence[int], n: int) -> Tensor:
    """What an operator makes of coordinates whose batch broadcasts to no entry at all: (*batch, n), part of z's graph."""
    return z.sum(-1, keepdim=True).expand(*batch, n)


def _symbol(response: Tensor, d: int, channels: int = 2) -> Tensor:
    """The Fourier transform of the last d axes, with the `channels` axes before them moved to the end."""
    if response.numel() == 0:  # MKL refuses it
        half = response[..., : response.shape[-1] // 2 + 1]
        spectrum = torch.complex(half, half)
    else:
        spectrum = torch.fft.rfftn(response, dim=tuple(range(-d, 0)))
    last = tuple(range(-channels, 0))
    return spectrum.movedim(tuple(axis - d for axis in last), last)


@final
class Fourier(Frame):
    """The waves exp(2 pi i f p) / sqrt N of a grid, for each channel; f and -f, which have conjugate blocks, are one group."""

    def __init__(self, size: tuple[int, ...], channels: int, device: torch.device) -> None:
        self.size, self.channels = size, channels
        self.groups = torch.Size(size).numel()
        self.dim = channels * self.groups
        half = (*size[:-1], size[-1] // 2 + 1)
        self.f = torch.cartesian_prod(*(torch.arange(n, device=device) for n in half)).reshape(-1, len(size))
        negative = -self.f % torch.tensor(size, device=device)
        place = self.f.new_tensor([torch.Size(size[axis + 1 :]).numel() for axis in range(len(size))])
        rank, mirrored = (self.f * place).sum(-1), (negative * place).sum(-1)
        self.real = rank == mirrored
        # where -f is among the frequencies of rfftn too, the first of both stands for the two
        twin = (2 * self.f[:, -1]) % size[-1] == 0
        self.times = torch.where(self.real, 1, torch.where(~twin, 2, torch.where(rank < mirrored, 2, 0)))

    def factors(self, K: Tensor) -> Triplets:
        """Real where the block is, so that the vectors are."""
        U, s, Vh = super().factors(K)
        if single(K):
            return U, s, Vh
        alone = super().factors(K[..., self.real, :, :].real)
        at = self.real.nonzero()[:, 0]
        return tuple(X.index_copy(len(K.shape) - 3, at, Y.to(X)) for X, Y in zip((U, s, Vh), alone, strict=True))  # type: ignore[return-value]

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        """sqrt 2 Re and sqrt 2 Im of the waves of f and -f; the wave itself where f is its own negative."""
        turned = y[:, :, None] * self._waves(self.f[j], y)[:, None]
        both = torch.stack([turned.real, turned.imag], 1) * (2 - self.real[j].to(turned.real)).sqrt()[:, None, None, None]
        return both.flatten(2).flatten(0, 1).mT

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Dense(self.columns(j, y)[:, torch.stack([torch.ones_like(self.real[j]), ~self.real[j]], 1).flatten()])

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        half = (*self.size[:-1], self.size[-1] // 2 + 1)
        return BlockCirculant(blocks.reshape(*blocks.shape[:-3], *half, *blocks.shape[-2:]), self.size)

    def _waves(self, f: Tensor, like: Tensor) -> Tensor:
        """exp(2 pi i f.p) / sqrt(N) at the points p of the grid, of shape (k, N)."""
        wave = torch.ones(len(f), 1, dtype=torch.complex128, device=f.device)
        for axis, n in enumerate(self.size):
            turns = (f[:, axis, None] * torch.arange(n, device=f.device) % n).double() / n
            wave = (wave[:, :, None] * torch.exp(2j * torch.pi * turns)[:, None, :] / n**0.5).flatten(1)
        return wave.to(like.dtype)
