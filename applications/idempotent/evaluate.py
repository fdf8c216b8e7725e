"""What a trained projector is measured by: bits, and principal components beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from applications.idempotent.sampling import project
from induced import Linearizer


def same_bits(x: Tensor, y: Tensor) -> Tensor:
    """Which of the points (k, ...) are equal to the last bit, of shape (k,); 0 and -0 are not."""
    view = torch.int32 if x.dtype == torch.float32 else torch.int64
    same: Tensor = (x.contiguous().view(view) == y.contiguous().view(view)).flatten(1).all(1)
    return same


@dataclass(frozen=True)
class Bits:
    """Whether f(f(x)) is f(x), and f(x) that of x alone.

    Attributes:
        inputs: how many x.
        idempotent: of how many f(f(x)) has the bits of f(x).
        largest: largest |f(f(x)) - f(x)| of a pixel.
        compared: by size of the batch, how many f(x) were computed in such batches too.
        equal: how many of these had the bits of f(x).
    """

    inputs: int
    idempotent: int
    largest: float
    compared: dict[int, int]
    equal: dict[int, int]

    @property
    def ok(self) -> bool:
        """Whether no bit differed."""
        return self.idempotent == self.inputs and self.equal == self.compared


def bits(f: Linearizer, x: Tensor, sizes: Sequence[int] = (1, 7), compared: int | None = None) -> Bits:
    """Compare f(f(x)) with f(x), computed in batches of 256, and f(x) with what batches of other sizes give, bit for bit.

    Arguments:
        f: the projector.
        x: inputs (k, *shape).
        sizes: sizes of the other batches.
        compared: so many of the inputs are computed in these; all by default.
    """
    once = project(f, x)
    twice = project(f, once)
    some = x[:compared]
    equal = {size: int(same_bits(project(f, some, size), once[: len(some)]).sum()) for size in sizes}
    largest = float((twice - once).abs().max()) if len(x) else 0.0
    return Bits(len(x), int(same_bits(once, twice).sum()), largest, dict.fromkeys(sizes, len(some)), equal)


class PrincipalProjection:
    """The linear projector of a rank that is nearest to images: what the induced one is compared with.

    Arguments:
        images: (k, *shape), to which it is fitted; principal components about 0, as a projector keeps 0.
        rank: its rank.
    """

    def __init__(self, images: Tensor, rank: int) -> None:
        flat = images.flatten(1).double()
        if len(flat) < flat.shape[1]:  # the same, of the smaller Gram matrix
            self.Q = torch.linalg.qr(flat.mT @ torch.linalg.eigh(flat @ flat.mT)[1].flip(-1)[:, :rank]).Q
        else:
            self.Q = torch.linalg.eigh(flat.mT @ flat)[1].flip(-1)[:, :rank]

    def __call__(self, x: Tensor) -> Tensor:
        projected: Tensor = x.flatten(1).double() @ self.Q @ self.Q.mT
        return projected.to(x.dtype).reshape(x.shape)

    def distance(self, x: Tensor) -> Tensor:
        """|x - Q Q^T x| (k,)."""
        distance: Tensor = torch.linalg.vector_norm((x - self(x)).flatten(1).double(), dim=1)
        return distance
