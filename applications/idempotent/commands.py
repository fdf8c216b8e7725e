"""The commands of the `induced` command line that train and use an idempotent generator."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, cast

from torch import Tensor

from applications.common.data import NAMES, to_uint8, to_unit
from applications.common.data.folder import own_pictures
from applications.common.data.pictures import picture_file
from applications.common.figures import captioned_rows, grid, save_picture
from applications.common.metrics import auroc
from applications.common.options import Count, DataName, DataSource, ModelSource, Seed
from applications.idempotent.evaluate import PrincipalProjection, bits
from applications.idempotent.inputs import KINDS, PLAIN, inputs
from applications.idempotent.model import Idempotent
from applications.idempotent.sampling import RangeGaussian, anomaly, noise, project
from induced.errors import DomainError

FITTED = 5000
"""Training images that principal components are fitted to."""
_DRAWN: Final = {
    "gaussian": "one normal distribution of the coordinates",
    "classes": "a normal distribution of the coordinates for each class",
    "noise": "projected noise",
}


def project_command(
    source: ModelSource,
    images_from: DataSource,
    pictures: tuple[Path, ...] = (),
    kinds: tuple[str, ...] = (),
    n: Count = 12,
    seed: Seed = 0,
    out: Path = Path("projections.png"),
) -> None:
    """Project held-out images and stranger inputs onto what an idempotent generator knows, and compare f(f(x)) with f(x).

    Args:
        pictures: Picture files or folders of your own, in place of the data set.
        kinds: Kinds of inputs, made of the images, two rows of the picture each; if none, all, but your own pictures as they are.
        n: Inputs of each kind.
        seed: Seed of what is random in them.
        out: Picture to write.
    """
    out, f = picture_file(out), source.load(Idempotent).operator()
    given = own_pictures(pictures, f.domain.shape, skip_bad=images_from.skip_bad) if pictures else None
    chosen = images_from.load("test", f.domain.shape) if given is None else given
    images, rows = to_unit(chosen.spread(n if given is None else min(n, len(given))).images), []
    for kind in kinds or ((PLAIN,) if pictures else KINDS):
        x = inputs(kind, images, seed)
        found = bits(f, x)
        same = "f(f(x)) is f(x), bit for bit" if found.ok else f"f(f(x)) differs from f(x) by up to {found.largest:.2g}"
        print(f"{kind:<20} {same}; ||x (-) f(x)|| is {float(anomaly(f, x).mean()):.3g} on average")
        rows += [(kind, to_uint8(x)), ("projected", to_uint8(project(f, x)))]
    print(f"wrote {captioned_rows(out, rows)}")


def generate(
    source: ModelSource,
    images_from: DataSource,
    n: Count = 64,
    how: Literal["gaussian", "classes", "noise"] = "classes",
    temperature: float = 1.0,
    seed: Seed = 0,
    out: Path = Path("generated.png"),
) -> None:
    """Draw images with an idempotent generator.

    They lie in its range, so that to project them again changes nothing.

    Args:
        images_from: Images, to whose training split the distribution is fitted.
        how: Decode coordinates drawn from a normal distribution fitted to training images, or from one for each class; or project
            noise.
        n: How many.
        temperature: Deviations from the mean coordinates are so many times as large; of noise, its standard deviation.
        seed: Seed.
        out: Picture to write.
    """
    out, f = picture_file(out), source.load(Idempotent).operator()
    if how == "noise":
        images = project(f, temperature * noise(f, n, seed))
    else:
        known = images_from.load("train", f.domain.shape)
        gaussian = RangeGaussian(f, to_unit(known.images), known.labels if how == "classes" else None)
        images = gaussian.sample(n, seed, temperature)
    caption = f"{n} images of seed {seed} from {_DRAWN[how]}, temperature {temperature:g}"
    print(f"wrote {save_picture(out, grid(to_uint8(images), columns=8, scale=2, caption=caption))}")


def anomaly_command(
    source: ModelSource, images_from: DataSource, against: str = "letters", n: Count = 500, seed: Seed = 0
) -> None:
    """Tell strange images by the induced distance ||x (-) f(x)||, and print the area under the ROC curve.

    Args:
        images_from: Images that are not strange: the test split, and the training split for the components.
        against: What is strange: a kind of inputs, as `project` makes them; a data set; or a folder or file of pictures.
        n: Images of either.
        seed: Seed of what is random in kinds of inputs.
    """
    model = source.load(Idempotent)
    own = to_unit(images_from.load("test", model.config.shape).spread(n).images)
    other = _strange(against, own, images_from, seed)
    known = images_from.load("train", model.config.shape)
    components = PrincipalProjection(to_unit(known.spread(min(FITTED, len(known), 10**7 // own[0].numel())).images), model.rank)
    scores: dict[str, Callable[[Tensor], Tensor]] = {
        "||x (-) f(x)||": partial(anomaly, model.operator()),
        "principal components": components.distance,
    }
    for name, score in scores.items():
        area = auroc(score(own), score(other))
        data, counts = images_from.data, f"{len(own)} and {len(other)} images"
        print(f"{name:<20} AUROC {area:.4f} of {data} against {against}, rank {model.rank}, {counts}")


def _strange(what: str, own: Tensor, images_from: DataSource, seed: int) -> Tensor:
    """As many images of another kind as there are of one's own, or as many as there are.

    Raises:
        DomainError: nothing is called so.
    """
    shape = tuple(own.shape[1:])
    if what in KINDS:
        return inputs(what, own, seed)
    if what in NAMES:
        found = replace(images_from, data=cast(DataName, what)).load("test", shape)
    elif Path(what).exists():
        found = own_pictures([Path(what)], shape, skip_bad=images_from.skip_bad)
    else:
        raise DomainError(f"--against {what}: neither a file or folder nor one of {', '.join([*NAMES, *KINDS])}")
    return to_unit(found.spread(min(len(found), len(own))).images)
