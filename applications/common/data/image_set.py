"""A set of images with their classes, and attributes where they have some; a source of images in [-1, 1)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from applications.common.data.pixels import scaled, to_unit, unit_shape
from applications.common.data.source import Batch, Source, fits, rows
from applications.common.randomness import Asked, Noise
from induced.errors import DomainError, DtypeError, ShapeError


@final
@dataclass(frozen=True, eq=False)
class ImageSet(Source):
    """Images with their classes, as stored: no scaling, no padding. A training takes them padded and in [-1, 1).

    Arguments:
        name: What reports call the data.
        images: uint8, `(N, C, H, W)`.
        labels: int64, `(N,)`.
        attributes: uint8, `(N, k)`, or None: what else is known of each image.
        attribute_names: Their k names.
        class_names: Names of the classes 0, 1, ...; their numbers if none.
        noise: Whether a training sees pixels uniform in their bins, or in the middle.

    Raises:
        DtypeError: images or attributes are not uint8, or labels not int64.
        ShapeError: images have no four dimensions, or labels or attributes do not match them one to one.
    """

    name: str
    images: Tensor
    labels: Tensor
    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    noise: bool = True

    def __post_init__(self) -> None:
        """Refuse tensors that are no image set."""
        attributes = self.images.new_empty(len(self.images), 0) if self.attributes is None else self.attributes
        held = {"images": self.images, "labels": self.labels, "attributes": attributes}
        for (name, tensor), dtype in zip(held.items(), (torch.uint8, torch.int64, torch.uint8), strict=True):
            if tensor.dtype != dtype:
                raise DtypeError(
                    f"image set {self.name!r} holds {name} of {tensor.dtype}, expected {dtype} (to_uint8 makes images)"
                )
        n, k = len(self.images), len(self.attribute_names)
        if self.images.ndim != 4 or self.labels.shape != (n,) or attributes.shape != (n, k):
            shapes = ", ".join(f"{name} of shape {tuple(tensor.shape)}" for name, tensor in held.items())
            raise ShapeError(f"image set {self.name!r} holds {shapes}; expected (N, C, H, W), (N,) and (N, {k}) for {k} names")

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def batch(self, indices: Tensor) -> Batch:
        """The chosen "images", `(n, C, H', W')` in [-1, 1), pixels in the middle of their bins (`to_unit`)."""
        return {"images": to_unit(rows(self.images, indices))}

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        """Where in its bin each pixel lies, in [0, 1)."""
        return {"noise": Noise((n, *unit_shape(self.images)[1:]), normal=False)} if self.noise else {}

    def randomised(self, indices: Tensor, draws: Mapping[str, Tensor]) -> Batch:
        """The chosen "images", dequantised: in [-1, 1), and uniform in the bins of their pixels, if there is to be noise."""
        if not draws:
            return self.batch(indices)
        # unchecked: the noise comes from `draw`, and a look at values on an accelerator would wait for it
        return {"images": scaled(rows(self.images, indices), draws["noise"])}

    def stored(self) -> Mapping[str, Tensor]:
        """The images, which are what a training sees."""
        return {"images": self.images}

    def record(self) -> dict[str, Any]:
        """The same, with the names of the classes if they have some."""
        return super().record() | ({"classes": list(self.class_names)} if self.class_names else {})

    def on(self, device: torch.device) -> "ImageSet":
        """The images on a device, if they fit."""
        return replace(self, images=self.images.to(device)) if fits(self.stored(), device) else self

    def class_of(self, name: str) -> int:
        """The number of a class, of its name or of its number as text.

        Raises:
            DomainError: no image is of it; the message lists the classes.
        """
        return class_named(name, set(self.labels.tolist()), self.class_names, self.name)

    def spread(self, n: int) -> "ImageSet":
        """n images spread evenly over the set, first and last included: many sets are sorted by class.

        Raises:
            DomainError: n is not in 1..len.
        """
        if not 1 <= n <= len(self):
            raise DomainError(f"n lies in 1..{len(self)}, the number of images of {self.name}, got {n}")
        chosen = torch.linspace(0, len(self) - 1, n).round().long()
        attributes = None if self.attributes is None else self.attributes[chosen]
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], attributes=attributes)


def class_named(name: str, kinds: Iterable[int], names: Sequence[str], whose: str) -> int:
    """Which of the classes `kinds` has a name: one of `names`, those of the classes 0, 1, ..., or its number beyond them.

    Raises:
        DomainError: none has; the message says whose classes they are, and lists them.
    """
    there = {names[k] if k < len(names) else str(k): k for k in sorted(kinds)}
    if name not in there:
        raise DomainError(f"{whose} has no images of a class {name!r}; its classes are {', '.join(there)}")
    return there[name]


def image_set(name: str, images: np.ndarray, labels: np.ndarray, *more: Any, **named: Any) -> ImageSet:
    """Wrap arrays, without copying the images; labels widen to int64. What is known besides is given as to `ImageSet`."""
    return ImageSet(name, torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), *more, **named)
