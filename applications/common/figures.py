"""Pictures on disk: grids of images, captioned rows and corner plots, PNG or JPEG by the suffix. No display is ever opened."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from applications.common.data.pictures import picture_file, write_picture
from induced.errors import DtypeError, ShapeError

_WHITE = 255
_LETTERS = 11
"""Size of the letters of a caption, in pixels."""


def grid(
    images: Tensor, columns: int, padding: int = 2, *, scale: int = 1, caption: str = "", heads: Sequence[str] = ()
) -> Tensor:
    """Lay images out row by row on white, `padding` pixels apart and around; the last row may be short.

    Arguments:
        images: uint8, `(N, C, H, W)`, at least one.
        columns: Images in a row.
        padding: White pixels between images and around the whole.
        scale: Each pixel becomes a square of `scale` x `scale`, without smoothing.
        caption: Text above the whole, in lines that fit.
        heads: A word above each column.

    Returns:
        uint8, `(C, scale * (rows * (H + padding) + padding), scale * (columns * (W + padding) + padding))`, higher by the text.

    Raises:
        DtypeError: images are not uint8.
        ShapeError: images have no four dimensions, or there are none.
    """
    _require_pixels("grid", images, 4)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    y_step, x_step = height + padding, width + padding
    canvas = images.new_full((channels, rows * y_step + padding, columns * x_step + padding), _WHITE)
    for index, image in enumerate(images):
        y, x = padding + index // columns * y_step, padding + index % columns * x_step
        canvas[:, y : y + height, x : x + width] = image
    canvas = canvas.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    whole = canvas.shape[-1]
    lines = textwrap.wrap(caption, max(8, whole // 6))
    texts = [(4.0, i, line, "la") for i, line in enumerate(lines)]
    texts += [(scale * (padding + width / 2 + i * x_step), len(lines), head, "ma") for i, head in enumerate(heads)]
    if not texts:
        return canvas
    strip = Image.new("L", (whole, (len(lines) + bool(heads)) * (_LETTERS + 3) + 2), _WHITE)
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _LETTERS)
    for left, row, text, anchor in texts:
        ImageDraw.Draw(strip).text((left, 2 + row * (_LETTERS + 3)), text, fill=0, font=font, anchor=anchor)
    drawn = torch.from_numpy(np.array(strip)).to(canvas.device)
    return torch.cat([drawn.expand(channels, -1, -1), canvas], 1)


def save_picture(path: str | os.PathLike[str], image: Tensor) -> Path:
    """Write one image; folders are made as needed.

    Arguments:
        path: The file, .png or .jpg.
        image: uint8, `(C, H, W)` with 1 (grey) or 3 (RGB) channels.

    Returns:
        The path.

    Raises:
        DtypeError: the image is not uint8.
        ShapeError: it has no three dimensions, is empty, or has neither 1 nor 3 channels.
        DataError: as `write_picture`.
    """
    _require_pixels("save_picture", image, 3)
    return write_picture(Path(path), Image.fromarray(_as_array(image)))


def captioned_rows(path: str | os.PathLike[str], rows: Sequence[tuple[str, Tensor]]) -> Path:
    """Write rows of images as one picture, each row with its label at the left.

    Arguments:
        path: The file.
        rows: Pairs of a label and uint8 images `(N, C, H, W)`; rows may differ in length.

    Returns:
        The path.

    Raises:
        DtypeError: images are not uint8.
        ShapeError: there is no row, or a row is no batch of images with 1 or 3 channels.
    """
    if not rows:
        raise ShapeError("captioned_rows got no row to draw")
    for _, images in rows:
        _require_pixels("captioned_rows", images, 4)
    columns = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.6 + columns, len(rows) * 1.08), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for (label, images), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, images, strict=False):
            axis.imshow(_as_array(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].text(-0.12, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    return save_figure(figure, path)


def corner(path: str | os.PathLike[str], samples: Mapping[str, Tensor], columns: Sequence[str]) -> Path:
    """Write a corner plot: each pair of columns as points below the diagonal, each column as a histogram on it.

    Arguments:
        path: The file.
        samples: Name -> rows (N, n); the later ones lie on top. The first sets the range of each column.
        columns: Names of the n columns.

    Returns:
        The path.

    Raises:
        ShapeError: there is no sample, or one has not one number for each column.
    """
    n = len(columns)
    if not samples or any(rows.ndim != 2 or rows.shape[1] != n or len(rows) == 0 for rows in samples.values()):
        raise ShapeError(
            f"corner draws rows (N, {n}), one number for each of {n} columns; got "
            f"{ {name: tuple(rows.shape) for name, rows in samples.items()} }"
        )
    arrays = {name: rows.detach().cpu().double().numpy() for name, rows in samples.items()}
    first = next(iter(arrays.values()))
    low, high = first.min(0), first.max(0)
    margin = np.where(high > low, (high - low) / 20, 1.0)
    low, high = low - margin, high + margin
    figure = Figure(figsize=(1.5 * n + 1, 1.5 * n + 1), layout="constrained")
    axes = figure.subplots(n, n, squeeze=False)
    for i, j in np.ndindex(n, n):
        axis: Any = axes[i, j]
        if j > i:
            axis.set_axis_off()
            continue
        for rows in arrays.values():
            if i == j:
                axis.hist(rows[:, i], bins=40, range=(low[i], high[i]), density=True, histtype="step")
            else:
                axis.scatter(rows[:, j], rows[:, i], s=2.0, alpha=min(1.0, 600 / len(rows)), linewidths=0, rasterized=True)
        axis.set_xlim(low[j], high[j])
        if i != j:
            axis.set_ylim(low[i], high[i])
        axis.tick_params(labelsize=6, left=j == 0 and i > 0, labelleft=j == 0 and i > 0, labelbottom=i == n - 1)
        if i == n - 1:
            axis.set_xlabel(columns[j], fontsize=8)
        if j == 0 and i > 0:
            axis.set_ylabel(columns[i], fontsize=8)
    figure.legend(axes[0, 0].patches, list(arrays), loc="upper right", frameon=False)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure that no window or global state holds: it is freed with its last reference; folders are made as needed."""
    path = picture_file(Path(path))
    figure.savefig(path, dpi=120)
    return path


def _as_array(image: Tensor) -> np.ndarray:
    """Turn (C, H, W) into what picture libraries draw: (H, W) for one channel, (H, W, 3) for three."""
    if image.shape[0] not in (1, 3):
        raise ShapeError(f"an image has 1 (grey) or 3 (RGB) channels, got shape {tuple(image.shape)}")
    channels_last = image.detach().cpu().permute(1, 2, 0)
    return (channels_last[..., 0] if image.shape[0] == 1 else channels_last).numpy()


def _require_pixels(who: str, images: Tensor, ndim: int) -> None:
    """Refuse what is not a non-empty uint8 tensor of `ndim` dimensions."""
    if images.dtype != torch.uint8:
        raise DtypeError(f"{who} draws uint8 images, got {images.dtype} (to_uint8 maps [-1, 1] to it)")
    if images.ndim != ndim or images.numel() == 0:
        expected = "(N, C, H, W), at least one image" if ndim == 4 else "(C, H, W), not empty"
        raise ShapeError(f"{who} draws images of shape {expected}; got {tuple(images.shape)}")
