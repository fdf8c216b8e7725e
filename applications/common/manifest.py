"""What a run has left in its folder, by its own record: nothing else is ever deleted there."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeGuard

from induced.errors import CheckpointError
from induced.serialization.disk import PARTIAL, read_json, remove, write_json

NAME: Final = "manifest.json"
FILES: Final = (
    *("checkpoints/step-*", "checkpoints/rejected-step-*", f"checkpoints/{PARTIAL}*"),
    *("samples/step-*.png", "tensorboard/events.out.tfevents.*", "config.json", "metrics.jsonl", "report.json", f"{PARTIAL}*"),
)
"""What every training leaves."""


@dataclass(frozen=True)
class Manifest:
    """The record.

    Arguments:
        maker: What made the run: "train", or a program that trains on the way.
        files: Patterns of files and folders, relative to the run's folder.
        stages: Subfolders that are runs of later stages, with manifests of their own.
    """

    maker: str
    files: tuple[str, ...] = FILES
    stages: tuple[str, ...] = ()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run, None where the folder is no run.

    Raises:
        CheckpointError: it is damaged, or names files outside of the folder.
    """
    if not (path := folder / NAME).is_file():
        return None
    found = read_json(path)
    maker, files, stages = (found.get(name) for name in ("maker", "files", "stages"))
    if not isinstance(maker, str) or not _all_within(files) or not _all_within(stages):
        raise CheckpointError(f"{path}: is no manifest of a run, whose files lie in its folder: nothing is deleted there")
    return Manifest(maker, tuple(files), tuple(stages))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, before the files that it names."""
    write_json(folder / NAME, asdict(manifest))


def delete_run(folder: Path) -> None:
    """Delete what the manifest of a run lists, stages first, and folders that are empty then; without effect on another folder.

    Raises:
        CheckpointError: as `require_within`; nothing is deleted then.
    """
    require_within(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        return
    for stage in manifest.stages:
        delete_run(folder / stage)
    places: set[Path] = {folder / stage for stage in manifest.stages}
    for pattern in manifest.files:
        for path in list(folder.glob(pattern)):
            remove(path)
        places.add(folder / PurePosixPath(pattern).parent)
    (folder / NAME).unlink(missing_ok=True)
    for place in places - {folder}:
        with suppress(OSError):
            place.rmdir()


def require_within(folder: Path) -> None:
    """Refuse a run whose manifest lists what lies elsewhere.

    Raises:
        CheckpointError: as `read_manifest`; a pattern is none; or a link leads out of the folder to what is listed.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    try:
        places = [path.parent for pattern in manifest.files for path in folder.glob(pattern)]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / NAME}: lists what no file can be called ({error}): nothing is deleted there") from error
    for place in (*places, *(folder / stage for stage in manifest.stages)):
        if not place.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(
                f"{place}: leads out of {folder}, to {place.resolve()}: nothing is deleted there; remove the link, or choose "
                "another folder with --out"
            )
    for stage in manifest.stages:
        require_within(folder / stage)


def conflicts(folder: Path) -> list[str]:
    """What in a folder has the name of something that a run writes."""
    names = dict.fromkeys(PurePosixPath(pattern).parts[0] for pattern in FILES)
    return [name for name in names if "*" not in name and (folder / name).exists()]


def _all_within(names: Any) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) and _within(PurePosixPath(name)) for name in names)


def _within(path: PurePosixPath) -> bool:
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
