"""Readers of colour data sets, on stand-ins written here in the layout of the real ones, and on the real ones where they are."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from applications.common.data import NAMES, ImageSet, load, to_uint8, to_unit
from applications.common.data import squares as squares_module
from applications.common.data.pixels import unit_shape
from applications.common.data.squares import read_square, read_squares
from applications.flow_matching.config import Config, ModelConfig
from applications.flow_matching.train import training_set
from induced.errors import DataError, DomainError, DtypeError, ShapeError
from proofs_tests.applications.squares import save

DATA = Path(os.environ.get("INDUCED_DATA") or "nowhere")


def needs(inner: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / inner).exists(), reason=f"{inner} is not in $INDUCED_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one test's own."""
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_name_that_needs_files_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    for name in set(NAMES) - {"mnist5k"}:
        with pytest.raises(DataError, match=rf"{name} needs .+ no folder was given: pass --data-dir"):
            load(name, "train")
        with pytest.raises(DataError, match=str(tmp_path)):
            load(name, "train", tmp_path)


def test_a_size_is_refused_where_images_have_their_own() -> None:
    with pytest.raises(DataError, match=r"mnist5k have a size of their own, got size=64; celeba and folder take one"):
        load("mnist5k", "train", size=64)


@pytest.mark.parametrize("side", [2, 6, 30, 64])
def test_colour_of_any_even_side_survives_the_map_to_numbers(side: int) -> None:
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    assert unit_shape(images) == (2, 3, side, side)
    assert torch.equal(to_uint8(to_unit(images, torch.rand(images.shape))), images)


def test_attributes_must_match_images_and_names() -> None:
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    known = torch.zeros(2, 1, dtype=torch.uint8)
    assert ImageSet("a", images, labels, known, ("hat",)).attribute_names == ("hat",)
    with pytest.raises(DtypeError, match=r"attributes of torch\.int64"):
        ImageSet("a", images, labels, known.long(), ("hat",))
    with pytest.raises(ShapeError, match=r"attributes of shape \(2, 1\); .* for 0 names"):
        ImageSet("a", images, labels, known)
    with pytest.raises(ShapeError, match=r"attributes of shape \(1, 1\); .* for 1 names"):
        ImageSet("a", images, labels, known[:1], ("hat",))
    with pytest.raises(ShapeError, match=r"attributes of shape \(2, 0\); .* for 1 names"):
        ImageSet("a", images, labels, None, ("hat",))


def test_images_spread_over_a_set_keep_their_classes_and_attributes() -> None:
    images = torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1)
    data = ImageSet("seven", images, images.flatten().long(), images.flatten(1), ("number",))
    for n, chosen in ((1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (7, list(range(7)))):
        found = data.spread(n)
        assert found.labels.tolist() == found.images.flatten().tolist() == chosen
        assert found.attributes is not None and found.attributes.flatten().tolist() == chosen
    for n in (0, 8):
        with pytest.raises(DomainError, match=rf"n lies in 1\.\.7, the number of images of seven, got {n}"):
            data.spread(n)


# ------------------------------------------------------------------------------------------------------------ fashion-mnist
@needs("fashion-mnist")
def test_fashion_mnist_has_a_test_split_alone() -> None:
    data = load("fashion-mnist", "test", DATA)
    assert data.name == "fashion-mnist test" and data.images.shape == (10_000, 1, 28, 28)
    assert data.labels.bincount().tolist() == [1000] * 10
    if not list((DATA / "fashion-mnist").glob("train*")):
        with pytest.raises(DataError, match=r"fashion-mnist: found none of .*train-images-idx3-ubyte"):
            load("fashion-mnist", "train", DATA)


@needs("mnist")
def test_the_files_of_mnist_are_not_taken_for_fashion_mnist() -> None:
    with pytest.raises(DataError, match="fashion-mnist: found none of"):
        load("fashion-mnist", "test", DATA / "mnist")


# ---------------------------------------------------------------------------------------------------------------- avatars64
def write_avatars(path: Path, **changes: np.ndarray) -> np.ndarray:
    """40 random pictures; 0 and 39, 1 and 38, ... 9 and 30 are identical."""
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    images[30:] = images[9::-1]
    arrays = {
        "images": images,
        "attributes": np.arange(80, dtype=np.uint8).reshape(40, 2),
        "names": np.array(["hat", "hairColor"]),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return images


def test_avatars_are_split_without_parting_twins(tmp_path: Path) -> None:
    images = write_avatars(tmp_path / "toonhead64.npz")
    train, test = (load("avatars64", split, tmp_path) for split in ("train", "test"))
    assert len(train) + len(test) == 40 and 4 <= len(test) <= 5
    contents = [{image.numpy().tobytes() for image in part.images} for part in (train, test)]
    assert not contents[0] & contents[1]
    for part in (train, test):
        assert part.attributes is not None and part.attribute_names == ("hat", "hairColor")
        rows = part.attributes[:, 0].long() // 2
        assert torch.equal(part.images, torch.from_numpy(images)[rows].permute(0, 3, 1, 2))
        assert torch.equal(part.labels, part.attributes[:, 1].long()) and bool((rows.diff() > 0).all())


def test_avatars_of_another_layout_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "toonhead64.npz"
    for changes in (
        {"images": np.zeros((40, 32, 32, 3), np.uint8)},
        {"attributes": np.zeros((39, 2), np.uint8)},
        {"names": np.array(["a", "b"])},
    ):
        write_avatars(path, **changes)
        with pytest.raises(DataError, match=r"expected uint8 \(N, 64, 64, 3\) and uint8 \(N, k\) with k names, hairColor"):
            load("avatars64", "train", tmp_path)
    for damaged in (path.read_bytes()[:-100], b"no archive", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is no readable npz file"):
            load("avatars64", "train", tmp_path)


@needs("avatars64")
def test_the_real_avatars_hold_out_a_thousand() -> None:
    train, test = load("avatars64", "train", DATA), load("avatars64", "test", DATA)
    assert train.images.shape == (9000, 3, 64, 64) and test.images.shape == (1000, 3, 64, 64)
    contents = [{hashlib.sha256(image.numpy().tobytes()).digest() for image in part.images} for part in (train, test)]
    assert not contents[0] & contents[1] and len(contents[0] | contents[1]) == 9997
    assert test.attributes is not None and test.attributes.shape == (1000, 11)
    assert torch.equal(test.labels, test.attributes[:, test.attribute_names.index("hairColor")].long())


# ----------------------------------------------------------------------------------------------------------------- pictures
def test_the_centre_is_cut_and_averaged(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = (10, 20, 30)
    assert read_square(save(tmp_path / "a.png", Image.fromarray(wide)), 4)[0][:, 0, 0].tolist() == [10, 20, 30]
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = read_square(save(tmp_path / "b.png", Image.fromarray(checks)), 8, grey=True)[0]
    assert small.shape == (1, 8, 8)
    assert abs(small[0, 2:-2, 2:-2].astype(int) - 127.5).max() < 2  # without antialiasing: 0 or 255


def test_every_kind_of_pixel_becomes_eight_bits_on_white(tmp_path: Path) -> None:
    colour = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert read_square(save(tmp_path / "alpha.png", colour), 4)[0].min() == 255
    half = Image.new("LA", (4, 4), (0, 128))
    assert read_square(save(tmp_path / "half.png", half), 4)[0][:, 0, 0].tolist() == [127] * 3
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 7, 8, 9])
    assert read_square(save(tmp_path / "palette.png", palette), 4)[0][:, 0, 0].tolist() == [7, 8, 9]
    assert read_square(save(tmp_path / "hole.png", palette, transparency=1), 4)[0].min() == 255
    deep = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    assert read_square(save(tmp_path / "deep.png", deep), 4, grey=True)[0].tolist() == [[[100] * 4] * 4]
    assert read_square(save(tmp_path / "cmyk.jpg", Image.new("CMYK", (4, 4))), 4)[0].min() > 250
    assert read_square(save(tmp_path / "bits.png", Image.new("1", (4, 4), 1)), 4, grey=True)[0].min() == 255
    for values, grey in (
        (np.full((4, 4), 100 * 2**24 + 7, np.int32), 100),  # 32 bits
        (np.full((4, 4), 0.2, np.float32), 51),  # shares of white
    ):
        assert read_square(save(tmp_path / "wide.tiff", Image.fromarray(values)), 4)[0].tolist() == [[[grey] * 4] * 4] * 3
    with pytest.raises(DataError, match="its floating-point values reach from 2 to 2; expected 0 to 1, shares of white"):
        read_square(save(tmp_path / "wrong.tiff", Image.fromarray(np.full((4, 4), 2, np.float32))), 4)


def test_the_first_frame_of_an_animation_is_taken_and_said(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Image.new("L", (4, 4), grey) for grey in (10, 200))
    path = save(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert read_squares([path], 4)[0].tolist() == [[[[10] * 4] * 4] * 3]
    assert "1 of 1 pictures are animations: the first frame of each is taken" in capsys.readouterr().out


def test_a_picture_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = read_square(save(tmp_path / "a.png", Image.fromarray(pixels), exif=exif), 8, grey=True)[0]
    assert np.array_equal(turned[0], pixels[::-1])


def test_pictures_are_decoded_once_and_mapped(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{i}.png", Image.new("RGB", (8, 8), (i, 0, 0))) for i in range(3)]
    first = read_squares(paths, 4)[0]
    assert isinstance(first, np.memmap) and first.shape == (3, 3, 4, 4) and first[:, 0, 0, 0].tolist() == [0, 1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(squares_module, "read_square", lambda *a, **k: pytest.fail("decoded twice"))
        first[:] = 9  # in memory alone
        assert read_squares(paths, 4)[0][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert read_squares(paths, 2)[0].shape == (3, 3, 2, 2) and read_squares(paths, 4, grey=True)[0].shape == (3, 1, 4, 4)
    save(paths[1], Image.new("RGB", (9, 9), (77, 0, 0)))
    os.utime(paths[1], ns=(1, 1))
    assert read_squares(paths, 4)[0][:, 0, 0, 0].tolist() == [0, 77, 2]
    assert len(list(cache.iterdir())) == 4
    with pytest.raises(DomainError, match="side of at least 1 pixel, got size=0"):
        read_squares(paths, 0)


def test_a_cache_that_cannot_be_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path / "a.png", Image.new("L", (4, 4)))
    with pytest.raises(DataError, match=r"c\.png: cannot be read \(No such file"):
        read_squares([tmp_path / "c.png"], 4)
    with pytest.raises(DataError, match="the cache cannot be written"):
        read_squares([good], 4, cache_dir=good)
    usage = shutil.disk_usage(tmp_path)._replace(free=47)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="217 bytes are needed for the cache and 47 are free .*; make room, or move it with"):
        read_squares([good], 4)


def test_all_damaged_pictures_are_named_at_once_and_the_others_are_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [save(tmp_path / f"{i}.png", Image.new("L", (4, 4), i)) for i in range(9)]
    for bad in (paths[2], paths[7]):
        bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=r"2 of 9 pictures cannot.*--skip-bad(?s:.*)2\.png: no picture(?s:.*)7\.png: no"):
        read_squares(paths, 4)
    decoded = []

    def reading(path: Path, **options: Any) -> Any:
        decoded.append(path)
        return read_square(path, **options)

    monkeypatch.setattr(squares_module, "read_square", reading)
    images, kept = read_squares(paths, 4, skip_bad=True)
    assert images[:, 0, 0, 0].tolist() == kept.tolist() == [0, 1, 3, 4, 5, 6, 8] and set(decoded) == {paths[2], paths[7]}
    assert isinstance(images, np.memmap) and "2 of 9 pictures are left out" in capsys.readouterr().out
    with pytest.raises(DataError, match="1 of 1 pictures cannot be used"):
        read_squares(paths[2:3], 4, skip_bad=True)


# ------------------------------------------------------------------------------------------------------------------- folder
def test_a_folder_is_read_in_order_and_split_by_its_content(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for i in range(60):
        path = root / ("cats" if i % 2 else "dogs") / f"{i:02d}.{'png' if i % 3 else 'WebP'}"
        save(path, Image.new("RGB", (6, 8), (i, i, i)), lossless=True)
    (root / "cats" / "notes.txt").write_text("no picture")
    (root / "cats" / ".hidden.png").write_text("no picture")
    train, test = (load("folder", split, root, size=4) for split in ("train", "test"))
    assert train.images.shape[1:] == (3, 4, 4) and len(train) + len(test) == 60
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (train, test)]
    assert sorted(numbers[0] + numbers[1]) == list(range(60)) and 1 <= len(test) <= 15
    for part, found in zip((train, test), numbers, strict=True):
        assert part.labels.tolist() == [(i + 1) % 2 for i in found]
        assert found == sorted(found, key=lambda i: (i % 2 == 0, i))
    save(root / "aaa" / "new.png", Image.new("RGB", (6, 8)))
    again = load("folder", "test", root, size=4, grey=True).images[:, 0, 0, 0].tolist()
    assert [i for i in again if i] == [i for i in numbers[1] if i]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .*/pictures \(--data-dir\) does not exist"):
        load("folder", "train", tmp_path / "pictures")
    root = tmp_path / "pictures"
    root.mkdir()
    with pytest.raises(DataError, match="no picture is in or below it; expected files ending in .bmp"):
        load("folder", "train", root)
    save(root / "a.png", Image.new("L", (4, 4)))
    with pytest.raises(DataError, match="none of its 1 pictures falls into the (train|test) split"):
        for split in ("train", "test"):
            load("folder", split, root)


def test_hidden_folders_are_left_out_and_linked_ones_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    for i in range(60):
        save(real / ("a" if i % 2 else "b") / f"{i}.png", Image.new("L", (5, 5), i))
        save(real / ".ipynb_checkpoints" / f"{i}.png", Image.new("L", (5, 5), i + 60))
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):
        (tmp_path / "all" / name).symlink_to(real / name)
    (real / "a" / "again").symlink_to(real)  # a circle
    for split in ("train", "test"):
        plain, linked = (load("folder", split, root, size=4) for root in (real, tmp_path / "all"))
        assert torch.equal(plain.images, linked.images) and torch.equal(plain.labels, linked.labels)
        assert plain.images.max() < 60 and set(plain.labels.tolist()) == {0, 1}


def test_copies_of_a_picture_are_in_one_split(tmp_path: Path) -> None:
    for i in range(40):
        picture = Image.new("L", (5, 5), i)
        for place in ("a", "b"):
            save(tmp_path / "p" / place / f"{place}{i}.png", picture)
    train, test = (set(load("folder", split, tmp_path / "p", size=4).images[:, 0, 0, 0].tolist()) for split in ("train", "test"))
    assert test and not train & test and train | test == set(range(40))


def test_training_takes_size_and_channels_from_the_model(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "p" / f"{i}.png", Image.new("RGB", (9, 9), (i, i, i)))
    for shape in ((1, 8, 8), (3, 4, 4)):
        data = training_set(Config(data="folder", model=ModelConfig(shape=shape)), tmp_path / "p")
        assert tuple(data.images.shape[1:]) == shape
