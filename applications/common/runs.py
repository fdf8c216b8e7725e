"""The run folder: what a training leaves on disk, so that it survives `kill -9` at any moment and resumes exactly.

    config.json                  the settings; a resumed run must have the same
    metrics.jsonl                one line a logged step
    report.json                  what an evaluation found
    checkpoints/step-00000500/   config.json, model.safetensors: the moving average of the model, which `induced.load` opens;
                                 training.safetensors (the weights), optimizer.safetensors, optimizer.json, state.json
    samples/, tensorboard/       pictures and curves

`induced.load` of the run's folder gives the model of the newest checkpoint. A checkpoint is written to a temporary sibling,
synced, then renamed: it is there whole or not at all. Nothing is pickled. No state of a random generator is stored: all
randomness of a training is a pure function of (seed, step), so the step alone, with the seed in config.json, continues every
random sequence.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from applications.common.checkpoints import Checkpoint, read_checkpoint, step_of, write
from induced.errors import CheckpointError
from induced.serialization import notes
from induced.serialization.disk import PARTIAL, json_bytes, plain, remove, replace_file, sync, write_json
from induced.serialization.layout import CONFIG, read_config
from induced.serialization.writing import save_run

FREE_SETTINGS: Final = frozenset(
    {"steps", "log_every", "sample_every", "checkpoint_every", "keep", "micro_batch", "shard", "learning_rate", "clip"}
)
"""Settings that may change when a run is resumed: how long it goes on, what it leaves behind, on what devices, and what keeps it
from diverging."""

_OWN: Final = ("checkpoints", "samples", "tensorboard", "config.json", "metrics.jsonl", "report.json")


class Run:
    """A run folder.

    Arguments:
        folder: Where it is, or will be.
        later: Subfolders that hold later stages, runs themselves, the last one first: the model is that of the last stage.
    """

    def __init__(self, folder: str | os.PathLike[str], *, later: Sequence[str] = ()) -> None:
        self.folder, self.later = Path(folder), tuple(later)

    def begin(self, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        """Open the folder for training: clear leftovers of a killed process, check and write config.json.

        Arguments:
            config: All settings of the run, nested as they like, as JSON can hold them.
            resume: Go on with the checkpoints that are there.
            overwrite: Delete what an earlier run left (only files this class names) and start anew.

        Raises:
            CheckpointError: an earlier run is there and neither was asked; both were asked; a resumed run's settings
                differ from config.json beyond `FREE_SETTINGS`, or there is no config.json.
        """
        if resume and overwrite:
            raise CheckpointError(f"{self.folder}: resume and overwrite exclude each other; give one of them")
        found = [name for name in _OWN if (self.folder / name).exists()]
        if found and not (resume or overwrite):
            saved = [path.name for path in self.checkpoints()]
            raise CheckpointError(
                f"{self.folder}: already holds {', '.join(found)} of an earlier run"
                + (f"; its newest checkpoint is {saved[-1]}: give --resume to go on" if saved else "")
                + "; give --overwrite to delete these, or another folder with --out"
            )
        if resume:
            self._check_settings(config)
        for name in [] if resume else found:
            remove(self.folder / name)
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for leftover in (*self.folder.glob(PARTIAL + "*"), *(self.folder / "checkpoints").glob(PARTIAL + "*")):
            remove(leftover)
        save_run(self.folder, [f"{stage}/checkpoints" for stage in self.later] + ["checkpoints"], json.loads(json_bytes(config)))

    def config(self) -> dict[str, Any]:
        """Read the settings of the run, the notes of config.json.

        Returns:
            The settings.

        Raises:
            CheckpointError: it is missing, or none of a run or model.
        """
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
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
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
        self,
        step: int,
        model: Mapping[str, Tensor],
        average: nn.Module,
        optimizer: Mapping[str, Any],
        *,
        keep: int = 2,
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
            CheckpointError: the average's class is not registered; a state holds something other than tensors (or, in the
                optimiser's, JSON values); the disk is full; `keep` is below 1.
        """
        if keep < 1:
            raise CheckpointError(f"a run keeps at least 1 checkpoint (2 for a fallback), got keep={keep}")
        place = self.folder / "checkpoints"
        target = place / f"step-{step:08d}"
        partial = place / f"{PARTIAL}{target.name}-{os.getpid()}"
        remove(partial)
        write(partial, step, model, average, optimizer, self.config() | {"step": step})
        sync(partial)
        if (self.folder / "metrics.jsonl").exists():
            sync(self.folder / "metrics.jsonl")
        _discard(target)
        os.replace(partial, target)
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
            CheckpointError: there is none; the newest is damaged and no fallback was asked; or all are damaged.
        """
        paths = self.checkpoints()
        if not paths:
            raise CheckpointError(f"{self.folder}: holds no checkpoint to resume from; start without --resume")
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
            return replace(found, note=f"fell back to {path.name}: {'; '.join(damage)}") if damage else found
        raise CheckpointError(f"{self.folder}: no checkpoint is whole: {'; '.join(damage)}. --overwrite starts anew")

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

    def _check_settings(self, config: Mapping[str, Any]) -> None:
        """Refuse settings that would make the resumed run another run."""
        stored, given = _flatten(self.config()), _flatten(json.loads(json_bytes(config)))
        differing = [
            f"{name} (config.json: {_shown(stored, name)}, now: {_shown(given, name)})"
            for name in sorted(stored.keys() | given.keys())
            if name.rpartition(".")[2] not in FREE_SETTINGS and _shown(stored, name) != _shown(given, name)
        ]
        if differing:
            raise CheckpointError(
                f"{self.folder}: cannot resume with other settings: {', '.join(differing)}. Give the same ones, or "
                f"another folder with --out; only {', '.join(sorted(FREE_SETTINGS))} may change"
            )


def last_stage(folder: Path) -> Run | None:
    """The last stage of a run that has checkpoints; None where the folder is no run or has none."""
    try:
        places = read_config(folder / CONFIG).get("newest_of", [])
    except CheckpointError:
        return None
    stages = (Run((folder / place).parent) for place in places if isinstance(place, str))
    return next((stage for stage in stages if stage.checkpoints()), None)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


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
