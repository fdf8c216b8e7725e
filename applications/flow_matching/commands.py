"""The commands of the `induced` command line that train and use one-step flow matching."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from applications.common.data import ImageSet, images_of_shape, to_uint8, to_unit, unit_shape
from applications.common.figures import captioned_rows, grid, save_png
from applications.common.options import DataName, ModelSource
from applications.common.quality import quality
from applications.flow_matching import evaluate
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import direction, encode, interpolate, move, noise
from applications.flow_matching.sampling import sample as draw
from applications.flow_matching.tour import BRIEF, tour
from applications.flow_matching.vectors import write_rows
from induced.errors import DomainError

Method = Literal["euler", "midpoint", "rk4", "magnus4"]


def sample(
    source: ModelSource,
    n: int = 64,
    steps: int = 100,
    method: Method = "rk4",
    seed: int = 0,
    out: Path = Path("samples.png"),
) -> None:
    """Draw images, or rows of a table, in ONE step with the collapsed operator.

    Args:
        source: The model.
        n: How many.
        steps: Integrator steps that the one step stands for.
        method: Integrator.
        seed: Seed of the noise.
        out: Picture to write; of a model of vectors, a .csv in the units of its table, or a corner plot.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = source.load(FlowMatching)
    with torch.no_grad():
        images = model.operator(steps, method)(noise(model, n, seed))
    if model.config.vectors:
        return print(f"wrote {write_rows(out, images, source.folder(FlowMatching))}")
    print(f"wrote {save_png(out, grid(to_uint8(images), columns=8), scale=2)}")


def invert(
    source: ModelSource,
    data: DataName = "mnist5k",
    data_dir: Path | None = None,
    n: int = 100,
) -> None:
    """Encode held-out images with the pseudoinverse, decode them, and print the PSNR.

    Args:
        source: The model.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many.
    """
    model = of_images(source)
    images = to_unit(held_out_for(model, data, data_dir).spread(n).images)
    with torch.no_grad():
        f = model.operator()
        found = evaluate.inversion(f, images)
        rows = [("image", images[:10]), ("encoding", encode(f, images[:10]) / 3), ("f(encoding)", f(encode(f, images[:10])))]
    path = captioned_rows("inversion.png", [(label, to_uint8(row)) for label, row in rows])
    print(f"{found.images} held-out images of {data}: PSNR {found.psnr_mean:.1f} dB (worst {found.psnr_min:.1f} dB), ")
    print(f"encodings have standard deviation {found.encoding_std:.2f}, noise has 1; wrote {path}")


def interpolate_command(
    source: ModelSource,
    first: int = 0,
    second: int = 50,
    data: DataName = "mnist5k",
    data_dir: Path | None = None,
    count: int = 10,
    out: Path = Path("interpolation.png"),
) -> None:
    """Walk the induced segment between the encodings of two held-out images.

    Args:
        source: The model.
        first: Index of the first image.
        second: Index of the second image.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        count: Images on the way, ends included.
        out: Picture to write.
    """
    model = of_images(source)
    images = to_unit(held_out_for(model, data, data_dir).images)
    for index in (first, second):
        if not 0 <= index < len(images):
            raise DomainError(f"--first and --second lie in 0..{len(images) - 1} for the test images of {data}, got {index}")
    with torch.no_grad():
        strip = interpolate(model.operator(), images[first], images[second], count)
    print(f"wrote {save_png(out, grid(to_uint8(strip), columns=count), scale=2)}")


def edit(
    source: ModelSource,
    from_class: int = 4,
    to_class: int = 9,
    data: DataName = "mnist5k",
    data_dir: Path | None = None,
    n: int = 8,
    out: Path = Path("edit.png"),
) -> None:
    """Move held-out images of one class along the difference of the induced means of two classes of training images.

    Args:
        source: The model.
        from_class: Class of the images that are edited, and where the direction starts.
        to_class: Class that it leads to.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many images, one a row.
        out: Picture to write: each row from -0.5 to 1.5 times the direction, the digit itself at 0.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    model = of_images(source)
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
    source: ModelSource,
    data: DataName = "mnist5k",
    data_dir: Path | None = None,
    n: int = 500,
    likelihood: int = 100,
    fid_weights: Path | None = None,
    seed: int = 0,
) -> None:
    """Judge samples by real images (Frechet distance, precision, recall, classes), and held-out images by their likelihood.

    Args:
        source: The model.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Samples, compared with as many held-out images for several numbers of integrator steps.
        likelihood: Held-out images whose bits per dimension are averaged; 0 for none.
        fid_weights: File of Inception's weights, pt_inception-2015-12-05-6726825d.pth of pytorch-fid: Frechet distances are FIDs.
        seed: Seed of the noise.
    """
    if n < 2 or likelihood < 0:
        raise DomainError(f"--n is at least 2 and --likelihood not negative, got {n} and {likelihood}")
    model = of_images(source)
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


def tour_command(out: Path = Path("runs/tour"), steps: int = BRIEF.training.steps, overwrite: bool = True) -> None:
    """Train briefly on the embedded digits, then show and prove what the model is: what `make demo` runs.

    Args:
        out: Folder for the run and all figures.
        steps: Training steps of the first stage; both take five to ten minutes on two cores at the default.
        overwrite: Delete an earlier tour in the folder.
    """
    tour(out, config=replace(BRIEF, training=replace(BRIEF.training, steps=steps)), overwrite=overwrite)


def of_images(source: ModelSource) -> FlowMatching:
    """The model, which draws images.

    Raises:
        DomainError: it draws the rows of a table.
    """
    model = source.load(FlowMatching)
    if model.config.vectors:
        raise DomainError(
            f"{source.folder(FlowMatching)}: this model draws rows of {model.config.shape[0]} columns, not images: it has "
            "sample, info, check and export; `induced info RUN` compares its samples with the rows that training held out"
        )
    return model


def held_out_for(model: FlowMatching, data: DataName, data_dir: Path | None) -> ImageSet:
    return images_of_shape(data, "test", model.config.shape, data_dir)
