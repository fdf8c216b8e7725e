"""Models of applications as kinds that `induced.load` opens: each is built from its settings alone."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from applications.common.checkpoints import STATE
from applications.common.runs import COMMAND, last_stage
from induced.errors import CheckpointError
from induced.serialization import load, notes, register, save
from induced.serialization.writing import require_ours

M = TypeVar("M", bound=nn.Module)
_families: dict[type[nn.Module], str] = {}


def built_from(settings: type[Any], name: str) -> Callable[[type[M]], type[M]]:
    """Register, as a decorator, a model that is `cls(settings)` and keeps its settings, a dataclass, as `model.config`.

    Arguments:
        settings: The dataclass.
        name: What config.json calls the kind, "application.Class"; pyproject.toml has an entry point `application`.
    """

    def decorate(cls: type[M]) -> type[M]:
        known = {field.name for field in fields(settings)}

        def build(**given: Any) -> M:
            if given.keys() != known:  # a default that fills in may be another one than the model was trained with
                parts = ("lack", known - given.keys()), ("have the unknown", given.keys() - known)
                told = " and ".join(f"{what} {', '.join(sorted(names))}" for what, names in parts if names)
                raise CheckpointError(
                    f"its settings are of another release: they {told}. Open it with the release that saved it, or train it "
                    "anew; CHANGELOG.md says which settings have other names"
                )
            return cls(settings(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}))

        def describe(model: Any) -> dict[str, Any]:
            return asdict(model.config)

        register(cls, describe=describe, build=build, name=name)
        _families[cls] = name.partition(".")[0]
        return cls

    return decorate


def family(kind: type[nn.Module]) -> str:
    """The application of a class that is `built_from` settings, as config.json calls it; "" of others."""
    return _families.get(kind, "")


def load_model(folder: Path, kind: type[M], *, fallback: bool = False) -> M:
    """A model of one application: an exported one, or the moving average of the newest checkpoint of a run.

    Arguments:
        folder: What `induced.load` opens.
        kind: The class of the model.
        fallback: Where the newest checkpoint of a run is damaged, take the newest whole one before it, and say so.

    Raises:
        CheckpointError: the folder holds no such model, or it is damaged and no fallback was asked.
    """
    try:
        model = load(folder)
    except CheckpointError as error:
        if (run := last_stage(folder)) is None or len(saved := run.checkpoints()) < 2:
            raise
        if not fallback:
            raise CheckpointError(f"{error}. --fallback takes the checkpoint before, {saved[-2].name}") from error
        checkpoint = run.latest(fallback=True)
        print(checkpoint.note, flush=True)
        model = load(checkpoint.path)
    if not isinstance(model, kind):
        raise CheckpointError(
            f"{folder}: holds a {type(model).__name__}, expected a {kind.__name__}: `induced info {folder}` says what it has"
        )
    return model


def export(run: Path, folder: Path, *, fallback: bool = False) -> Path:
    """Write the model of a run, its moving average, in half precision unless it `keeps_digits`.

    Notes are the settings of the run but the model's own.

    Returns:
        The folder.

    Raises:
        CheckpointError: the run cannot be read, a weight does not fit half precision, or the folder holds something else.
    """
    require_place(run, folder)
    return export_model(load_model(run, nn.Module, fallback=fallback), run, folder)


def require_place(source: Path, folder: Path) -> None:
    """Refuse a folder that no model can be exported to, before work goes into one.

    Raises:
        CheckpointError: it is a file, the model's own, a run or checkpoint, whose training would be lost, or holds
            something else.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; a model is a folder: choose another with --out")
    if (folder / STATE).exists() or (folder.exists() and folder.samefile(source)):
        raise CheckpointError(
            f"{folder}: holds what is exported, or a checkpoint, which an export would replace: choose another folder with --out"
        )
    require_ours(folder, advice="choose another with --out")


def export_model(model: nn.Module, source: Path, folder: Path) -> Path:
    """`export` of a model at hand that was made from the one in the folder `source`.

    Raises:
        CheckpointError: as `require_place`, or as `export`.
    """
    require_place(source, folder)
    kept = {name: value for name, value in notes(source).items() if name not in ("model", COMMAND)}
    return save(model, folder, dtype=None if getattr(model, "keeps_digits", False) else torch.float16, notes=kept)
