"""Sources: what a training takes its batches from, as named tensors, whatever the data are."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from applications.common.randomness import Asked
from induced.errors import ShapeError

Batch = dict[str, Tensor]
"""Named tensors whose first dimension is that of the batch."""

SHARE = 4
"""A source moves to the device if it takes at most one in so many of the bytes that are free there."""


class Source(ABC):
    """Rows of data of any kind: images, vectors, pairs, trajectories. The obligations are a length and `batch`.

    Law:
        `source.batch(i)[name] == source.batch(j)[name][k]` for `i = j[k]`: a row does not depend on the others
        (applications/test_sources.py)
    """

    name: str
    """What reports call the data."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the rows."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The chosen rows, as an objective takes them.

        Arguments:
            indices: int64, (n,), on the CPU.

        Returns:
            Named tensors (n, ...).
        """

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        """Ask for the random numbers that `randomised` needs for n rows, as `Objective.draw`; nothing, by default."""
        return {}

    def randomised(self, indices: Tensor, draws: Mapping[str, Tensor]) -> Batch:
        """The chosen rows as one step of training sees them; those of `batch`, by default.

        Arguments:
            indices: int64, (n,), where the stored tensors are.
            draws: What `draw` asked for, for these rows and there.
        """
        return self.batch(indices)

    def stored(self) -> Mapping[str, Tensor]:
        """The tensors that hold the data; none where they are made on demand."""
        return {}

    def on(self, device: torch.device) -> "Source":
        """This source with its data on a device; itself where they are there, or do not fit (see `SHARE`)."""
        return self

    def record(self) -> dict[str, Any]:
        """What a run records of its data: name, number of rows, fingerprint."""
        return {"name": self.name, "rows": len(self), "sha256": self.fingerprint()}

    def fingerprint(self) -> str:
        """SHA-256 of names, dtypes, shapes and bytes of the stored tensors, or of all rows; a resumed run compares it.

        Law:
            One other number in one row gives another fingerprint (applications/test_sources.py)
        """
        found = hashlib.sha256()
        for name, tensor in sorted((self.stored() or self.batch(torch.arange(len(self)))).items()):
            whole = tensor.detach().cpu().contiguous()
            found.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
            found.update(whole.flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()


@final
@dataclass(frozen=True, eq=False)
class Tensors(Source):
    """Rows of tensors of equal length, given as they are: vectors, pairs, coordinates.

    Arguments:
        name: What reports call the data.
        tensors: Named tensors (N, ...), at least one.
        made_from: Of tensors that were computed: what names all that they were computed from. It stands in for their bytes in the
            fingerprint, since another machine computes others.

    Raises:
        ShapeError: there is no tensor, or they differ in length.

    Example:
        >>> pairs = Tensors("pairs", {"x": torch.arange(6.0).view(3, 2), "y": torch.arange(3.0)})
        >>> pairs.batch(torch.tensor([2, 0]))["y"]
        tensor([2., 0.])
    """

    name: str
    tensors: Mapping[str, Tensor]
    made_from: str = ""

    def __post_init__(self) -> None:
        """Refuse tensors that are no rows."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            raise ShapeError(f"{self.name!r} needs one or more tensors with the same number of rows, got the shapes {shapes}")

    def __len__(self) -> int:
        """Count the rows."""
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: Tensor) -> Batch:
        """The chosen rows of each tensor."""
        return {name: rows(tensor, indices) for name, tensor in self.tensors.items()}

    def stored(self) -> Mapping[str, Tensor]:
        """The tensors."""
        return self.tensors

    def on(self, device: torch.device) -> Self:
        """These tensors on a device, if they fit."""
        if not fits(self.tensors, device):
            return self
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def fingerprint(self) -> str:
        """SHA-256 of `made_from`, or of the tensors."""
        return hashlib.sha256(self.made_from.encode()).hexdigest() if self.made_from else super().fingerprint()


def rows(tensor: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor, wherever it lies."""
    return tensor[indices.to(tensor.device)]


def fits(tensors: Mapping[str, Tensor], device: torch.device) -> bool:
    """Whether tensors take at most one in `SHARE` of the free bytes of a device; False on the CPU, where nothing is to move."""
    if device.type == "cpu":
        return False
    memory = getattr(torch.get_device_module(device), "mem_get_info", None)
    return memory is not None and SHARE * sum(t.numel() * t.element_size() for t in tensors.values()) <= memory(device)[0]
