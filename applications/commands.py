"""The commands that work on the models of every application."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from tyro.conf import Positional, arg

from applications.application import Application, owner
from applications.common import kinds
from applications.common.devices import pick
from applications.common.options import Count, Device, Folder, ModelFolder, ModelSource, Seed
from applications.common.runs import Run
from applications.info import described, progress
from induced import LinearOperator, Report, check
from induced.checks.loading import load_object
from induced.checks.report import Reports
from induced.checks.run import SAMPLES
from induced.errors import InducedError, LawViolation


def training(application: Application, options: Sequence[str] = ()) -> Callable[..., None]:
    """The command that trains an application; the options of its settings are recorded in the run."""
    about = summary(application.Config)

    def command(
        config: Any,
        out: Path = Path("runs") / application.name,
        data_dir: Folder = None,
        resume: bool = False,
        fallback: bool = False,
        overwrite: bool = False,
        device: Device = "auto",
    ) -> None:
        how = {"resume": resume, "overwrite": overwrite, "fallback": fallback, "device": device}
        found = application.train(config, Run(out, command=shlex.join(options)), data_dir=data_dir, **how)
        print("\n".join([f"run folder {out}, {found.rows_per_second:.3g} rows/s, {found.seconds:.0f} s", *progress(out)]))

    command.__annotations__["config"] = application.Config
    command.__doc__ = f"""Train {application.name} into a run folder: {about}

    Args:
        config: What to train.
        out: Run folder: config, metrics, checkpoints, samples, TensorBoard.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        resume: Go on from the newest checkpoint in the run folder; its config.json has the other options, save those given anew.
        fallback: If the newest checkpoint is damaged, resume from the one before it.
        overwrite: Delete an earlier run in the folder.
        device: Where to compute: cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if it has float64.
    """
    return command


def summary(what: object) -> str:
    """The first sentence of a docstring."""
    return (what.__doc__ or "").strip().partition("\n\n")[0].replace("\n    ", " ")


def check_command(
    source: ModelSource,
    target: Annotated[str | None, Positional, arg(metavar="[MODULE:OBJECT]")] = None,
    n: Count | None = None,
    seed: Seed = 0,
    radius: float | None = None,
    data: str | None = None,
    data_dir: Folder = None,
    skip_bad: bool = False,
) -> None:
    """Check every law, in float32 and float64, on a trained model or on your own module:object; fails if one does not hold.

    Args:
        source: The model.
        target: module:object, a chart, space, operator or map of your own, or what makes one; the trained model if absent. It
            stays where it is unless --device names a device.
        n: Points that the laws are checked at, drawn in coordinates, and rows of the data set; 8 if absent, but 2
            points of more than 65,536 coordinates.
        seed: Seed of the points.
        radius: Largest norm of their coordinates; 2 if absent, or 4,096 steps in each of a lattice.
        data: Data set or table that the application checks its model at; if absent, the embedded digits where they have the
            model's shape, and samples of a model of vectors.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        skip_bad: Leave out pictures of celeba and folder that cannot be decoded.
    """
    if target is None:
        folder = source.folder()
        model, application, name = source.load(nn.Module), owner(folder), str(folder)
        if source.run is None and source.pretrained is None:
            print(f"the model that ships in {folder}:")
    elif replace(source, device="auto") != ModelSource():
        raise InducedError(f"check either the object {target} or the model of a folder, not both")
    elif Path(target).is_dir():
        raise InducedError(f"{target} is a folder: `induced check --run {target}` checks the model in it")
    else:
        model, application, name = load_object(target), None, target
        if source.device != "auto":
            model.to(pick(source.device))
    thing = _checked(model, application)
    found = Reports()
    for dtype in (torch.float32, torch.float64):
        reports = check(thing, samples=n, seed=seed, radius=radius, dtype=dtype)
        found += [replace(report, part=f"{str(dtype).removeprefix('torch.')}: {report.part}") for report in reports]
    if application is not None and application.laws is not None:
        found += application.laws(model, SAMPLES if n is None else n, data, data_dir, skip_bad)
    print(found)
    settled = Reports(report for report in found if not _hidden(report, found))
    if len(settled) < len(found):
        print(f"{len(found) - len(settled)} of those are unjudgeable in float32, whose roundings hide them, and hold in float64")
    if not settled.ok:
        raise LawViolation(f"{name}: {found.summary()}")


def _hidden(report: Report, found: Reports) -> bool:
    """Whether float32 is too coarse to judge a law that holds in float64."""
    if report.verdict != "unjudgeable" or not report.part.startswith("float32"):
        return False
    part = report.part.replace("float32", "float64", 1)
    verdicts = {other.verdict for other in found if (other.part, other.law) == (part, report.law)}
    return verdicts == {"holds"}


def _checked(model: Any, application: Application | None) -> Any:
    """What the laws are about: the map of an application's model, else the thing itself."""
    if application is not None:
        return application.operator(model)
    return model.operator() if callable(getattr(model, "operator", None)) and not isinstance(model, LinearOperator) else model


def export(source: ModelFolder, out: Path) -> None:
    """Write a model alone, a run's moving average, as config.json and a half-precision model.safetensors.

    Args:
        source: The model.
        out: Folder to write.
    """
    print(f"wrote {kinds.export(source.folder(), out, fallback=source.fallback)}")


def info(source: ModelFolder, folder: Annotated[Path | None, Positional, arg(metavar="[FOLDER]")] = None) -> None:
    """Show what a folder holds: application, settings, steps done, sizes, figures.

    Args:
        source: The model, where no folder is given.
        folder: A run, a checkpoint, an export, a shipped model, or any other that `induced.load` opens.
    """
    if folder is not None and source != ModelFolder():
        raise InducedError(f"info shows one folder, got {folder} and --run, --pretrained or --fallback")
    print(described(source.folder() if folder is None else folder))
