"""Options that commands of several applications share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from torch import nn
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from applications.application import known, owner
from applications.common.data import ImageSet
from applications.common.data.sets import images_of_shape
from applications.common.devices import pick
from applications.common.kinds import family, load_model
from induced.errors import CheckpointError

DataName = Literal["mnist5k", "mnist", "fashion-mnist", "avatars64", "celeba", "folder"]
M = TypeVar("M", bound=nn.Module)
IMAGES: Final = 10**4
"""More images, held in memory and shown in one picture, are a slip of the hand; ..."""
MOST: Final = 10**6
"""... so are more rows or steps."""


def _whole(least: int, most: int) -> PrimitiveConstructorSpec[int]:
    """How an option is read that is a whole number in a range."""

    def read(given: list[str]) -> int:
        if not least <= (value := int(given[0])) <= most:
            raise ValueError(f"a whole number in {least}..{most} is needed, got {value}")
        return value

    return PrimitiveConstructorSpec(1, "INT", read, lambda value: isinstance(value, int), lambda value: [str(value)])


Count = Annotated[int, _whole(1, IMAGES)]
"""How many images, at least one; or pixels of a side."""
Number = Annotated[int, _whole(0, IMAGES)]
"""How many, or none."""
Many = Annotated[int, _whole(1, MOST)]
"""How many rows or steps, at least one."""
Seed = Annotated[int, _whole(0, 2**63 - 1)]
"""A seed that every generator takes."""

Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
"""A folder that may be left out: without the word None, which is no folder."""
Device = Annotated[str, arg(metavar="DEVICE")]
"""Where to compute, as `pick` takes it."""


@dataclass(frozen=True)
class DataSource:
    """Where a command takes images from."""

    data: DataName = "mnist5k"
    """Data set, read at the size that the model takes."""
    data_dir: Folder = None
    """Folder with data sets, of `folder` the pictures themselves; beats $INDUCED_DATA."""
    skip_bad: bool = False
    """Leave out pictures of celeba and folder that cannot be decoded."""

    def load(self, split: str, shape: tuple[int, ...]) -> ImageSet:
        """One split, of images of a shape (C, H, W); as `images_of_shape`."""
        return images_of_shape(self.data, split, shape, self.data_dir, skip_bad=self.skip_bad)


@dataclass(frozen=True)
class ModelFolder:
    """Where a command takes its model from; without --run and --pretrained, the first one that its application ships."""

    run: Folder = None
    """Folder of the model: a run, an export, or any other that `induced.load` opens."""
    pretrained: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Name of a shipped model, where no folder is given."""
    fallback: bool = False
    """If the newest checkpoint of the run is damaged, take the one before it."""

    def folder(self, kind: type[nn.Module] = nn.Module) -> Path:
        """The folder that holds the model.

        Arguments:
            kind: Class of the model; a shipped one of its application is taken.

        Raises:
            CheckpointError: both or neither are given and none ships, no model ships under the name, or the folder holds the
                model of another application: the message names what can be done with it.
        """
        if self.run is not None and self.pretrained is not None:
            raise CheckpointError(f"take the model from --run {self.run} or --pretrained {self.pretrained}, not both")
        mine = [one for one in known() if family(kind) in ("", one.family)]
        if self.run is None:
            shipped = {name: path for one in reversed(mine) for name, path in one.shipped().items()}
            if self.pretrained is not None and self.pretrained not in shipped:
                raise CheckpointError(f"no model {self.pretrained!r} ships; there are: {', '.join(shipped) or 'none'}")
            if not shipped:
                whose = " or ".join(f"`{one.name}`" for one in mine)
                raise CheckpointError(f"no model of {whose} ships: give --run FOLDER; `induced train {mine[0].name}` makes one")
            return shipped[self.pretrained or next(iter(shipped))]
        if family(kind) and (found := owner(self.run)) is not None and found not in mine:
            what = "run" if (self.run / "checkpoints").exists() else "model"
            raise CheckpointError(f"{self.run}: this is a {what} of `{found.name}`: it has {found.verbs(self.run)}")
        return self.run

    def load(self, kind: type[M]) -> M:
        """The model, on the CPU.

        Raises:
            CheckpointError: as `folder`, or it cannot be read.
        """
        return load_model(self.folder(kind), kind, fallback=self.fallback)


@dataclass(frozen=True)
class ModelSource(ModelFolder):
    """The same, and where the model computes."""

    device: Device = "auto"
    """Where to compute: cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if it has float64."""

    def load(self, kind: type[M]) -> M:
        """The model, on its device.

        Raises:
            CheckpointError: as `folder`, or it cannot be read.
            DomainError: as `pick`.
        """
        device = pick(self.device)
        return super().load(kind).to(device)
