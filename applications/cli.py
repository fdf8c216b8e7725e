"""The `induced` command: train, look at, and prove properties of models built on the library."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch

from induced.errors import InducedError, LawViolation, MissingExtra

try:
    import tyro
except ImportError as error:
    raise MissingExtra(f"the command line needs tyro ({error}): install induced[apps]") from error

from applications.common.data import to_unit
from applications.common.kinds import export as export_run
from applications.common.options import DataDir, DataName, Pretrained, RunFolder
from applications.flow_matching import evaluate
from applications.flow_matching.commands import (
    edit,
    held_out_for,
    interpolate_command,
    invert,
    judge,
    model_of,
    sample,
    train_flow_matching,
)
from applications.flow_matching.tour import BRIEF
from applications.flow_matching.tour import tour as run_tour
from applications.idempotent.commands import anomaly_command, generate, project_command, train_idempotent
from applications.style_transfer.commands import add_style, style, styles_command, train_style_transfer
from induced.checks import Reports, load_object, require
from induced.checks import check as check_all

app = tyro.extras.SubcommandApp()
training = tyro.extras.SubcommandApp()
app.command(training, name="train", help="Train an application into a run folder.")

training.command(name="flow-matching")(train_flow_matching)
app.command(sample)
app.command(invert)
app.command(name="interpolate")(interpolate_command)
app.command(edit)
app.command(judge)

training.command(name="idempotent")(train_idempotent)
app.command(name="project")(project_command)
app.command(generate)
app.command(name="anomaly")(anomaly_command)

training.command(name="style-transfer")(train_style_transfer)
app.command(style)
app.command(name="styles")(styles_command)
app.command(add_style)

Target = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODULE:OBJECT]")]


@app.command
def export(run: Path, out: Path, fallback: bool = False) -> None:
    """Write the averaged weights of a run as config.json and a half-precision model.safetensors.

    Args:
        run: Run folder.
        out: Folder to write.
        fallback: If the newest checkpoint is damaged, take the one before it.
    """
    print(f"wrote {export_run(run, out, fallback=fallback)}")


@app.command
def check(
    target: Target = None,
    samples: int = 8,
    seed: int = 0,
    radius: float = 2.0,
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 8,
) -> None:
    """Check every law, in float32 and float64, on a trained model or on your own module:object; fails if one does not hold.

    Args:
        target: module:object, a chart, space, operator or map of your own, or what makes one; the trained model if absent.
        samples: Of an object: points that the laws are checked at, drawn in coordinates.
        seed: Of an object: seed of the points.
        radius: Of an object: largest norm of their coordinates.
        run: Run folder to take the model from; the pretrained one if absent.
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Images that the laws are checked at.
    """
    if target is not None:
        if run is not None:
            raise InducedError(f"check either the object {target} or the model of --run {run}, not both")
        return check_object(target, samples, seed, radius)
    model = model_of(run, pretrained, fallback)
    reports = evaluate.axioms(model, to_unit(held_out_for(model, data, data_dir).spread(n).images))
    found = Reports(replace(report, part=dtype) for dtype, rows in reports.items() for report in rows)
    print(found)
    require(found)


def check_object(target: str, samples: int, seed: int, radius: float) -> None:
    """Print every law on module:object in both precisions; raise LawViolation, of one line, if one does not hold."""
    thing, found = load_object(target), Reports()
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        reports = check_all(thing, samples=samples, seed=seed, radius=radius, dtype=dtype)
        found += [replace(report, part=f"{name}: {report.part}") for report in reports]
    print(found)
    if not found.ok:
        raise LawViolation(f"{target}: {found.summary()}")


@app.command
def tour(out: Path = Path("runs/tour"), steps: int = BRIEF.training.steps, overwrite: bool = True) -> None:
    """Train briefly on the embedded digits, then show and prove what the model is: what `make demo` runs.

    Args:
        out: Folder for the run and all figures.
        steps: Training steps of the first stage; both take five to ten minutes on two cores at the default.
        overwrite: Delete an earlier tour in the folder.
    """
    run_tour(out, config=replace(BRIEF, training=replace(BRIEF.training, steps=steps)), overwrite=overwrite)


def main() -> None:
    """Run the command; an error of the library ends it with its message alone."""
    try:
        app.cli(prog="induced", description="Networks that are exactly linear between induced vector spaces.")
    except InducedError as error:
        sys.exit(f"induced: {error}")


if __name__ == "__main__":
    main()
