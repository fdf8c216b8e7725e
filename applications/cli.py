"""The `induced` command: train, look at, and prove properties of models built on the library."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch

from induced.errors import DomainError, InducedError, MissingExtra

try:
    import tyro
except ImportError as error:
    raise MissingExtra(f"the command line needs tyro ({error}): install induced[apps]") from error

from applications.check import check_object, load_object, require_laws, table
from applications.common.data import ImageSet, images_of_shape, to_uint8, to_unit, unit_shape
from applications.common.figures import captioned_rows, grid, save_png
from applications.common.quality import quality
from applications.common.runs import Run
from applications.flow_matching import evaluate, store
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import direction, encode, interpolate, move, noise
from applications.flow_matching.sampling import sample as draw
from applications.flow_matching.tour import BRIEF
from applications.flow_matching.tour import tour as run_tour
from applications.flow_matching.train import train as run_training
from applications.idempotent import store as projectors
from applications.idempotent.commands import anomaly_command, generate, project_command, train_idempotent
from applications.style_transfer import store as stylists
from applications.style_transfer.commands import add_style, style, styles_command, train_style_transfer
from induced.checks import require

app = tyro.extras.SubcommandApp()
training = tyro.extras.SubcommandApp()
app.command(training, name="train", help="Train an application into a run folder.")

DataDir = Annotated[Path | None, tyro.conf.arg(help="Folder with data sets; beats $INDUCED_DATA.")]
RunFolder = Annotated[Path | None, tyro.conf.arg(help="Run folder to take the model from; the pretrained one if absent.")]
Target = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[MODULE:OBJECT]")]
Method = Literal["euler", "midpoint", "rk4", "magnus4"]
DataName = Literal["mnist5k", "mnist", "fashion-mnist", "avatars64", "celeba", "folder"]

training.command(name="idempotent")(train_idempotent)
app.command(name="project")(project_command)
app.command(generate)
app.command(name="anomaly")(anomaly_command)

training.command(name="style-transfer")(train_style_transfer)
app.command(style)
app.command(name="styles")(styles_command)
app.command(add_style)


@training.command(name="flow-matching")
def train_flow_matching(
    config: tyro.conf.OmitArgPrefixes[Config],
    out: Path = Path("runs/flow-matching"),
    data_dir: DataDir = None,
    resume: bool = False,
    fallback: bool = False,
    overwrite: bool = False,
    device: Literal["auto", "cpu"] = "auto",
) -> None:
    """Train one-step flow matching.

    Args:
        config: What to train.
        out: Run folder: config, metrics, checkpoints, samples, TensorBoard.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        resume: Go on from the newest checkpoint in the run folder.
        fallback: If the newest checkpoint is damaged, resume from the one before it.
        overwrite: Delete an earlier run in the folder.
        device: "auto" takes an accelerator if there is one.
    """
    result = run_training(
        config, Run(out), data_dir=data_dir, resume=resume, overwrite=overwrite, fallback=fallback, device=device
    )
    print(f"{result.steps} steps, {result.images_per_second:.0f} images/s, loss {result.losses['loss']:.4f}; run folder {out}")


@app.command
def export(run: Path, out: Path, fallback: bool = False) -> None:
    """Write the averaged weights of a run as config.json and a half-precision model.safetensors.

    Args:
        run: Run folder.
        out: Folder to write.
        fallback: If the newest checkpoint is damaged, take the one before it.
    """
    write = {"idempotent": projectors.export, "style_transfer": stylists.export}
    application = str(Run(run).config().get("application"))
    print(f"wrote {write.get(application, store.export)(run, out, fallback=fallback)}")


@app.command
def sample(
    run: RunFolder = None,
    fallback: bool = False,
    n: int = 64,
    steps: int = 100,
    method: Method = "rk4",
    seed: int = 0,
    out: Path = Path("samples.png"),
) -> None:
    """Draw digits in ONE step with the collapsed operator.

    Args:
        run: Run folder to take the model from; the pretrained one if absent.
        fallback: If the newest checkpoint is damaged, take the one before it.
        n: How many.
        steps: Integrator steps that the one step stands for.
        method: Integrator.
        seed: Seed of the noise.
        out: Picture to write.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = _model(run, fallback)
    with torch.no_grad():
        images = model.operator(steps, method)(noise(model, n, seed))
    print(f"wrote {save_png(out, grid(to_uint8(images), columns=8), scale=2)}")


@app.command
def invert(
    run: RunFolder = None,
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 100,
) -> None:
    """Encode held-out images with the pseudoinverse, decode them, and print the PSNR.

    Args:
        run: Run folder to take the model from; the pretrained one if absent.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many.
    """
    model = _model(run, fallback)
    images = _test_images(_held_out(model, data, data_dir), n)
    with torch.no_grad():
        f = model.operator()
        found = evaluate.inversion(f, images)
        rows = [("image", images[:10]), ("encoding", encode(f, images[:10]) / 3), ("f(encoding)", f(encode(f, images[:10])))]
    path = captioned_rows("inversion.png", [(label, to_uint8(row)) for label, row in rows])
    print(f"{found.images} held-out images of {data}: PSNR {found.psnr_mean:.1f} dB (worst {found.psnr_min:.1f} dB), ")
    print(f"encodings have standard deviation {found.encoding_std:.2f}, noise has 1; wrote {path}")


@app.command(name="interpolate")
def interpolate_command(
    first: int = 0,
    second: int = 50,
    run: RunFolder = None,
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    count: int = 10,
    out: Path = Path("interpolation.png"),
) -> None:
    """Walk the induced segment between the encodings of two held-out images.

    Args:
        first: Index of the first image.
        second: Index of the second image.
        run: Run folder to take the model from; the pretrained one if absent.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        count: Images on the way, ends included.
        out: Picture to write.
    """
    model = _model(run, fallback)
    images = to_unit(_held_out(model, data, data_dir).images)
    for index in (first, second):
        if not 0 <= index < len(images):
            raise DomainError(f"--first and --second lie in 0..{len(images) - 1} for the test images of {data}, got {index}")
    with torch.no_grad():
        strip = interpolate(model.operator(), images[first], images[second], count)
    print(f"wrote {save_png(out, grid(to_uint8(strip), columns=count), scale=2)}")


@app.command
def edit(
    from_class: int = 4,
    to_class: int = 9,
    run: RunFolder = None,
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 8,
    out: Path = Path("edit.png"),
) -> None:
    """Move held-out images of one class along the difference of the induced means of two classes of training images.

    Args:
        from_class: Class of the images that are edited, and where the direction starts.
        to_class: Class that it leads to.
        run: Run folder to take the model from; the pretrained one if absent.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many images, one a row.
        out: Picture to write: each row from -0.5 to 1.5 times the direction, the digit itself at 0.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = _model(run, fallback)
    known, held_out = (images_of_shape(data, split, model.config.shape, data_dir) for split in ("train", "test"))
    classes = [to_unit(known.images[known.labels == label][:500]) for label in (from_class, to_class)]
    images = to_unit(held_out.images[held_out.labels == from_class][:n])
    with torch.no_grad():
        f = model.operator()
        along = direction(f, *classes)
        amounts = torch.linspace(-0.5, 1.5, 9)
        rows = torch.cat([move(f, x, along, amounts) for x in images])
    print(f"wrote {save_png(out, grid(to_uint8(rows), columns=len(amounts)), scale=2)}")


@app.command
def judge(
    run: RunFolder = None,
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 500,
    likelihood: int = 100,
    seed: int = 0,
) -> None:
    """Judge samples by real images (Frechet distance, precision, recall, classes), and held-out images by their likelihood.

    Args:
        run: Run folder to take the model from; the pretrained one if absent.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Samples, compared with as many held-out images for several numbers of integrator steps.
        likelihood: Held-out images whose bits per dimension are averaged; 0 for none.
        seed: Seed of the noise.
    """
    if n < 2 or likelihood < 0:
        raise DomainError(f"--n is at least 2 and --likelihood not negative, got {n} and {likelihood}")
    model = _model(run, fallback)
    real = _held_out(model, data, data_dir)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for steps in (1, 10, 100, 1000):
            found = quality(draw(model.operator(steps), noise(model, n, seed)), real, data_dir)
            scores = (
                f"{name} {getattr(found, name):.3f}" for name in ("frechet", "precision", "recall", "confident", "imbalance")
            )
            print(f"{steps:>5} steps in one: {'  '.join(scores)}  ({found.samples} samples, {found.features})")
        if likelihood:
            chosen = torch.linspace(0, len(real) - 1, likelihood).round().long()
            u = torch.rand(unit_shape(real.images[chosen]), generator=generator)
            bits = evaluate.bits_per_dimension(model, model.operator(), real.images[chosen], u)
            print(f"{float(bits.mean()):.3f} bits per dimension over {likelihood} held-out images")


@app.command
def check(
    target: Target = None,
    samples: int = 8,
    seed: int = 0,
    radius: float = 2.0,
    run: RunFolder = None,
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
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Images that the laws are checked at.
    """
    if target is not None:
        if run is not None:
            raise InducedError(f"check either the object {target} or the model of --run {run}, not both")
        parts = check_object(load_object(target), samples=samples, seed=seed, radius=radius)
        print("\n\n".join(f"{part}\n{table(found)}" for part, found in parts.items()))
        return require_laws(target, [report for found in parts.values() for report in found])
    model = _model(run, fallback)
    reports = evaluate.axioms(model, _test_images(_held_out(model, data, data_dir), n))
    for dtype, rows in reports.items():
        print(f"{dtype}")
        for report in rows:
            print(f"  {report}")
    require(*reports.values())


@app.command
def tour(out: Path = Path("runs/tour"), steps: int = BRIEF.training.steps, overwrite: bool = True) -> None:
    """Train briefly on the embedded digits, then show and prove what the model is: what `make demo` runs.

    Args:
        out: Folder for the run and all figures.
        steps: Training steps of the first stage; both take five to ten minutes on two cores at the default.
        overwrite: Delete an earlier tour in the folder.
    """
    run_tour(out, config=replace(BRIEF, training=replace(BRIEF.training, steps=steps)), overwrite=overwrite)


def _model(run: Path | None, fallback: bool) -> FlowMatching:
    return store.load_pretrained() if run is None else store.load_run(run, fallback=fallback)


def _held_out(model: FlowMatching, data: DataName, data_dir: Path | None) -> ImageSet:
    return images_of_shape(data, "test", model.config.shape, data_dir)


def _test_images(data: ImageSet, n: int) -> torch.Tensor:
    """n images spread evenly over a set."""
    if not 1 <= n <= len(data):
        raise DomainError(f"--n lies in 1..{len(data)}, the images that {data.name} has, got {n}")
    chosen = torch.linspace(0, len(data) - 1, n).round().long()
    return to_unit(data.images[chosen])


def main() -> None:
    """Run the command; an error of the library ends it with its message alone."""
    try:
        app.cli(prog="induced", description="Networks that are exactly linear between induced vector spaces.")
    except InducedError as error:
        sys.exit(f"induced: {error}")


if __name__ == "__main__":
    main()
