"""Convolutions with their exact adjoint for any padding, and their Fourier form where they commute with cyclic shifts."""

import math
from collections.abc import Sequence
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from induced._registry import saved_as
from induced._validate import require_shape
from induced.errors import DomainError, DtypeError, ShapeError
from induced.operators.algebra import register
from induced.operators.base import LinearOperator
from induced.operators.circulant import BlockCirculant, ShiftInvariant, empty_batch
from induced.operators.rules import Scalar, per_matrix

Mode = Literal["zeros", "circular", "reflect", "replicate"]
_CONV = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d)}


def _described(A: "Convolution") -> dict[str, object]:
    settings: dict[str, object] = {name: getattr(A, name) for name in ("kernel", "mode", "stride", "groups")}
    return settings | {"shape": A.in_shape, "padding": A.pads}


@final
@saved_as("operators.Convolution", describe=_described)
class Convolution(ShiftInvariant):
    """y[o, p] = sum_(i, j) kernel[o, i, j] x[i, stride p + j - before], from coordinates C_in * H * W to C_out * H' * W'.

    The adjoint is exact for every padding: a transposed convolution, then the adjoint of the padding, which adds what was copied
    back to where it came from (with reflect or replicate padding that is no convolution).

    | function | circular, stride 1, H' = H | otherwise |
    |---|---|---|
    | forward, H, multiples, sums of one geometry | convolution | convolution |
    | products and other sums of two | `BlockCirculant` | lazy |
    | svd, pinv, inverse, integer powers, exp, resolvent | `BlockCirculant`, per frequency | through `matrix()` |
    | log, sqrt, real powers, any function | `BlockCirculant`, per frequency | through `matrix()` |

    Arguments:
        kernel: (*batch, C_out, C_in / groups, *k), one axis k for signals and two for images; a batch of kernels meets that of
            the coordinates. An `nn.Parameter` trains.
        shape: (C_in, *size), the shape of what is convolved.
        padding: "same" keeps the size at stride 1, an even kernel having the smaller half before; else a number for every
            side, or one pair (before, after) per axis.
        mode: how the padding is filled.
        stride: the step between outputs, the same along each axis.
        groups: each of as many groups of channels has kernels of its own; groups = C_in convolves channel by channel.

    Raises:
        ShapeError: the kernel does not fit the shape, or nothing is left to put out.
        DomainError: unknown mode, negative padding, or reflect padding as long as the side.

    Law:
        `(w * A(z)).sum() == (A.H(w) * z).sum()` (Prop 2.8; laws/test_convolutions.py)

    Example:
        >>> import torch
        >>> A = Convolution(torch.tensor([[[1.0, 1.0]]]), (1, 3), mode="circular")
        >>> A(torch.tensor([1.0, 2.0, 4.0])), A.H(torch.tensor([1.0, 2.0, 4.0]))
        (tensor([3., 6., 5.]), tensor([5., 3., 6.]))
    """

    kernel: Tensor

    def __init__(
        self,
        kernel: Tensor,
        shape: Sequence[int],
        *,
        padding: str | int | Sequence[tuple[int, int]] = "same",
        mode: Mode = "zeros",
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        channels, *size = (int(n) for n in shape)
        d = len(size)
        if d not in _CONV:
            raise ShapeError(f"a convolution acts on signals (C, L) or images (C, H, W), got the shape {tuple(shape)}")
        if not isinstance(kernel, Tensor):
            raise DtypeError(f"the kernel must be a torch.Tensor, got {type(kernel).__name__}")
        require_shape(kernel, kernel.shape[-d - 2 :], "the kernel")
        if groups < 1 or kernel.dim() < d + 2 or kernel.shape[-d - 1] * groups != channels or kernel.shape[-d - 2] % groups:
            raise ShapeError(
                f"on {channels} channels in {groups} group(s), the kernel has the shape "
                f"(*batch, C_out, {channels}/{groups}, {', '.join('k' * d)}) with C_out a multiple of {groups}, "
                f"got {tuple(kernel.shape)}"
            )
        k = kernel.shape[-d:]
        pads = _pads(padding, k)
        if mode not in ("zeros", "circular", "reflect", "replicate") or min(min(pair) for pair in pads) < 0:
            raise DomainError(
                f"padding is by zeros, circular, reflect or replicate, and not negative; got {mode!r} and {pads} for a "
                f"kernel {tuple(k)}"
            )
        if mode == "reflect" and any(max(pair) >= n for pair, n in zip(pads, size, strict=True)):
            raise DomainError(f"reflect padding is shorter than the side, got {pads} for sides {tuple(size)}")
        out = [(n + sum(pair) - j) // stride + 1 if stride > 0 else 0 for n, pair, j in zip(size, pads, k, strict=True)]
        if min(out) < 1:
            raise ShapeError(f"a kernel {tuple(k)} at stride {stride} has no place in {tuple(size)} padded by {pads}")
        in_shape, out_shape = (channels, *size), (kernel.shape[-d - 2], *out)
        super().__init__((torch.Size(out_shape).numel(), torch.Size(in_shape).numel()))
        self.in_shape, self.out_shape, self.pads = in_shape, out_shape, pads
        self.mode, self.stride, self.groups = mode, stride, groups
        register(self, "kernel", kernel)

    @property
    def batch(self) -> torch.Size:
        return self.kernel.shape[: -len(self.in_shape) - 1]

    def forward(self, z: Tensor) -> Tensor:
        x, kernel, batch, groups = self._grouped(z, self.in_shape)
        if not groups:  # torch refuses no kernel at all
            return empty_batch(z, batch, self.shape[0])
        for axis, (n, pair) in enumerate(zip(self.in_shape[1:], self.pads, strict=True), 2):
            x = _pad(x, axis, n, pair, self.mode)
        y = _CONV[len(self.pads)][0](x, kernel, stride=self.stride, groups=groups)
        return y.reshape(*batch, self.shape[0])

    def apply_adjoint(self, w: Tensor) -> Tensor:
        y, kernel, batch, groups = self._grouped(w, self.out_shape)
        if not groups:
            return empty_batch(w, batch, self.shape[1])
        x = _CONV[len(self.pads)][1](y, kernel, stride=self.stride, groups=groups)
        for axis, (n, pair) in enumerate(zip(self.in_shape[1:], self.pads, strict=True), 2):
            x = _unpad(x, axis, n, pair, self.mode)
        return x.reshape(*batch, self.shape[1])

    def _grouped(self, z: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, tuple[int, ...], int]:
        """Coordinates as a batch of images in which each kernel of a batch has channels of its own, and the kernels as one."""
        batch = tuple(torch.broadcast_shapes(z.shape[:-1], self.batch))  # type: ignore[no-untyped-call]
        split = len(batch) - len(self.batch)
        kernels = math.prod(batch[split:])
        x = z.expand(*batch, z.shape[-1]).reshape(math.prod(batch[:split]), kernels * shape[0], *shape[1:])
        own = self.kernel.shape[len(self.batch) :]
        kernel = self.kernel.expand(*batch[split:], *own).reshape(kernels * own[0], *own[1:])
        return x, kernel, batch, kernels * self.groups

    def _scaled(self, a: Scalar) -> LinearOperator:
        return self._with(per_matrix(a, len(self.in_shape) + 1) * self.kernel)

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Convolution) and self._geometry() == other._geometry():
            return self._with(self.kernel + other.kernel)
        return super()._plus(other)

    def _geometry(self) -> tuple[object, ...]:
        own = self.kernel.shape[len(self.batch) :]
        return self.in_shape, tuple(own), self.pads, self.mode, self.stride, self.groups

    def _with(self, kernel: Tensor) -> "Convolution":
        return Convolution(kernel, self.in_shape, padding=self.pads, mode=self.mode, stride=self.stride, groups=self.groups)

    def circulant(self) -> BlockCirculant | None:
        if self.mode != "circular" or self.stride != 1 or self.in_shape[1:] != self.out_shape[1:]:
            return None
        d = len(self.pads)
        own = self.kernel.shape[-d - 2 :]
        kernel = self.kernel.reshape(*self.batch, self.groups, own[0] // self.groups, 1, *own[1:])
        eye = torch.eye(self.groups, dtype=kernel.dtype, device=kernel.device)
        response = (kernel * eye[(slice(None), None, slice(None), *(None,) * (d + 1))]).reshape(
            *self.batch, self.out_shape[0], *self.in_shape[:1], *own[2:]
        )
        for axis, (n, (before, _)) in enumerate(zip(self.in_shape[1:], self.pads, strict=True), -d):
            taps = (before - torch.arange(response.shape[axis], device=kernel.device)) % n
            response = _add_at(response, axis, n, taps)
        return BlockCirculant.of(response, d)

    def extra_repr(self) -> str:
        return f"{self.in_shape} -> {self.out_shape}, kernel={tuple(self.kernel.shape)}, padding={self.pads} {self.mode}"


def _pads(padding: str | int | Sequence[tuple[int, int]], k: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis."""
    if padding == "same":
        return tuple(((j - 1) // 2, j - 1 - (j - 1) // 2) for j in k)
    if isinstance(padding, int | np.integer):
        return ((padding, padding),) * len(k)
    pairs = () if isinstance(padding, str) else tuple((int(b), int(a)) for b, a in padding)
    if len(pairs) != len(k):
        raise ShapeError(f"padding is 'same', a number, or {len(k)} pairs (before, after), got {padding!r}")
    return pairs


def _source(n: int, pair: tuple[int, int], mode: Mode, like: Tensor) -> Tensor:
    """Which of n entries each entry of the padded axis is a copy of."""
    place = torch.arange(-pair[0], n + pair[1], device=like.device)
    if mode == "circular":
        return place % n
    return place.clamp(0, n - 1) if mode == "replicate" else n - 1 - (n - 1 - place.abs()).abs()


def _pad(x: Tensor, axis: int, n: int, pair: tuple[int, int], mode: Mode) -> Tensor:
    if pair == (0, 0):
        return x
    if mode == "zeros":
        return F.pad(x, (0, 0) * (x.dim() - axis - 1) + pair)
    return x.index_select(axis, _source(n, pair, mode, x))


def _unpad(x: Tensor, axis: int, n: int, pair: tuple[int, int], mode: Mode) -> Tensor:
    """The adjoint of `_pad`; entries at the end of the padded axis that no output has seen may be missing from x."""
    missing = n + sum(pair) - x.shape[axis]
    x = F.pad(x, (0, 0) * (x.dim() - axis - 1) + (0, missing)) if missing else x
    if mode == "zeros":
        return x.narrow(axis, pair[0], n)
    return _add_at(x, axis, n, _source(n, pair, mode, x))


def _add_at(x: Tensor, axis: int, n: int, places: Tensor) -> Tensor:
    """An axis of length n where entry j of x is added at places[j]."""
    shape = list(x.shape)
    shape[axis] = n
    return x.new_zeros(shape).index_add(axis, places, x)
