"""The commands of the `induced` command line that train and use style transfer."""

from pathlib import Path

import torch

from applications.common.data import to_uint8
from applications.common.data.pictures import read_picture, unit, write_picture
from applications.common.figures import captioned_rows
from applications.common.kinds import export_model
from applications.common.metrics import psnr
from applications.common.options import ModelSource
from applications.common.perceptual import perceptual as perceptual_distance
from applications.style_transfer import algebra
from applications.style_transfer.algebra import distances, principal_styles
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.new_style import fit_kernel, refine_kernel
from applications.style_transfer.photographs import EMBEDDED, SMALLEST, photographs, random_crop
from applications.style_transfer.sampling import FRAME, TILE, stylise, unstylise
from applications.style_transfer.teacher import load_teacher
from induced.errors import DomainError

LEVELS = 256
"""Levels of a channel in a picture file."""


def style(
    picture: Path,
    source: ModelSource,
    mix: tuple[str, ...] = ("candy",),
    strength: float = 1.0,
    rank: int | None = None,
    remove: bool = False,
    into: tuple[str, ...] = (),
    rtol: float | None = None,
    tile: int = TILE,
    frame: int = FRAME,
    out: Path = Path("styled.png"),
) -> None:
    """Put styles on a picture of any size, mix them, exaggerate them, take one off or change it for another.

    Args:
        picture: PNG, JPEG or any other picture.
        source: The model.
        mix: Styles, each NAME or NAME=WEIGHT, whose weights are as given: mosaic=0.5 candy=0.5 interpolates.
        strength: 0 leaves the picture as it is, 1 is the style, above 1 exaggerates it.
        rank: Combinations of channels that are kept of the style's difference to the identity; all if absent.
        remove: Take the style off instead, by the pseudoinverse.
        into: With remove: the styles to put on afterwards.
        rtol: Singular values up to rtol times the largest count as zero; without it, those that rounding explains.
        tile: Side of the tiles that larger pictures are computed in.
        frame: Pixels by which the picture is reflected outwards before; 0 in both directions makes removal exact but for 8 bits.
        out: Picture to write, .png or .jpg.
    """
    model, given = source.load(StyleTransfer), read_picture(picture, SMALLEST)
    x, weights = given.tensor(), _weights(mix)
    if into and not remove:
        raise DomainError("--into names the styles that come after one is taken off: it needs --remove")
    if remove and (strength != 1.0 or rank is not None):
        raise DomainError("--remove takes the whole style off: it goes with neither --strength nor --rank")
    if frame < 0:
        raise DomainError(f"--frame must not be negative, got {frame}")
    if remove:
        y = unstylise(model, x, weights, _weights(into) if into else None, rtol, frame=frame)
        side = 16 * model.config.stride
        if (cond := float(algebra.mix(model.at(side, side), weights).cond())) > LEVELS:
            print(
                f"note: the core's condition number is {cond:.2g} and a picture file has {LEVELS} levels, so that rounding may "
                f"drown what comes back; from pictures that were not rounded, `unstylise` is exact with frame=0"
            )
    else:
        y = stylise(model, x, weights, strength, rank=rank, tile=tile, frame=frame)
    print(f"wrote {write_picture(out, given.with_colours(y))}")


def styles_command(
    source: ModelSource,
    picture: Path | None = None,
    side: int = 128,
    out: Path = Path("styles.png"),
) -> None:
    """Show the styles of a model: distances of the operators, their principal components, and what they make of a picture.

    Args:
        source: The model.
        picture: A picture; a held-out photograph if absent.
        side: Side of the square, cut from its middle, that is shown.
        out: Picture to write.
    """
    model = source.load(StyleTransfer)
    if side < 1 or side % model.config.stride:
        raise DomainError(f"--side is a multiple of {model.config.stride}, got {side}")
    given = read_picture(next(iter(photographs(EMBEDDED, "test").values())) if picture is None else picture, SMALLEST)
    x = given.tensor()
    if min(x.shape[-2:]) < side:
        raise DomainError(f"--side is at most the picture's least side {min(x.shape[-2:])}, got {side}")
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    x = x[..., top : top + side, left : left + side]
    names, styles = model.config.names, model.at(side, side)
    print("distances of the operators")
    for name, row in zip(names, distances(styles).tolist(), strict=True):
        print(f"  {name:<15}" + "".join(f"{value:8.3f}" for value in row))
    principal = principal_styles(styles)
    print("principal components: share of the variance, then the score of each style")
    for share, scores in zip(principal.explained.tolist(), principal.scores.mT.tolist(), strict=True):
        print(f"  {share:7.1%}  " + "".join(f"{score:8.3f}" for score in scores))
    with torch.no_grad():
        rows = [("photograph", to_uint8(x))] + [(name, to_uint8(styles[name](x))) for name in names]
    print(f"wrote {captioned_rows(out, rows)}")


def add_style(
    source: ModelSource,
    style: str,
    out: Path,
    data_dir: Path | None = None,
    photos: str = EMBEDDED,
    crops: int = 40,
    side: int = 256,
    ridge: float = 1e-3,
    steps: int = 0,
    perceptual: float = 0.0,
    seed: int = 0,
) -> None:
    """Add a style to a trained model by fitting its core alone to a teacher, charts frozen, and write the model.

    Args:
        source: The model.
        style: Name of the weights in the folder fast-style.
        out: Folder to write.
        data_dir: Folder with data sets; beats $INDUCED_DATA.
        photos: Photographs to fit to: the embedded ones, or a folder.
        crops: Random crops of them.
        side: Side of a crop.
        ridge: Penalty of the least squares, towards the identity style.
        steps: Steps of Adam on the core after the closed form.
        perceptual: Weight of ST-LPIPS beside the error in pixels, in those steps; 0: without it.
        seed: Seed of the crops.
    """
    model, teacher = source.load(StyleTransfer), load_teacher(style, data_dir)
    if crops < 1 or side < 1 or side % model.config.stride:
        raise DomainError(f"at least one crop with a side that is a multiple of {model.config.stride}, got {crops} and {side}")
    if perceptual < 0 or (perceptual and not steps):
        raise DomainError(f"--perceptual is a weight in the loss of --steps, got {perceptual} and {steps} steps")
    distance = perceptual_distance(data_dir, "st-lpips").requires_grad_(False) if perceptual else None
    generator = torch.Generator().manual_seed(seed)
    pictures = [read_picture(path, SMALLEST).colours for path in photographs(photos, "train").values()]
    x = unit(torch.stack([torch.from_numpy(random_crop(pictures[i % len(pictures)], side, generator)) for i in range(crops)]))
    with torch.no_grad():
        y = torch.cat([teacher(part) for part in torch.split(x, 1)])
    kernel = fit_kernel(model, x, y, ridge=ridge)
    if steps:
        kernel = refine_kernel(model, kernel, x, y, steps=steps, distance=distance, perceptual=perceptual, seed=seed)
    extended = model.with_style(style, kernel)
    with torch.no_grad():
        found = torch.cat([extended.operator(style, side, side)(part) for part in torch.split(x, 1)])
    print(f"{style} added to {', '.join(model.config.names[1:])}: PSNR {float(psnr(found, y).mean()):.2f} dB on its crops")
    print(f"wrote {export_model(extended, source.folder(StyleTransfer), out)}")


def _weights(mixture: tuple[str, ...]) -> dict[str, float]:
    """NAME or NAME=WEIGHT, each.

    Raises:
        DomainError: a weight is no number, or a name occurs twice.
    """
    weights = {}
    for term in mixture:
        name, _, weight = term.partition("=")
        try:
            value = float(weight or 1.0)
        except ValueError as error:
            raise DomainError(f"a style is NAME or NAME=WEIGHT with a number, got {term!r}") from error
        if name in weights:
            raise DomainError(f"the style {name!r} occurs twice in {' '.join(mixture)}")
        weights[name] = value
    return weights
