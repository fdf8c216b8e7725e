"""The commands of the `induced` command line that train and use style transfer."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from applications.common.data import to_uint8
from applications.common.data.pictures import picture_file, read_picture, unit, write_picture
from applications.common.figures import captioned_rows
from applications.common.kinds import export_model, require_place
from applications.common.metrics import psnr
from applications.common.options import Count, Folder, ModelSource, Number, Seed
from applications.common.perceptual import perceptual as perceptual_distance
from applications.style_transfer import algebra
from applications.style_transfer.algebra import distances, principal_styles
from applications.style_transfer.config import IDENTITY
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.new_style import fit_kernel, refine_kernel
from applications.style_transfer.photographs import EMBEDDED, SMALLEST, opened, random_crop
from applications.style_transfer.photographs import photographs as files_of
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
    rank: Count | None = None,
    remove: bool = False,
    into: tuple[str, ...] = (),
    rtol: float | None = None,
    tile: Count = TILE,
    frame: Number = FRAME,
    out: Path = Path("styled.png"),
) -> None:
    """Put styles on a picture of any size, mix them, exaggerate them, take one off or change it for another.

    Args:
        picture: PNG, JPEG or any other picture.
        mix: Styles, each NAME or NAME=WEIGHT, whose weights are as given: mosaic=0.5 candy=0.5 interpolates. NAME alone is
            NAME=1, so that two names add up to twice a style, and colours saturate.
        strength: 0 is the style `identity`, as it was learned, which is near the picture and not the picture; 1 is the style;
            above 1 exaggerates it.
        rank: Combinations of channels that are kept of the style's difference to the identity; all if absent.
        remove: Take the style off instead, by the pseudoinverse.
        into: With remove: the styles to put on afterwards.
        rtol: Singular values up to rtol times the largest count as zero; without it, those that rounding explains.
        tile: Side of the tiles that larger pictures are computed in.
        frame: Pixels by which the picture is reflected outwards before; 0 in both directions makes removal exact but for 8 bits.
        out: Picture to write, .png or .jpg; never the one that is read.
    """
    if (out := picture_file(out)).exists() and out.samefile(picture):
        raise DomainError(f"{out}: is the picture that is read, which is not written over: choose another with --out")
    model, given = source.load(StyleTransfer), read_picture(picture, SMALLEST)
    x, weights = given.tensor().to(model.cores.base), _weights(mix)
    if into and not remove:
        raise DomainError("--into names the styles that come after one is taken off: it needs --remove")
    if remove and (strength != 1.0 or rank is not None):
        raise DomainError("--remove takes the whole style off: it goes with neither --strength nor --rank")
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
    if not math.isclose(total := sum((weights if not remove else _weights(into) or weights).values()), 1.0, abs_tol=1e-6):
        clipped = float(((y < -1) | (y >= 1)).float().mean())
        print(f"note: the weights sum to {total:g}; with 1 they interpolate. {clipped:.0%} of the values are cut to the range")
    if strength == 0:
        near = float(psnr(y, x).mean())
        print(f"note: a strength of 0 is the style {IDENTITY!r}, as it was learned: PSNR to the picture {near:.1f} dB")
    print(f"wrote {write_picture(out, given.with_colours(y))}")


def styles_command(source: ModelSource, picture: Path | None = None, side: Count = 128, out: Path = Path("styles.png")) -> None:
    """Show the styles of a model: distances of the operators, their principal components, and what they make of a picture.

    Args:
        picture: A picture; a held-out photograph if absent.
        side: Side of the square, cut from its middle, that is shown.
        out: Picture to write.
    """
    out, model = picture_file(out), source.load(StyleTransfer)
    if side % model.config.stride:
        raise DomainError(f"--side is a multiple of {model.config.stride}, got {side}")
    given = read_picture(next(iter(files_of(EMBEDDED, "test").values())) if picture is None else picture, SMALLEST)
    x = given.tensor().to(model.cores.base)
    if min(x.shape[-2:]) < side:
        raise DomainError(f"--side is at most the picture's least side {min(x.shape[-2:])}, got {side}")
    top, left = ((n - side) // 2 for n in x.shape[-2:])
    x = x[..., top : top + side, left : left + side]
    names, styles = model.config.names, model.at(side, side)
    print("distances of the operators")
    print(_matrix(names, names, distances(styles)))
    principal = principal_styles(styles)
    print("scores of the styles on the principal components, and the share of the variance that each explains")
    print(_matrix([f"{share:.1%}" for share in principal.explained.tolist()], names, principal.scores.mT))
    with torch.no_grad():
        rows = [("photograph", to_uint8(x))] + [(name, to_uint8(styles[name](x))) for name in names]
    print(f"wrote {captioned_rows(out, rows)}")


def add_style(
    source: ModelSource,
    style: str,
    out: Path,
    data_dir: Folder = None,
    photographs: str = EMBEDDED,
    skip_bad: bool = False,
    crops: Count = 40,
    side: Count = 256,
    ridge: float = 1e-3,
    steps: Number = 0,
    perceptual: float = 0.0,
    seed: Seed = 0,
) -> None:
    """Add a style to a trained model by fitting its core alone to a teacher, charts frozen, and write the model.

    Args:
        style: Name of the weights in the folder fast-style.
        out: Folder to write.
        data_dir: Folder that holds fast-style; beats $INDUCED_DATA.
        photographs: Photographs to fit to: the embedded ones, or a folder.
        skip_bad: Leave out photographs that cannot be decoded.
        crops: Random crops of them.
        side: Side of a crop.
        ridge: Penalty of the least squares, towards the identity style.
        steps: Steps of Adam on the core after the closed form.
        perceptual: Weight of ST-LPIPS beside the error in pixels, in those steps; 0: without it.
        seed: Seed of the crops.
    """
    require_place(source.folder(StyleTransfer), out)
    model = source.load(StyleTransfer)
    if style in model.config.names:
        raise DomainError(f"the model has a style {style!r} already; it has {', '.join(model.config.names)}")
    device = model.cores.base.device
    teacher = load_teacher(style, data_dir).to(device)
    if side % model.config.stride:
        raise DomainError(f"--side is a multiple of {model.config.stride}, got {side}")
    if perceptual < 0 or (perceptual and not steps):
        raise DomainError(f"--perceptual is a weight in the loss of --steps, got {perceptual} and {steps} steps")
    distance = perceptual_distance(data_dir, "st-lpips").to(device) if perceptual else None
    generator = torch.Generator().manual_seed(seed)
    pictures = opened([*files_of(photographs, "train").values()], skip_bad=skip_bad)
    x = unit(torch.stack([torch.from_numpy(random_crop(pictures[i % len(pictures)], side, generator)) for i in range(crops)]))
    x = x.to(device)
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


def _matrix(rows: Sequence[str], columns: Sequence[str], values: Tensor) -> str:
    """A matrix with the names of its rows and columns."""
    width = 2 + max(6, *map(len, columns))
    first = max(map(len, rows))
    lines = [" " * first + "".join(f"{name:>{width}}" for name in columns)]
    lines += [
        f"{name:<{first}}" + "".join(f"{value:{width}.3f}" for value in row)
        for name, row in zip(rows, values.tolist(), strict=True)
    ]
    return "\n".join(f"  {line}" for line in lines)


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
