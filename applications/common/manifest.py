"""What a run has left in its folder, by its own record: nothing else is ever deleted there."""

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from induced.errors import CheckpointError
from induced.serialization.disk import PARTIAL, read_json, remove

NAME: Final = "manifest.json"
"""Makes a folder a run, and lists its stages."""
FILES: Final = (
    *("checkpoints/step-*", "checkpoints/rejected-step-*", f"checkpoints/{PARTIAL}*"),
    *("samples/step-*.png", "tensorboard/events.out.tfevents.*", "config.json", "metrics.jsonl", "report.json", f"{PARTIAL}*"),
)
"""What every training leaves."""


def stages_of(folder: Path) -> tuple[str, ...] | None:
    """The subfolders that are later stages of a run, runs themselves; None where the folder is no run.

    Raises:
        CheckpointError: the manifest is damaged, or names other folders than such.
    """
    if not (path := folder / NAME).is_file():
        return None
    stages = read_json(path).get("stages")
    if not isinstance(stages, list) or any(PurePosixPath(str(stage)).name != stage or stage in ("", "..") for stage in stages):
        raise CheckpointError(f"{path}: is no manifest of a run, whose stages lie in its folder: nothing is deleted there")
    return tuple(stages)


def delete_run(folder: Path) -> None:
    """Delete what a training left, stages first, and folders that are empty then; without effect on a folder that is no run.

    Raises:
        CheckpointError: as `require_within`; nothing is deleted then.
    """
    require_within(folder)
    if (stages := stages_of(folder)) is None:
        return
    for stage in stages:
        delete_run(folder / stage)
    for path in [path for pattern in FILES for path in folder.glob(pattern)]:
        remove(path)
    (folder / NAME).unlink()
    for place in {*stages, *(PurePosixPath(pattern).parts[0] for pattern in FILES if "/" in pattern)}:
        with suppress(OSError):
            (folder / place).rmdir()


def require_within(folder: Path) -> None:
    """Refuse a run with links in the places that its files and stages have.

    Raises:
        CheckpointError: as `stages_of`; or a link leads out of the folder.
    """
    stages = stages_of(folder) or ()
    for place in (*(path.parent for pattern in FILES for path in folder.glob(pattern)), *(folder / stage for stage in stages)):
        if not place.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(
                f"{place}: leads out of {folder}, to {place.resolve()}: nothing is deleted there; remove the link, or choose "
                "another folder with --out"
            )
    for stage in stages:
        require_within(folder / stage)


def conflicts(folder: Path) -> list[str]:
    """What in a folder has the name of something that a run writes."""
    names = dict.fromkeys(PurePosixPath(pattern).parts[0] for pattern in FILES)
    return [name for name in names if "*" not in name and (folder / name).exists()]
