"""The commands of the `induced` command line that train and use an idempotent generator."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from applications.common.data import load, to_uint8, to_unit
from applications.common.figures import captioned_rows, grid, save_png
from applications.common.metrics import auroc
from applications.common.options import Digits, ModelSource
from applications.idempotent.evaluate import PrincipalProjection, bits
from applications.idempotent.inputs import KINDS, inputs
from applications.idempotent.model import Idempotent
from applications.idempotent.sampling import RangeGaussian, anomaly, noise, project
from induced.errors import DomainError

FITTED = 5000
"""Training images that principal components are fitted to."""


def project_command(
    source: ModelSource,
    data: Digits = "mnist5k",
    data_dir: Path | None = None,
    kinds: tuple[str, ...] = tuple(KINDS),
    n: int = 12,
    seed: int = 0,
    out: Path = Path("projections.png"),
) -> None:
    """Project held-out digits and stranger inputs onto what an idempotent generator knows, and compare f(f(x)) with f(x).

    Args:
        source: The model.
        data: Data set.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        kinds: Kinds of inputs, two rows of the picture each.
        n: Inputs of each kind.
        seed: Seed of what is random in them.
        out: Picture to write.
    """
    f, images = source.load(Idempotent).operator(), to_unit(load(data, "test", data_dir).spread(n).images)
    rows = []
    for kind in kinds:
        x = inputs(kind, images, seed)
        found = bits(f, x)
        same = "f(f(x)) is f(x), bit for bit" if found.ok else f"f(f(x)) differs from f(x) by up to {found.largest:.2g}"
        print(f"{kind:<20} {same}; ||x (-) f(x)|| is {float(anomaly(f, x).mean()):.3g} on average")
        rows += [(kind, to_uint8(x)), ("projected", to_uint8(project(f, x)))]
    print(f"wrote {captioned_rows(out, rows)}")


def generate(
    source: ModelSource,
    how: Literal["gaussian", "classes", "noise"] = "classes",
    data: Digits = "mnist5k",
    data_dir: Path | None = None,
    n: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    out: Path = Path("generated.png"),
) -> None:
    """Draw images with an idempotent generator.

    Args:
        source: The model.
        how: Decode coordinates drawn from a normal distribution fitted to training images, or from one for each class; or project
            noise.
        data: Data set whose training images the distribution is fitted to.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: How many.
        temperature: Deviations from the mean coordinates are so many times as large; of noise, its standard deviation.
        seed: Seed.
        out: Picture to write.
    """
    if n < 1:
        raise DomainError(f"--n is at least 1, got {n}")
    f = source.load(Idempotent).operator()
    if how == "noise":
        images = project(f, temperature * noise(f, n, seed))
    else:
        known = load(data, "train", data_dir)
        gaussian = RangeGaussian(f, to_unit(known.images), known.labels if how == "classes" else None)
        images = gaussian.sample(n, seed, temperature)
    print(f"wrote {save_png(out, grid(to_uint8(images), columns=8), scale=2)}")


def anomaly_command(
    source: ModelSource,
    data: Digits = "mnist",
    against: Digits = "fashion-mnist",
    data_dir: Path | None = None,
    n: int = 1000,
) -> None:
    """Tell strange images by the induced distance ||x (-) f(x)||, and print the area under the ROC curve.

    Args:
        source: The model.
        data: Data set of what is not strange: its test images, and its training images for the components.
        against: Data set of what is.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        n: Test images of either.
    """
    model = source.load(Idempotent)
    own, other = (to_unit(load(name, "test", data_dir).spread(n).images) for name in (data, against))
    known = load(data, "train", data_dir)
    components = PrincipalProjection(to_unit(known.spread(min(FITTED, len(known))).images), model.rank)
    scores: dict[str, Callable[[Tensor], Tensor]] = {
        "||x (-) f(x)||": partial(anomaly, model.operator()),
        "principal components": components.distance,
    }
    for name, score in scores.items():
        area = auroc(score(own), score(other))
        print(f"{name:<20} AUROC {area:.4f} of {data} against {against}, rank {model.rank}, {len(own)} and {len(other)} images")
