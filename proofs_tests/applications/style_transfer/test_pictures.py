"""Pictures in files: upright, in sRGB, of every mode, with their alpha; what cannot be used is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from applications.common.data.pictures import Picture, read_picture, write_picture
from induced.errors import DataError


def test_a_picture_comes_back_upright_with_its_alpha(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found.colours), pixels[..., :3])
    assert found.alpha is not None and np.array_equal(np.asarray(found.alpha), pixels[..., 3])
    again = read_picture(write_picture(tmp_path / "b.png", found.with_colours(found.tensor())))
    assert np.array_equal(np.asarray(again.colours), pixels[..., :3])
    assert again.alpha is not None and np.array_equal(np.asarray(again.alpha), pixels[..., 3])
    laid = read_picture(write_picture(tmp_path / "c.jpg", Picture(found.colours, Image.new("L", (30, 20), 0))))
    assert laid.alpha is None and np.asarray(laid.colours).min() > 250

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels[..., :3]).save(tmp_path / "d.png", exif=exif)
    turned = read_picture(tmp_path / "d.png")
    assert np.array_equal(np.asarray(turned.colours), np.rot90(pixels[..., :3], -1))


@pytest.mark.parametrize("size", [(28, 28), (28, 40), (17, 31)])
def test_no_picture_is_padded(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Picture(Image.fromarray(pixels))
    assert picture.tensor().shape == (1, 3, *size)
    assert np.array_equal(np.asarray(picture.with_colours(picture.tensor()).colours), pixels)


def test_colours_are_brought_to_srgb_by_the_profile_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(30, 220, (16, 16, 3), dtype=np.uint8)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # with the profile of sRGB nothing changes but rounding; one for other channels is passed over
    for name, profile in (("same", srgb), ("lab", lab.tobytes()), ("broken", b"no profile")):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", icc_profile=profile)
        found = np.asarray(read_picture(tmp_path / f"{name}.png").colours).astype(int)
        assert np.abs(found - pixels).max() <= 1, name
    # sRGB primaries with the first two exchanged, made by exchanging the two tags of the profile
    exchanged = srgb.replace(b"rXYZ", b"tmp0").replace(b"gXYZ", b"rXYZ").replace(b"tmp0", b"gXYZ")
    Image.fromarray(pixels).save(tmp_path / "exchanged.png", icc_profile=exchanged)
    found = np.asarray(read_picture(tmp_path / "exchanged.png").colours).astype(int)
    assert np.abs(found - pixels[..., [1, 0, 2]]).max() <= 2
    with Image.open(write_picture(tmp_path / "x.jpg", Picture(Image.fromarray(pixels)))) as written:
        assert written.info["icc_profile"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_read(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16))
    else:
        picture = Image.new("RGB", (16, 16), (200, 200, 200)).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture.save(path)
    found = read_picture(path)
    expected = 40000 / 257 if mode == "I;16" else 255 if mode == "1" else 200
    assert found.colours.mode == "RGB" and np.abs(np.asarray(found.colours).mean() - expected) <= 60 * (mode == "1") + 3
    assert (found.alpha is not None) == (mode == "LA")


def test_pictures_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(DataError, match="no picture that can be decoded"):
        read_picture(tmp_path / "x.png")
    with pytest.raises(DataError, match="there is no such file"):
        read_picture(tmp_path / "missing.png")
    Image.new("RGB", (40, 15)).save(tmp_path / "tiny.png")
    with pytest.raises(DataError, match="is 40x15 pixels; sides of at least 16 are needed"):
        read_picture(tmp_path / "tiny.png", 16)
    with pytest.raises(DataError, match="pictures are written as .png, .jpg, .jpeg"):
        write_picture(tmp_path / "x.bmp", Picture(Image.new("RGB", (16, 16))))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="its folder cannot be made"):
        write_picture(tmp_path / "file" / "x.png", Picture(Image.new("RGB", (16, 16))))


def test_a_picture_that_cannot_be_encoded_leaves_the_one_before(tmp_path: Path) -> None:
    before = write_picture(tmp_path / "x.png", Image.new("RGB", (4, 4), "red")).read_bytes()
    with pytest.raises(DataError, match=r"x\.png: cannot be written \(cannot write mode F as PNG\)"):
        write_picture(tmp_path / "x.png", Image.new("F", (4, 4)))
    assert (tmp_path / "x.png").read_bytes() == before
