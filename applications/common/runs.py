"""The run folder: what a training leaves on disk, so that it survives `kill -9` at any moment and resumes exactly.

    config.json                  the settings; a resumed run must have the same
    metrics.jsonl                one line a logged step
    report.json                  what an evaluation found
    checkpoints/step-00000500/   config.json, model.safetensors: the moving average of the model, which `induced.load` opens;
                                 training.safetensors (the weights, the moments), state.json
    samples/, tensorboard/       pictures and curves
    manifest.json                what the run writes: only this is deleted by --overwrite

`induced.load` of the run's folder gives the model of the newest checkpoint. A checkpoint is written to a temporary sibling,
synced, then renamed: it is there whole or not at all. Nothing is pickled. No state of a random generator is stored: all
randomness of a training is a pure function of (seed, step), so the step alone, with the seed in config.json, continues every
random sequence.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from applications.common.checkpoints import Checkpoint, read_checkpoint, step_of, write
from applications.common.locks import held
from applications.common.manifest import FILES, NAME, conflicts, delete_run, require_within, stages_of
from applications.common.settings import flat
from induced.errors import CheckpointError
from induced.serialization import notes
from induced.serialization.disk import PARTIAL, cannot, json_bytes, plain, remove, replace_file, sync, write_json
from induced.serialization.layout import CONFIG, read_config
from induced.serialization.writing import save_run

FREE_SETTINGS: Final = frozenset(
    {"steps", "log_every", "sample_every", "checkpoint_every", "keep", "micro_batch", "shard", "learning_rate", "clip"}
)
"""Settings that may change when a run is resumed: how long it goes on, what it leaves behind, on what devices, and what keeps it
from diverging."""

LOCK: Final = ".lock"
COMMAND: Final = "command"
_OF_A_CHECKPOINT: Final = frozenset({"step", COMMAND, "name"})
"""What a checkpoint's record may have otherwise than its run's: data may have another place, which is their name."""


class Run:
    """A run folder.

    Arguments:
        folder: Where it is, or will be.
        later: Subfolders that hold later stages, runs themselves, the last one first: the model is that of the last stage.
        command: Options of a command line, recorded in config.json: what `induced train --resume` takes them from.
        label: What bars and lines of the log call a step.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        later: Sequence[str] = (),
        command: str = "",
        label: str = "step",
    ) -> None:
        self.folder, self.later, self.command, self.label = Path(folder), tuple(later), command, label
        self._is_locked = False

    def check(self, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False, needed: int = 0) -> list[str]:
        """Whether `begin` may: nothing is changed.

        Arguments:
            config: Settings of the run; without "data" where those are not read yet.
            resume: Go on with the checkpoints that are there.
            overwrite: Delete what an earlier run left, by its manifest, and start anew.
            needed: Bytes that the run will take on disk.

        Returns:
            Settings that change on resume, in words.

        Raises:
            CheckpointError: as `begin`.
        """
        if resume and overwrite:
            raise CheckpointError(f"{self.folder}: resume and overwrite exclude each other; give one of them")
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder}: is a file; a run is a folder: choose another name with --out")
        if (self.folder / LOCK).exists():  # before advice to overwrite what another process trains
            with self.locked():
                pass
        if resume and not ((self.folder / CONFIG).exists() and "newest_of" in read_config(self.folder / CONFIG)):
            raise CheckpointError(f"{self.folder}: holds no run to go on with; start without --resume")
        if overwrite:
            require_within(self.folder)
        is_run, found = stages_of(self.folder) is not None, conflicts(self.folder)
        if not is_run and found and not resume:
            raise CheckpointError(
                f"{self.folder}: holds {', '.join(sorted(found)[:6])} and no {NAME} of a run, so these are files of something "
                "else: they are neither deleted nor written over; choose another folder with --out"
            )
        if is_run and not (resume or overwrite):
            saved = [path.name for path in self.checkpoints()]
            raise CheckpointError(
                f"{self.folder}: already holds {', '.join(found) or NAME} of an earlier run"
                + (f"; its newest checkpoint is {saved[-1]}: give --resume to go on" if saved else "")
                + "; give --overwrite to delete these, or another folder with --out"
            )
        changed = self._changed_settings(config) if resume else []
        self._require_room(needed)
        return changed

    def begin(self, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False, needed: int = 0) -> list[str]:
        """Open the folder for training: check, clear leftovers of a killed process or an earlier run, write config.json.

        Arguments:
            config: All settings of the run, nested as they like, as JSON can hold them.
            resume, overwrite, needed: As for `check`.

        Returns:
            Settings that change on resume, in words.

        Raises:
            CheckpointError: an earlier run is there and neither was asked; both were asked; the folder holds files of something
                else, or too little room; a resumed run's settings differ from config.json beyond `FREE_SETTINGS`, or there is no
                config.json. Nothing has changed then.
        """
        changed = self.check(config, resume=resume, overwrite=overwrite, needed=needed)
        if not resume:
            delete_run(self.folder)
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for leftover in (*self.folder.glob(PARTIAL + "*"), *(self.folder / "checkpoints").glob(PARTIAL + "*")):
            remove(leftover)
        write_json(self.folder / NAME, {"files": FILES, "stages": sorted({*(stages_of(self.folder) or ()), *self.later})})
        self.configure(config)
        return changed

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write config.json: the settings, and which stage holds the model."""
        told = json.loads(json_bytes(config)) | ({COMMAND: self.command} if self.command else {})
        save_run(self.folder, [f"{stage}/checkpoints" for stage in self.later] + ["checkpoints"], told)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that trains in the folder; within it, once more is without effect.

        Raises:
            CheckpointError: another one does.
        """
        if self._is_locked:
            yield
            return
        with ExitStack() as stack:
            with cannot("be written", self.folder, "choose another folder with --out"):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.folder / LOCK, self._refuse))
            self._is_locked = True
            stack.callback(setattr, self, "_is_locked", False)
            yield

    def _refuse(self, other: str) -> None:
        raise CheckpointError(
            f"{self.folder}: {other} trains in this folder; wait for it, end it, or choose another folder with --out"
        )

    def config(self) -> dict[str, Any]:
        """Read the settings of the run, the notes of config.json; CheckpointError where there is none of a run or model."""
        return notes(self.folder)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; values that are not finite become strings ("inf", "nan").

        Arguments:
            record: JSON values, with "step".
        """
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(record)) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; a last line that a kill cut short is left out.

        Returns:
            One record a line, empty without the file.

        Raises:
            CheckpointError: a finished line is no record with a "step".
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                int(record["step"])
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f"{path}: line {number} is no record with a step: {line[:80]!r}") from error
            records.append(record)
        return records

    def report(self, record: Mapping[str, Any]) -> Path:
        """Write report.json whole; values that are not finite become strings ("inf", "nan").

        Arguments:
            record: JSON values.

        Returns:
            The path.
        """
        return write_json(self.folder / "report.json", record)

    def checkpoints(self) -> list[Path]:
        """List the folders of checkpoints, oldest first, unverified."""
        found = (path for path in (self.folder / "checkpoints").glob("step-*") if path.name[5:].isdecimal())
        return sorted(found, key=step_of)

    def save(
        self, step: int, model: Mapping[str, Tensor], average: nn.Module, optimizer: Mapping[str, Any], *, keep: int = 2
    ) -> Path:
        """Write a checkpoint, there whole or not at all whenever the process dies; then delete the oldest ones.

        Arguments:
            step: Steps done.
            model: State of the model that trains.
            average: The module that holds its moving average, of a registered class.
            optimizer: State of the optimiser.
            keep: Newest checkpoints that stay, at least 1; a fallback needs 2.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: the average's class is not registered; a state holds something other than tensors; the disk is
                full; `keep` is below 1.
        """
        place = self.folder / "checkpoints"
        target = place / f"step-{step:08d}"
        partial = place / f"{PARTIAL}{target.name}-{os.getpid()}"
        settings = {name: value for name, value in self.config().items() if name != COMMAND}
        with cannot("be written", target, "make room, then go on with --resume from the checkpoint before, if there is one"):
            remove(partial)
            try:
                write(partial, step, model, average, optimizer, settings | {"step": step})
                sync(partial)
                if (self.folder / "metrics.jsonl").exists():
                    sync(self.folder / "metrics.jsonl")
                _discard(target)
                os.replace(partial, target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            sync(place)
            for old in self.checkpoints()[:-keep]:
                _discard(old)
        return target

    def latest(self, fallback: bool = False) -> Checkpoint:
        """Read and verify the newest checkpoint.

        Arguments:
            fallback: If it is damaged, use the newest good one before it, and say so in `note`.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: there is none; the newest is damaged and no fallback was asked; all are damaged; or it
                was moved here from another run.
        """
        paths = self.checkpoints()
        if not paths:
            raise CheckpointError(f"{self.folder}: holds no checkpoint to resume from; --overwrite starts anew")
        damage: list[str] = []
        for path in reversed(paths):
            try:
                found = read_checkpoint(path)
            except CheckpointError as error:
                if not fallback:
                    older = f"--fallback resumes from the one before, {paths[-2].name}" if len(paths) > 1 else ""
                    raise CheckpointError(f"{error}. {older or 'There is none before it: --overwrite starts anew'}") from error
                damage.append(str(error))
                continue
            self._require_own(path)
            return replace(found, note=f"fell back to {path.name}: {'; '.join(damage)}") if damage else found
        raise CheckpointError(f"{self.folder}: no checkpoint is whole: {'; '.join(damage)}. --overwrite starts anew")

    def _require_own(self, path: Path) -> None:
        """Refuse a checkpoint whose own record has other settings or data than the run: it came here from another one."""
        stored, found = (dict(flat(settings)) for settings in (self.config(), notes(path)))
        others = [name for name in sorted(stored.keys() | found.keys()) if _shown(stored, name) != _shown(found, name)]
        differing = [name for name in others if name.rpartition(".")[2] not in _OF_A_CHECKPOINT | FREE_SETTINGS]
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{path}: is a checkpoint of another run: its {name} is {_shown(found, name)}, but {self.folder} has "
                f"{_shown(stored, name)}. Put it back, and the run's own checkpoint here; or start anew with --overwrite"
            )

    def rewind(self, step: int) -> None:
        """Make the folder what it was after `step`: later lines of metrics.jsonl and later checkpoints go.

        Later checkpoints exist only where a fallback passed over damaged ones; they are kept as `rejected-step-*`.

        Arguments:
            step: The step that training resumes from.

        Raises:
            CheckpointError: metrics.jsonl has a line that is no record.
        """
        records = [record for record in self.metrics() if record["step"] <= step]
        replace_file(self.folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
        for path in self.checkpoints():
            if step_of(path) > step:
                rejected = path.with_name("rejected-" + path.name)
                remove(rejected)
                os.replace(path, rejected)

    def steps(self) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        return max(map(step_of, self.checkpoints()), default=0)

    def digest(self) -> str:
        """SHA-256 of the weights of the newest checkpoint's model, by its config.json; empty where there is none."""
        try:
            return str(read_config(self.checkpoints()[-1] / CONFIG)["sha256"])
        except (CheckpointError, IndexError, KeyError):
            return ""

    def _changed_settings(self, config: Mapping[str, Any]) -> list[str]:
        """Refuse settings that would make the resumed run another run; list those that may change and do."""
        kept = {name: value for name, value in self.config().items() if name not in ("data", COMMAND) or name in config}
        stored, given = dict(flat(kept)), dict(flat(json.loads(json_bytes(config))))
        names = [name for name in sorted(stored.keys() | given.keys()) if _shown(stored, name) != _shown(given, name)]
        same = stored.get("data.sha256") == given.get("data.sha256")  # a file may have another place or name by now
        differing = [n for n in names if n.rpartition(".")[2] not in FREE_SETTINGS and not (n == "data.name" and same)]
        if differing:
            shown = (f"{name} (config.json: {_shown(stored, name)}, now: {_shown(given, name)})" for name in differing)
            data = "; the data are not those that it was trained on" if any(n.startswith("data.") for n in names) else ""
            advice = f"Give the same ones, or another folder with --out; only {', '.join(sorted(FREE_SETTINGS))} may change"
            if any((name in stored) != (name in given) for name in differing):
                advice = "What is absent on one side is of another release: go on with that one, or train anew in another --out"
            raise CheckpointError(f"{self.folder}: cannot resume with other settings: {', '.join(shown)}{data}. {advice}")
        return [f"{name} is {_shown(given, name)} from here on, it was {_shown(stored, name)}" for name in names]

    def _require_room(self, needed: int) -> None:
        """Refuse to begin what the disk cannot hold; checkpoints that are there already make room for others."""
        place = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        there = sum(file.stat().st_size for path in self.checkpoints() for file in path.iterdir())
        free = shutil.disk_usage(place).free
        if needed - there > free:
            raise CheckpointError(
                f"{self.folder}: the checkpoints take up to {needed} bytes, and {free} are free: make room, lower --keep, or "
                "choose another folder with --out"
            )


def last_stage(folder: Path) -> Run | None:
    """The last stage of a run that has checkpoints; None where the folder is no run or has none."""
    try:
        places = read_config(folder / CONFIG).get("newest_of", [])
    except CheckpointError:
        return None
    stages = (Run((folder / place).parent) for place in places if isinstance(place, str))
    return next((stage for stage in stages if stage.checkpoints()), None)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    """Show a setting as JSON, or that it is not there."""
    return json.dumps(settings[name]) if name in settings else "absent"


def _discard(path: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves no half of it under its name."""
    if path.exists():
        doomed = path.with_name(f"{PARTIAL}old-{path.name}-{os.getpid()}")
        remove(doomed)
        os.replace(path, doomed)
        remove(doomed)
