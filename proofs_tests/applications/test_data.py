"""Readers of image data, on files made here and on the real ones where they are; pixels to [-1, 1) and back."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from applications.common.data import ImageSet, load, to_uint8, to_unit
from applications.common.data.idx import read_idx
from applications.common.data.pixels import unit_shape
from induced.errors import DataError, DomainError, DtypeError, ShapeError

real_data = pytest.mark.skipif(
    not os.environ.get("INDUCED_DATA"), reason="INDUCED_DATA is not set: the real MNIST files are elsewhere"
)


def idx(array: np.ndarray) -> bytes:
    """Write IDX from its definition."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, stem: str, n: int, *, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Write a small data set in MNIST's layout."""
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, n, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images, labels


@pytest.mark.parametrize("packed", [False, True])
def test_read_idx_reads_what_was_written(tmp_path: Path, packed: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 2), dtype=np.uint8)
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = read_idx(path)
    assert read.dtype == np.uint8 and np.array_equal(read, array)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
# Without a time stamp: test names are made from these bytes, and must be the same in every process.
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes that start with nothing; an IDX file of bytes starts with 00 00 08, its number of dimensions"),
        (b"\x89PNG....", "8 bytes that start with 89 50 4e 47"),
        (b"\0\0\x0a" + GOOD[3:], "40 bytes that start with 00 00 0a 03"),
        (b"\0\0\x08\0", "4 bytes that start with 00 00 08 00"),
        (GOOD[:9], "9 bytes that start with 00 00 08 03"),
        (GOOD[:-1], r"shape \(2, 3, 4\), that is 24 bytes, and 23 follow"),
        (GOOD + b"\0", "that is 24 bytes, and 25 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"shape \(4294967295, 4294967295, 4294967295\), that is 79228"),
        (PACKED[:-9], "gzip stream is damaged or truncated"),
        (PACKED[:4], "gzip stream is damaged or truncated"),
        (PACKED[:12] + b"\xff\xff" + PACKED[14:], "gzip stream is damaged or truncated"),
        (PACKED[:-8] + b"\0" * 8, "gzip stream is damaged or truncated"),
    ],
)
def test_read_idx_refuses_what_is_damaged(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_read_idx_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("inner", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_in_the_folder_and_below_it(tmp_path: Path, inner: str, packed: bool) -> None:
    images, labels = write_mnist(tmp_path / inner, "t10k", 6, packed=packed)
    data = load("mnist", "test", tmp_path)
    assert data.name == "mnist test" and len(data) == 6
    assert np.array_equal(data.images.numpy(), images[:, None])
    assert np.array_equal(data.labels.numpy(), labels)
    for file in (tmp_path / inner).glob("*-idx*"):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert torch.equal(load("mnist", "test", tmp_path).images, data.images)


def test_data_dir_beats_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "a", "train", 3, packed=True)
    write_mnist(tmp_path / "b", "train", 5, packed=True)
    monkeypatch.setenv("INDUCED_DATA", str(tmp_path / "a"))
    assert len(load("mnist", "train")) == 3
    assert len(load("mnist", "train", tmp_path / "b")) == 5


def test_missing_mnist_says_what_was_sought_and_what_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="mnist5k needs no files") as caught:
        load("mnist", "train", tmp_path)
    assert "found none of train-images-idx3-ubyte.gz, " in str(caught.value) and f"{tmp_path / 'mnist'}, " in str(caught.value)
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    with pytest.raises(DataError, match="no folder was given: pass --data-dir or set INDUCED_DATA"):
        load("mnist", "train")


def test_mnist_of_another_layout_is_refused(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path, "train", 4, packed=False)
    image_path, label_path = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    label_path.write_bytes(idx(labels[:3]))
    with pytest.raises(DataError, match=r"holds labels of shape \(3,\); .*images-idx3-ubyte has 4 images"):
        load("mnist", "train", tmp_path)
    label_path.write_bytes(idx(labels + 10))
    with pytest.raises(DataError, match="classes of mnist are 0 to 9"):
        load("mnist", "train", tmp_path)
    image_path.write_bytes(idx(images[0]))
    with pytest.raises(DataError, match=r"holds bytes of shape \(28, 28\); expected images \(N, H, W\)"):
        load("mnist", "train", tmp_path)


def test_unknown_names_and_splits_are_refused() -> None:
    with pytest.raises(DataError, match="no data set is called 'mnits'; there are mnist, mnist5k"):
        load("mnits", "train")
    with pytest.raises(DataError, match="'mnist' has no split 'val'; there are train, test"):
        load("mnist", "val")


def test_mnist5k_holds_out_fifty_of_each_class_and_loses_none() -> None:
    train, test = load("mnist5k", "train"), load("mnist5k", "test")
    assert train.images.shape == (4500, 1, 28, 28) and test.images.shape == (500, 1, 28, 28)
    assert test.labels.bincount().tolist() == [50] * 10 and train.labels.bincount().tolist() == [450] * 10
    assert "MNIST training images" in train.name and "MNIST training images" in test.name
    assert len(torch.cat([train.images, test.images]).flatten(1).unique(dim=0)) == 5000


@real_data
def test_real_mnist_has_its_published_statistics() -> None:
    train, test = load("mnist", "train"), load("mnist", "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    scaled = train.images.double() / 255
    assert (round(float(scaled.mean()), 4), round(float(scaled.std()), 4)) == (0.1307, 0.3081)
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@real_data
def test_mnist5k_is_part_of_the_real_training_set() -> None:
    real = {image.tobytes() for image in load("mnist", "train").images.numpy()}
    assert all(image.tobytes() in real for image in load("mnist5k", "test").images.numpy())


ALL_PIXELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
# The largest number below 1 that torch.rand gives, and others next to where rounding changes.
EDGES = [0.0, 2.0**-24, 0.5, 1 - 2.0**-15, 1 - 2.0**-16, 1 - 2.0**-17, 1 - 2.0**-24]


@pytest.mark.parametrize("u", EDGES)
def test_pixels_survive_the_round_trip_at_the_edges_of_the_noise(u: float) -> None:
    x = to_unit(ALL_PIXELS, torch.full((1, 1, 16, 16), u))
    assert x.dtype == torch.float32
    assert -1 <= x.min() and x.max() < 1
    assert torch.equal(to_uint8(x), ALL_PIXELS)


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_pixels_survive_the_round_trip_for_any_noise(seed: int, dtype: torch.dtype) -> None:
    noise = torch.rand((1, 1, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    assert torch.equal(to_uint8(to_unit(ALL_PIXELS, noise)), ALL_PIXELS)


def test_without_noise_a_pixel_is_the_middle_of_its_bin() -> None:
    x = to_unit(ALL_PIXELS)
    assert torch.equal(x, to_unit(ALL_PIXELS, torch.full((1, 1, 16, 16), 0.5)))
    assert torch.equal(x.flatten().double(), (torch.arange(256.0).double() + 0.5) / 128 - 1)
    assert torch.equal(to_uint8(x), ALL_PIXELS)


def test_sides_of_28_become_32_with_a_border_of_zeros() -> None:
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert unit_shape(images) == (2, 1, 32, 32)
    back = to_uint8(to_unit(images))
    assert torch.equal(back[..., 2:-2, 2:-2], images)
    assert back.sum() == images.sum()


def test_to_uint8_clamps() -> None:
    assert to_uint8(torch.tensor([-9.0, -1.0, 1.0, 9.0])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([0.0], dtype=torch.bfloat16)).tolist() == [128]


def test_what_are_no_pixels_or_no_noise_is_refused() -> None:
    noise = torch.rand(1, 1, 16, 16)
    with pytest.raises(DtypeError, match=r"maps uint8 images, got torch\.float32"):
        to_unit(noise)
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\), got \(1, 16, 16\)"):
        to_unit(ALL_PIXELS[0])
    with pytest.raises(DtypeError, match=r"float32 or float64, got torch\.bfloat16"):
        to_unit(ALL_PIXELS, noise.bfloat16())
    with pytest.raises(ShapeError, match=r"\(16, 16\), expected \(1, 1, 16, 16\) \(after padding\)"):
        to_unit(ALL_PIXELS, noise[0, 0])
    for bad in (-1e-3, 1.0, torch.nan):
        with pytest.raises(DomainError, match=r"must lie in \[0, 1\)"):
            to_unit(ALL_PIXELS, torch.full_like(noise, bad))
    with pytest.raises(DtypeError, match=r"maps floating-point images in \[-1, 1\), got torch\.uint8"):
        to_uint8(ALL_PIXELS)
    with pytest.raises(DomainError, match="1 values that are not finite, of 2"):
        to_uint8(torch.tensor([0.0, torch.inf]))


def test_an_image_set_of_other_tensors_is_refused() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(DtypeError, match=r"holds images of torch\.float32, expected torch\.uint8"):
        ImageSet("a", ALL_PIXELS.float(), labels)
    with pytest.raises(ShapeError, match=r"labels of shape \(2,\), .*; expected \(N, C, H, W\), \(N,\) and \(N, 0\)"):
        ImageSet("a", ALL_PIXELS, torch.zeros(2, dtype=torch.int64))
