"""Operators that commute with cyclic shifts, as matrices between channels, one for each frequency."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import ShapeError, SingularOperator
from induced.operators.base import LinearOperator, Scalar, register
from induced.operators.dense import Dense
from induced.operators.functions import _evaluate, _square, exp, resolvent
from induced.operators.invariants import SignLogDet, SingularValues, det, singular_values, slogdet, trace
from induced.operators.linalg import SVDFactors, _rank, _unbatched, cutoff, inverse, pinv, svd
from induced.operators.lowrank import ScaledIdentityPlusLowRank
from induced.operators.matrices import Phi
from induced.operators.spectral import _eigenvalues

__all__ = ["BlockCirculant", "ShiftInvariant"]


class ShiftInvariant(LinearOperator):
    """An operator between channels on a grid that may commute with the cyclic shifts of the grid."""

    @abstractmethod
    def circulant(self) -> "BlockCirculant | None":
        """The operator in the Fourier domain, or None where it does not commute with cyclic shifts."""

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if pair := _symbols(self, other):
            return pair[0]._of(pair[0].symbol + pair[1])
        return other._plus(self) if isinstance(other, Dense) else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if pair := _symbols(self, other):
            return pair[0]._of(pair[0].symbol @ pair[1])
        return super()._times(other)


def _symbols(A: ShiftInvariant, B: LinearOperator) -> "tuple[BlockCirculant, Tensor] | None":
    """A in the Fourier domain and the symbol of B on the same grid, if both have one."""
    if isinstance(B, ScaledIdentityPlusLowRank):
        if not B.is_scalar() or (left := A.circulant()) is None:
            return None
        symbol = left.symbol
        return left, left._spread(B.c) * torch.eye(symbol.shape[-1], dtype=symbol.dtype, device=symbol.device)
    if not isinstance(B, ShiftInvariant) or (left := A.circulant()) is None or (right := B.circulant()) is None:
        return None
    return (left, right.symbol) if left.size == right.size else None


@final
class BlockCirculant(ShiftInvariant):
    """A convolution over a whole cyclic grid: (A z)^(f) = S(f) z^(f) at each frequency f, S(f) a (C_out, C_in) complex matrix.

    Coordinates are (C, *size) arrays, flattened. The class is closed under sum, product, adjoint, powers, inverse, pseudoinverse
    and functions, each at O(C^3 N) for N grid points and O(C N log N) for a Fourier transform; c I counts as one.

    Arguments:
        symbol: S on the frequencies of `torch.fft.rfftn`, complex, of shape (*batch, *half, C_out, C_in); kept as pairs of real
            numbers, so that the operator follows `.to(dtype)`. Where a frequency is its own negative S is real.
        size: the sides of the grid.

    Raises:
        ShapeError: the symbol is not complex, or does not have the frequencies of the grid.

    Law:
        `A.matrix()` is that of the convolution, and so is every function of it (laws/test_structures.py)

    Example:
        >>> import torch
        >>> shift = BlockCirculant.of(torch.tensor([[[0.0, 1.0, 0.0]]]), axes=1)
        >>> shift(torch.tensor([1.0, 2.0, 3.0])).round(decimals=5)
        tensor([3., 1., 2.])
    """

    blocks: Tensor

    def __init__(self, symbol: Tensor, size: Sequence[int]) -> None:
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
        register(self, "blocks", torch.view_as_real(symbol.resolve_conj()))

    @classmethod
    def of(cls, response: Tensor, axes: int) -> "BlockCirculant":
        """y[o, p] = sum_(i, m) response[o, i, m] x[i, p - m], for a response (*batch, C_out, C_in, *size) of so many axes."""
        return cls(_symbol(response, axes), response.shape[-axes:])

    @property
    def symbol(self) -> Tensor:
        """S, complex, of shape (*batch, *half, C_out, C_in)."""
        return torch.view_as_complex(self.blocks.contiguous())

    @property
    def batch(self) -> torch.Size:
        return self.blocks.shape[: -len(self.size) - 3]

    def circulant(self) -> "BlockCirculant":
        return self

    def _of(self, symbol: Tensor) -> "BlockCirculant":
        return BlockCirculant(symbol, self.size)

    def _spread(self, a: Scalar) -> Scalar:
        """One scalar per operator of a batch, ready to multiply symbols."""
        return a[(..., *(None,) * (len(self.size) + 2))] if isinstance(a, Tensor) and a.dim() > 0 else a

    def forward(self, z: Tensor) -> Tensor:
        return self._filter(self.symbol, z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self._filter(self.symbol.mH, w)

    def _filter(self, symbol: Tensor, z: Tensor) -> Tensor:
        d = len(self.size)
        batch = torch.broadcast_shapes(z.shape[:-1], self.batch)  # type: ignore[no-untyped-call]
        if 0 in batch:  # MKL refuses it
            return empty_batch(z, batch, symbol.shape[-2] * torch.Size(self.size).numel())
        grid = z.reshape(*z.shape[:-1], symbol.shape[-1], *self.size)
        spectrum = torch.einsum("...oi,...i->...o", symbol, _symbol(grid, d, channels=1))
        y: Tensor = torch.fft.irfftn(spectrum.movedim(-1, -d - 1), s=self.size, dim=tuple(range(-d, 0)))
        return y.flatten(-d - 1)

    def _adjoint(self) -> LinearOperator:
        return self._of(self.symbol.mH)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return self._of(self._spread(a) * self.symbol)

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


class _Grid(NamedTuple):
    """The frequencies of rfftn: (F, d) integers, how many of f and -f each stands for, and what is real or new among them."""

    f: Tensor
    weight: Tensor
    real: Tensor
    first: Tensor


def _grid(size: tuple[int, ...], device: torch.device) -> _Grid:
    sides = torch.tensor(size, device=device)
    half = (*size[:-1], size[-1] // 2 + 1)
    f = torch.cartesian_prod(*(torch.arange(n, device=device) for n in half)).reshape(-1, len(size))
    negative = -f % sides
    place = sides.new_tensor([torch.Size(size[axis + 1 :]).numel() for axis in range(len(size))])
    twin = (2 * f[:, -1]) % size[-1] == 0  # -f is among the frequencies of rfftn too
    rank, mirrored = (f * place).sum(-1), (negative * place).sum(-1)
    return _Grid(f, torch.where(twin, 1, 2), rank == mirrored, ~twin | (rank < mirrored))


Function = TypeVar("Function", bound=Callable[..., object])


def _in_fourier(generic: Any) -> Callable[[Function], Function]:
    """Register a function of a BlockCirculant for every operator that is one; the others go through their matrix."""
    # resolved here, since torch.compile cannot trace a singledispatch
    dense = generic.dispatch(LinearOperator)

    def register_for(function: Function) -> Function:
        def dispatched(A: ShiftInvariant, *arguments: Any, **keywords: Any) -> Any:
            C = A.circulant()
            return dense(A, *arguments, **keywords) if C is None else function(C, *arguments, **keywords)

        generic.register(ShiftInvariant, dispatched)
        return function

    return register_for


# ------------------------------------------------------------------------------------------------------------------- svd
@_in_fourier(svd)
def _(A: BlockCirculant, rank: int | None = None) -> SVDFactors:
    _unbatched(A, "svd")
    k, grid = _rank(A, rank), _grid(A.size, A.blocks.device)
    S = A.symbol.flatten(0, -3)
    U, V, values, which, phase = [], [], [], [], []
    # u exp(2 pi i f p) for f and -f spans the real vectors sqrt(2) Re and sqrt(2) Im
    paired = torch.linalg.svd(S[grid.first], full_matrices=False)
    alone = torch.linalg.svd(S[grid.real].real, full_matrices=False)
    for (u, s, vh), chosen, turn in (
        (paired, grid.first, 2**0.5),
        (paired, grid.first, -1j * 2**0.5),
        (alone, grid.real, 1.0),
    ):
        U.append(u.mT.flatten(0, 1).to(S))
        V.append(vh.conj().flatten(0, 1).to(S))
        values.append(s.flatten())
        which.append(grid.f[chosen].repeat_interleave(s.shape[-1], 0))
        phase.append(torch.full((s.numel(),), turn, dtype=S.dtype, device=S.device))
    ordered, order = torch.cat(values).sort(descending=True, stable=True)
    order = order[:k]
    wave = torch.cat(phase)[order, None] * _waves(torch.cat(which)[order], A.size, S)
    left, right = ((torch.cat(X)[order, :, None] * wave[:, None]).real.flatten(1).mT for X in (U, V))
    return SVDFactors(left, ordered[:k], right)


def _waves(f: Tensor, size: tuple[int, ...], like: Tensor) -> Tensor:
    """exp(2 pi i f.p) / sqrt(N) at the points p of the grid, of shape (k, N)."""
    wave = torch.ones(len(f), 1, dtype=torch.complex128, device=f.device)
    for axis, n in enumerate(size):
        turns = (f[:, axis, None] * torch.arange(n, device=f.device) % n).double() / n
        wave = (wave[:, :, None] * torch.exp(2j * torch.pi * turns)[:, None, :] / n**0.5).flatten(1)
    return wave.to(like.dtype)


# --------------------------------------------------------------------------------------------------- inverse, pseudoinverse
@_in_fourier(pinv)
def _(A: BlockCirculant, rtol: float | None = None) -> LinearOperator:
    symbol = A.symbol
    s = torch.linalg.svdvals(symbol.detach()).flatten(len(A.batch))
    threshold = cutoff(s, A.shape, rtol)[(..., *(None,) * len(A.size))].squeeze(-1)
    return A._of(torch.linalg.pinv(symbol, atol=threshold, rtol=torch.zeros_like(threshold)))


@_in_fourier(inverse)
def _(A: BlockCirculant) -> LinearOperator:
    _square(A, "the inverse")
    symbol = A.symbol
    s = torch.linalg.svdvals(symbol.detach()).flatten(len(A.batch))
    if s.numel() and eager(s):
        condition = float((s.amax(-1) / s.amin(-1)).max())
        limit = 1.0 / (symbol.shape[-1] * torch.finfo(s.dtype).eps)  # of the matrices that are inverted
        if not condition <= limit:
            raise SingularOperator(
                f"the operator is singular at {s.dtype}: its condition is {condition:.3g}, the limit {limit:.3g}; "
                f"use pinv(rtol), or float64: {A}"
            )
    return A._of(torch.linalg.inv_ex(symbol)[0])


# --------------------------------------------------------------------------------------------------------------- functions
@_in_fourier(exp)
def _(A: BlockCirculant, t: Scalar = 1.0) -> LinearOperator:
    _square(A, "the exponential")
    return A._of(torch.linalg.matrix_exp(A._spread(t) * A.symbol))


@_in_fourier(resolvent)
def _(A: BlockCirculant, s: Scalar) -> LinearOperator:
    _square(A, "the resolvent")
    symbol = A.symbol
    eye = torch.eye(symbol.shape[-1], dtype=symbol.dtype, device=symbol.device)
    return inverse(A._of(A._spread(s) * eye - symbol))


@_in_fourier(_evaluate)
def _(A: BlockCirculant, phi: Phi) -> LinearOperator:
    return A._of(phi.of_matrix(A.symbol, torch.finfo(A.symbol.dtype).eps * A.symbol.detach().norm(dim=(-2, -1))))


# -------------------------------------------------------------------------------------------------------------- invariants
@_in_fourier(singular_values)
def _(A: BlockCirculant) -> SingularValues:
    s = _twice(torch.linalg.svdvals(A.symbol).flatten(len(A.batch), -2), A).flatten(-2)
    return SingularValues(s, s.new_zeros(A.batch), 0)


@_in_fourier(trace)
def _(A: BlockCirculant) -> Tensor:
    _square(A, "the trace")
    return _twice(A.symbol.diagonal(dim1=-2, dim2=-1).real.flatten(len(A.batch), -2), A).sum((-2, -1))


@_in_fourier(slogdet)
def _(A: BlockCirculant) -> SignLogDet:
    _square(A, "the determinant")
    sign, logabs = torch.linalg.slogdet(A.symbol.flatten(len(A.batch), -3))
    real = _grid(A.size, A.blocks.device).real  # elsewhere f and -f have conjugate signs
    return SignLogDet(sign.real[..., real].sign().prod(-1), _twice(logabs.unsqueeze(-1), A).sum((-2, -1)))


@_in_fourier(det)
def _(A: BlockCirculant) -> Tensor:
    sign, logabs = slogdet(A)
    return sign * logabs.exp()


@_in_fourier(_eigenvalues)
def _(A: BlockCirculant) -> Tensor:
    w = torch.linalg.eigvals(A.symbol).flatten(len(A.batch), -2)
    interior = _grid(A.size, w.device).weight == 2
    return torch.cat([w.flatten(-2), w[..., interior, :].conj().flatten(-2)], -1)


def _twice(values: Tensor, A: BlockCirculant) -> Tensor:
    """Values (*batch, F, k) at the frequencies of rfftn, listed again for those whose negative is not among them."""
    return values.repeat_interleave(_grid(A.size, values.device).weight, -2)
