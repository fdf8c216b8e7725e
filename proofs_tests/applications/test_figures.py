"""Pictures: every pixel of a grid where it belongs, files that read back, and what is refused."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.common.figures import captioned_rows, grid, save_picture
from experiments.lines import line_plot
from induced.errors import DtypeError, ShapeError

ROOT = Path(__file__).resolve().parents[2]


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 200, shape, dtype=torch.uint8)


def test_grid_puts_each_image_in_its_place_on_white() -> None:
    images = pixels(5, 3, 4, 6)
    canvas = grid(images, columns=3, padding=2)
    assert canvas.shape == (3, 2 * 6 + 2, 3 * 8 + 2)
    covered = torch.zeros(canvas.shape, dtype=torch.bool)
    for i, image in enumerate(images):
        y, x = 2 + (i // 3) * 6, 2 + (i % 3) * 8
        assert torch.equal(canvas[:, y : y + 4, x : x + 6], image)
        covered[:, y : y + 4, x : x + 6] = True
    assert (canvas[~covered] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_reads_back_enlarged(tmp_path: Path, channels: int) -> None:
    image = pixels(channels, 3, 5)
    path = save_picture(tmp_path / "new" / "a.png", grid(image[None], columns=1, padding=0, scale=4))
    read = np.asarray(Image.open(path)).reshape(12, 20, channels)
    assert np.array_equal(read[::4, ::4], image.permute(1, 2, 0).numpy())
    assert np.array_equal(read[3::4, 3::4], read[::4, ::4])
    with Image.open(save_picture(tmp_path / "a.jpg", image)) as written:
        assert written.format == "JPEG", "the suffix says what is written"


def test_a_caption_and_heads_stand_above_the_images_which_stay_as_they_are() -> None:
    images = pixels(4, 1, 30, 60)
    plain, told = grid(images, columns=4), grid(images, columns=4, caption="word " * 30, heads=["a", "b", "c", "d"])
    text = told[:, : -plain.shape[1]]
    assert torch.equal(told[:, -plain.shape[1] :], plain) and told.shape[2] == plain.shape[2]
    assert text.shape[1] > 4 * 11, "a long caption has several lines"
    ink = (text[0] < 128).float()
    assert ink.sum() > 100 and [bool(part.any()) for part in ink[-14:].tensor_split(4, 1)] == 4 * [True]


def test_captioned_rows_of_different_lengths_make_a_picture(tmp_path: Path) -> None:
    path = captioned_rows(tmp_path / "rows.png", [("grey", pixels(3, 1, 8, 8)), ("colour", pixels(2, 3, 8, 8))])
    assert np.asarray(Image.open(path)).std() > 10


def test_a_line_plot_makes_a_picture(tmp_path: Path) -> None:
    series = {"a": ([1, 10, 100], [3.0, 2.0, 1.0]), "b": ([1, 10], [1.0, 1.5])}
    path = line_plot(tmp_path / "p.png", series, title="t", x_label="steps", y_label="error", log_x=True)
    assert np.asarray(Image.open(path)).std() > 10


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DtypeError, match=r"grid draws uint8 images, got torch\.float32"):
        grid(torch.rand(1, 1, 2, 2), 1)
    with pytest.raises(ShapeError, match=r"at least one image; got \(0, 1, 2, 2\)"):
        grid(pixels(0, 1, 2, 2), 1)
    with pytest.raises(ShapeError, match=r"\(C, H, W\), not empty; got \(1, 1, 2, 2\)"):
        save_picture(path, pixels(1, 1, 2, 2))
    with pytest.raises(ShapeError, match=r"1 \(grey\) or 3 \(RGB\) channels, got shape \(2, 2, 2\)"):
        save_picture(path, pixels(2, 2, 2))
    with pytest.raises(ShapeError, match="no row to draw"):
        captioned_rows(path, [])
    assert not path.exists()


WORDS = {"grid": "caption", "line_plot": "title"}


@pytest.mark.parametrize(
    "path", [*(ROOT / "experiments").glob("*.py"), *(ROOT / "applications").rglob("*.py")], ids=lambda p: p.stem
)
def test_every_picture_that_is_written_says_what_one_sees(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in WORDS:
            given = {keyword.arg for keyword in call.keywords}
            assert WORDS[call.func.id] in given, f"{path.name}:{call.lineno} draws without words"
