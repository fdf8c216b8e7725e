"""The commands of the `induced` command line that train and use one-step flow matching."""

from pathlib import Path
from typing import Literal

import torch
import tyro

from applications.common.data import ImageSet, images_of_shape, to_uint8, to_unit, unit_shape
from applications.common.figures import captioned_rows, grid, save_png
from applications.common.kinds import load_model
from applications.common.options import DataDir, DataName, Pretrained, RunFolder
from applications.common.quality import quality
from applications.common.runs import Run
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.model import pretrained as pretrained_model
from applications.flow_matching.sampling import direction, encode, interpolate, move, noise
from applications.flow_matching.sampling import sample as draw
from applications.flow_matching.train import train
from applications.flow_matching.vectors import write_rows
from induced.errors import DomainError

Method = Literal["euler", "midpoint", "rk4", "magnus4"]


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
    result = train(config, Run(out), data_dir=data_dir, resume=resume, overwrite=overwrite, fallback=fallback, device=device)
    print(f"{result.steps} steps, {result.rows_per_second:.0f} rows/s, loss {result.losses['loss']:.4f}; run folder {out}")


def sample(
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
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
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        n: How many.
        steps: Integrator steps that the one step stands for.
        method: Integrator.
        seed: Seed of the noise.
        out: Picture to write; of a model of vectors, a .csv in the units of its table, or a corner plot.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = model_of(run, pretrained, fallback)
    with torch.no_grad():
        images = model.operator(steps, method)(noise(model, n, seed))
    if run is not None and model.config.vectors:
        return print(f"wrote {write_rows(out, images, run)}")
    print(f"wrote {save_png(out, grid(to_uint8(images), columns=8), scale=2)}")


def invert(
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 100,
) -> None:
    """Encode held-out images with the pseudoinverse, decode them, and print the PSNR.

    Args:
        run: Run folder to take the model from; the pretrained one if absent.
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many.
    """
    model = model_of(run, pretrained, fallback)
    images = to_unit(held_out_for(model, data, data_dir).spread(n).images)
    with torch.no_grad():
        f = model.operator()
        found = evaluate.inversion(f, images)
        rows = [("image", images[:10]), ("encoding", encode(f, images[:10]) / 3), ("f(encoding)", f(encode(f, images[:10])))]
    path = captioned_rows("inversion.png", [(label, to_uint8(row)) for label, row in rows])
    print(f"{found.images} held-out images of {data}: PSNR {found.psnr_mean:.1f} dB (worst {found.psnr_min:.1f} dB), ")
    print(f"encodings have standard deviation {found.encoding_std:.2f}, noise has 1; wrote {path}")


def interpolate_command(
    first: int = 0,
    second: int = 50,
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
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
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        count: Images on the way, ends included.
        out: Picture to write.
    """
    model = model_of(run, pretrained, fallback)
    images = to_unit(held_out_for(model, data, data_dir).images)
    for index in (first, second):
        if not 0 <= index < len(images):
            raise DomainError(f"--first and --second lie in 0..{len(images) - 1} for the test images of {data}, got {index}")
    with torch.no_grad():
        strip = interpolate(model.operator(), images[first], images[second], count)
    print(f"wrote {save_png(out, grid(to_uint8(strip), columns=count), scale=2)}")


def edit(
    from_class: int = 4,
    to_class: int = 9,
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
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
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many images, one a row.
        out: Picture to write: each row from -0.5 to 1.5 times the direction, the digit itself at 0.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = model_of(run, pretrained, fallback)
    known, held_out = (images_of_shape(data, split, model.config.shape, data_dir) for split in ("train", "test"))
    classes = [to_unit(known.images[known.labels == label][:500]) for label in (from_class, to_class)]
    images = to_unit(held_out.images[held_out.labels == from_class][:n])
    with torch.no_grad():
        f = model.operator()
        along = direction(f, *classes)
        amounts = torch.linspace(-0.5, 1.5, 9)
        rows = torch.cat([move(f, x, along, amounts) for x in images])
    print(f"wrote {save_png(out, grid(to_uint8(rows), columns=len(amounts)), scale=2)}")


def judge(
    run: RunFolder = None,
    pretrained: Pretrained = "mnist",
    fallback: bool = False,
    data: DataName = "mnist5k",
    data_dir: DataDir = None,
    n: int = 500,
    likelihood: int = 100,
    fid_weights: Path | None = None,
    seed: int = 0,
) -> None:
    """Judge samples by real images (Frechet distance, precision, recall, classes), and held-out images by their likelihood.

    Args:
        run: Run folder to take the model from; the pretrained one if absent.
        pretrained: Shipped model, where no run is given.
        fallback: If the newest checkpoint is damaged, take the one before it.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Samples, compared with as many held-out images for several numbers of integrator steps.
        likelihood: Held-out images whose bits per dimension are averaged; 0 for none.
        fid_weights: File of Inception's weights, pt_inception-2015-12-05-6726825d.pth of pytorch-fid: Frechet distances are FIDs.
        seed: Seed of the noise.
    """
    if n < 2 or likelihood < 0:
        raise DomainError(f"--n is at least 2 and --likelihood not negative, got {n} and {likelihood}")
    model = model_of(run, pretrained, fallback)
    real = held_out_for(model, data, data_dir)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for steps in (1, 10, 100, 1000):
            found = quality(draw(model.operator(steps), noise(model, n, seed)), real, data_dir, fid_weights=fid_weights)
            scores = (
                f"{name} {getattr(found, name):.3f}" for name in ("frechet", "precision", "recall", "confident", "imbalance")
            )
            print(f"{steps:>5} steps in one: {'  '.join(scores)}  ({found.samples} samples, {found.features})")
        if likelihood:
            chosen = real.spread(likelihood).images
            u = torch.rand(unit_shape(chosen), generator=generator)
            bits = evaluate.bits_per_dimension(model, model.operator(), chosen, u)
            print(f"{float(bits.mean()):.3f} bits per dimension over {likelihood} held-out images")


def model_of(run: Path | None, pretrained: Pretrained, fallback: bool) -> FlowMatching:
    return pretrained_model(pretrained) if run is None else load_model(run, FlowMatching, fallback=fallback)


def held_out_for(model: FlowMatching, data: DataName, data_dir: Path | None) -> ImageSet:
    return images_of_shape(data, "test", model.config.shape, data_dir)
