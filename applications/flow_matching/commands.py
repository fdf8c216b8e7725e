"""The commands of the `induced` command line that train and use one-step flow matching."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from tyro.conf import arg

from applications.common.classifier import digit_classifier
from applications.common.data import to_uint8, to_unit
from applications.common.data.image_set import class_named
from applications.common.data.pictures import FORMATS, picture_file
from applications.common.data.pixels import unit_shape
from applications.common.figures import captioned_rows, grid, save_picture
from applications.common.options import IMAGES, Count, DataSource, Device, Many, ModelSource, Number, Seed
from applications.common.progress import counted
from applications.common.quality import is_of_digits, quality
from applications.common.written import place_of, write_images
from applications.flow_matching import evaluate
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import direction, encode, interpolate, move, noise, noises
from applications.flow_matching.sampling import sample as draw
from applications.flow_matching.tour import BRIEF, tour
from applications.flow_matching.vectors import ROWS, write_rows
from induced.errors import DomainError
from induced.serialization import notes

Method = Literal["euler", "midpoint", "rk4", "magnus4"]


def sample(
    source: ModelSource,
    n: Many = 64,
    integrator_steps: Many = 100,
    method: Method = "rk4",
    seed: Seed = 0,
    of_class: Annotated[str | None, arg(name="class", metavar="NAME", help_behavior_hint="")] = None,
    temperature: float = 1.0,
    truncation: float = math.inf,
    out: Path = Path("samples.png"),
) -> None:
    """Draw images, or rows of a table, in ONE step with the collapsed operator.

    Args:
        n: How many.
        integrator_steps: Steps of the integrator that the one step stands for.
        method: Integrator.
        seed: Seed of the noise.
        of_class: Draw images of this class alone: its number, or the name of its folder in the data of the training.
        temperature: Standard deviation of the noise.
        truncation: Numbers of the noise lie within so many standard deviations of 0, as if drawn anew until they do.
        out: Picture to write, .png or .jpg; a folder, for a file each; or a file .npz, for an array "images" of uint8
            (N, C, H, W), as large as the model draws them, padding included, and with --class an array "labels". Of a model of
            vectors, a .csv in the units of its table, or a corner plot.
    """
    model, folder = source.load(FlowMatching), source.folder(FlowMatching)
    kind = None if of_class is None else class_of(model, folder, of_class)
    inputs = noises(model, n, seed, temperature=temperature, truncation=truncation)
    out = picture_file(out, ROWS) if model.config.vectors else place_of(out, n)
    is_picture = out.suffix.lower() in FORMATS
    if is_picture and n > IMAGES and not model.config.vectors:
        raise DomainError(f"a picture shows up to {IMAGES} images, got --n {n}: give --out a folder or a file .npz")
    with torch.no_grad():
        f = model.operator(integrator_steps, method, of_class=kind)
        drawn = (f(x0) for x0 in inputs)
        if model.config.vectors:
            return print(f"wrote {write_rows(out, torch.cat(list(drawn)), folder)}")
        images = counted((to_uint8(x).cpu() for x in drawn), n, "images")
        if not is_picture:
            labels = None if kind is None else np.full(n, kind, np.int64)
            return print(f"wrote {write_images(out, images, (n, *model.config.shape), labels)}, {n} images")
        pixels = torch.cat(list(images))
    named = "" if of_class is None else f" of class {of_class}"
    caption = f"{n} samples{named} of seed {seed}, each in one step, which stands for {integrator_steps} of {method}"
    caption += f"; temperature {temperature:g}" * (temperature != 1) + f"; truncation {truncation:g}" * (truncation != math.inf)
    print(f"wrote {save_picture(out, grid(pixels, columns=8, scale=2, caption=caption))}")


def invert(source: ModelSource, images_from: DataSource, n: Count = 100, out: Path = Path("inversion.png")) -> None:
    """Encode held-out images with the pseudoinverse, decode them, and print the PSNR.

    Args:
        n: How many.
        out: Picture to write, of the first ten.
    """
    out, model = picture_file(out), of_images(source)
    with torch.no_grad():
        f = model.operator()
        images = to_unit(images_from.load("test", model.config.shape).spread(n).images).to(f.device)
        found = evaluate.inversion(f, images)
        rows = [("image", images[:10]), ("encoding", encode(f, images[:10]) / 3), ("f(encoding)", f(encode(f, images[:10])))]
    path = captioned_rows(out, [(label, to_uint8(row)) for label, row in rows])
    print(f"{found.count} held-out images of {images_from.data}: PSNR {found.psnr_mean:.1f} dB (worst {found.psnr_min:.1f} dB), ")
    print(f"encodings have standard deviation {found.encoding_std:.2f}, noise has 1; wrote {path}")


def interpolate_command(
    source: ModelSource,
    images_from: DataSource,
    first: Number = 0,
    second: Number = 50,
    n: Count = 10,
    out: Path = Path("interpolation.png"),
) -> None:
    """Walk the induced segment between the encodings of two held-out images.

    Args:
        first: Index of the first image.
        second: Index of the second image.
        n: Images on the way, ends included.
        out: Picture to write.
    """
    out, model = picture_file(out), of_images(source)
    images = to_unit(images_from.load("test", model.config.shape).images)
    for index in (first, second):
        if not 0 <= index < len(images):
            raise DomainError(
                f"--first and --second lie in 0..{len(images) - 1} for the test images of {images_from.data}, got {index}"
            )
    with torch.no_grad():
        f = model.operator()
        strip = interpolate(f, images[first].to(f.device), images[second].to(f.device), n)
    caption = f"from held-out image {first} of {images_from.data} to {second}: the induced segment, both ends included"
    print(f"wrote {save_picture(out, grid(to_uint8(strip), columns=min(n, 20), scale=2, caption=caption))}")


def edit(
    source: ModelSource,
    images_from: DataSource,
    from_class: str = "4",
    to_class: str = "9",
    n: Count = 8,
    out: Path = Path("edit.png"),
) -> None:
    """Move held-out images of one class along the difference of the induced means of two classes of training images.

    Args:
        from_class: Class of the images that are edited, and where the direction starts: its number, or the name of its folder.
        to_class: Class that it leads to.
        n: How many images, one a row.
        out: Picture to write: each row from -0.5 to 1.5 times the direction, the image itself at 0.
    """
    out, model = picture_file(out), of_images(source)
    known, held_out = (images_from.load(split, model.config.shape) for split in ("train", "test"))
    classes = [to_unit(known.images[known.labels == known.class_of(name)][:500]) for name in (from_class, to_class)]
    images = to_unit(held_out.images[held_out.labels == held_out.class_of(from_class)][:n])
    amounts = torch.linspace(-0.5, 1.5, 9)
    with torch.no_grad():
        X, device = model.codes(), next(model.parameters()).device
        along = direction(X, *(part.to(device) for part in classes))
        rows = torch.stack([move(X, x, along, amounts) for x in images.to(device)]).cpu()
    if is_of_digits(held_out):
        there = digit_classifier()(rows[:, amounts == 1].flatten(0, 1)).argmax(-1) == known.class_of(to_class)
        print(f"at 1.0 a network of its own, the digit classifier, takes {int(there.sum())} of {len(there)} for a {to_class}")
    heads = ["original" if a == 0 else f"{a:g}" for a in amounts.tolist()]
    caption = f"from {from_class} to {to_class}: held-out images, moved by so many times the difference of the induced means"
    picture = grid(to_uint8(rows.flatten(0, 1)), columns=len(amounts), scale=2, caption=caption, heads=heads)
    print(f"wrote {save_picture(out, picture)}")


def judge(
    source: ModelSource,
    images_from: DataSource,
    fid_weights: Path | None = None,
    n: Count = 500,
    likelihood: Number = 100,
    seed: Seed = 0,
) -> None:
    """Judge samples by real images (Frechet distance, precision, recall, classes), and held-out images by their likelihood.

    Args:
        n: Samples, compared with as many held-out images for several numbers of integrator steps.
        likelihood: Held-out images whose bits per dimension are averaged; 0 for none.
        fid_weights: File of Inception's weights, pt_inception-2015-12-05-6726825d.pth of pytorch-fid: Frechet distances are FIDs.
        seed: Seed of the noise.
    """
    if n < 4:
        raise DomainError(f"at least 4 samples are needed to compare them, got --n {n}")
    model = of_images(source)
    real = images_from.load("test", model.config.shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for steps in (1, 10, 100, 1000):
            samples = draw(model.operator(steps), noise(model, n, seed))
            found = quality(samples, real, images_from.data_dir, fid_weights=fid_weights)
            print(f"{steps:>5} steps in one: {found}")
        if n <= found.numbers:
            print(
                f"note: a Frechet distance of {n} samples is biased upwards: give --n above {found.numbers}, the features' number"
            )
        if likelihood:
            chosen = real.spread(likelihood).images
            u = torch.rand(unit_shape(chosen), generator=generator)
            bits = evaluate.bits_per_dimension(model.operator(), chosen, u)
            print(f"{float(bits.mean()):.3f} bits per dimension over {likelihood} held-out images")


def tour_command(
    out: Path = Path("runs/tour"), steps: Many = BRIEF.training.steps, overwrite: bool = True, device: Device = "auto"
) -> None:
    """Train briefly on the embedded digits, then show and prove what the model is: what `make demo` runs.

    Args:
        out: Folder for the run and all figures.
        steps: Training steps of the first stage; both take five to ten minutes on two cores at the default.
        overwrite: Delete an earlier tour in the folder.
        device: Where to compute: cpu, cuda, cuda:1, mps, ...; auto takes an accelerator if it has float64.
    """
    tour(out, config=replace(BRIEF, training=replace(BRIEF.training, steps=steps)), overwrite=overwrite, device=device)


def class_of(model: FlowMatching, folder: Path, name: str) -> int:
    """The number of a class that a model draws alone, by its name in the data that the notes of its folder record, if it has one.

    Raises:
        DomainError: the density of the model is no mixture, or there is no such class.
    """
    if (mixture := model.mixture) is None:
        raise DomainError(
            f"{folder}: --class is for models of images whose density is a mixture, as a training with --components of 1 or more "
            "makes them; the density of this one is none"
        )
    data = notes(folder).get("data")
    names = data.get("classes") if isinstance(data, dict) else None
    kinds = set(mixture.classes.tolist()) - {-1}
    return class_named(name, kinds, list(map(str, names)) if isinstance(names, list) else (), f"the model of {folder}")


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
