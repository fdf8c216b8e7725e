"""Options that commands of several applications share."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

DataDir = Annotated[Path | None, tyro.conf.arg(help="Folder with data sets; beats $INDUCED_DATA.")]
RunFolder = Annotated[Path | None, tyro.conf.arg(help="Run folder to take the model from; the pretrained one if absent.")]
Pretrained = Annotated[Literal["mnist"], tyro.conf.arg(help="Shipped model, where no run is given.")]
DataName = Literal["mnist5k", "mnist", "fashion-mnist", "avatars64", "celeba", "folder"]
Digits = Literal["mnist5k", "mnist", "fashion-mnist"]
