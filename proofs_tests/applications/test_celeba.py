"""CelebA is read as its authors split it, from the folders of its archive too; damage is named by file and line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.common.data import load
from induced.errors import DataError
from proofs_tests.applications.squares import save


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one test's own."""
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


COUNT = 12
NAMES_40 = ["Smiling", *(f"Attribute_{i}" for i in range(39))]


def write_celeba(root: Path) -> np.ndarray:
    """Twelve faces in the authors' layout: 6 to train, 3 to validate, 3 to test."""
    signs = np.random.default_rng(1).choice([-1, 1], (COUNT, 40))
    names = [f"{i + 1:06d}.jpg" for i in range(COUNT)]
    for i, name in enumerate(names):
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[35:183, 15:163] = 20 * i  # the central square of 148
        save(root / "img_align_celeba" / name, Image.fromarray(pixels), quality=100)
    rows = [f"{name}  " + " ".join(f"{s:2d}" for s in row) for name, row in zip(names, signs, strict=True)]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(COUNT), " ".join(NAMES_40) + " ", *rows]) + "\n")
    part = [0] * 6 + [1] * 3 + [2] * 3
    (root / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, part, strict=True)))
    return signs


def test_celeba_is_read_as_its_authors_split_it(tmp_path: Path) -> None:
    signs = write_celeba(tmp_path / "celeba")
    for split, rows in (("train", slice(0, 6)), ("valid", slice(6, 9)), ("test", slice(9, 12))):
        data = load("celeba", split, tmp_path, size=16, crop=148)
        assert data.images.shape[1:] == (3, 16, 16) and data.attributes is not None
        assert data.attribute_names == tuple(NAMES_40)
        assert np.array_equal(data.attributes.numpy(), signs[rows] > 0)
        assert torch.equal(data.labels, data.attributes[:, 0].long())
        expected = 20 * torch.arange(COUNT)[rows]
        assert (data.images.amin((1, 2, 3)) - expected).abs().max() <= 3  # nothing of the black frame
    assert load("celeba", "test", tmp_path).images.shape == (3, 3, 64, 64)
    assert load("celeba", "test", tmp_path, size=8).images[-1].min() < 40  # crop 178 shows the black frame


def test_celeba_in_the_folders_of_its_archive_is_found(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    for inner, name in (("Img", "img_align_celeba"), ("Anno", "list_attr_celeba.txt"), ("Eval", "list_eval_partition.txt")):
        (tmp_path / inner).mkdir()
        (tmp_path / name).rename(tmp_path / inner / name)
    assert len(load("celeba", "valid", tmp_path, size=4)) == 3


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


ATTR, PART = "list_attr_celeba.txt", "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace(ATTR, "12\n", "13\n"), r"list_attr_celeba\.txt, line 1: declares '13' pictures and 12 lines"),
        (replace(ATTR, "Attribute_7 ", ""), r"list_attr_celeba\.txt, line 2: holds 39 names; expected 40"),
        (replace(ATTR, "Smiling", "Frowning"), r"line 2: holds 40 names; expected 40 attributes, Smiling among them"),
        (replace(ATTR, "000002.jpg  ", "000002.jpg 1 "), r"list_attr_celeba\.txt, line 4: '000002\.jpg 1"),
        (replace(ATTR, "000002.jpg", "000099.jpg"), r"list_eval_partition\.txt, line 2: .* expected '000099\.jpg'"),
        (lambda root: (root / ATTR).write_text(""), "line 2: holds 0 names"),
        (lambda root: (root / ATTR).write_bytes(b"\xff"), "cannot be read as a list"),
        (replace(PART, "000003.jpg 0", "000003.jpg 3"), r"list_eval_partition\.txt, line 3: '000003\.jpg 3'"),
        (replace(PART, "000003.jpg 0\n", ""), r"list_eval_partition\.txt, line 3: '000004\.jpg .* expected '000003\.jpg'"),
        (lambda root: (root / "img_align_celeba/000005.jpg").unlink(), r"line 7: .*000005\.jpg is missing, with 0 others"),
        (lambda root: shutil.copy(root / "img_align_celeba/000005.jpg", root / "img_align_celeba/x.jpg"), "holds 13 pictures"),
        (lambda root: (root / "img_align_celeba/000001.jpg").write_bytes(b"\xff\xd8\xff"), r"000001\.jpg: no picture"),
        (
            lambda root: save(root / "img_align_celeba/000001.jpg", Image.new("RGB", (64, 64))),
            r"000001\.jpg: is 64x64 pixels; expected 178x218",
        ),
        (lambda root: (root / PART).unlink(), "Its agreement forbids redistribution, so nobody but you can put it there"),
    ],
)
def test_a_damaged_celeba_is_refused_by_file_and_line(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_celeba(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        load("celeba", "train", tmp_path, size=4)


def test_celeba_without_a_square_is_refused(tmp_path: Path) -> None:
    for crop in (0, 179):
        with pytest.raises(DataError, match=rf"crop lies in 1\.\.178, got {crop}"):
            load("celeba", "train", tmp_path, crop=crop)
