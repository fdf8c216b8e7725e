"""The data of style transfer: teachers, photographs, and the pairs that the teachers make of crops."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from applications.common.data.pictures import read_picture, unit
from applications.style_transfer import pairs as pairs_module
from applications.style_transfer.config import Config, ModelConfig, ObjectiveConfig
from applications.style_transfer.pairs import pairs
from applications.style_transfer.photographs import TEST, TRAIN, opened, photographs, random_crop
from applications.style_transfer.teacher import STYLES, Teacher, load_teacher
from experiments.stylised import plain_crops
from induced.errors import DataError, DomainError, ShapeError

TINY = ModelConfig(styles=("candy", "udnie"), blocks=1, squeezes=1, width=6, kernel=3, features=3)
WEIGHTS = Path(os.environ.get("INDUCED_DATA", "")) / "fast-style"
SHIPPED = importlib.util.find_spec("skimage") is not None
needs_photographs = pytest.mark.skipif(not SHIPPED, reason="scikit-image, whose photographs these are, is not installed")


# ----------------------------------------------------------------------------------------------------------------- teachers
def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The network of pytorch/examples by plain functions, pixels 0..255 in and out."""

    def convolved(h: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv2d.weight"]
        k = weight.shape[-1] // 2
        return F.conv2d(F.pad(h, (k, k, k, k), mode="reflect"), weight, state[f"{name}.conv2d.bias"], stride)

    def normal(h: Tensor, name: str) -> Tensor:
        mean, variance = h.mean((2, 3), keepdim=True), h.var((2, 3), unbiased=False, keepdim=True)
        return (h - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][
            :, None, None
        ]

    h = normal(convolved(pixels, "conv1"), "in1").relu()
    h = normal(convolved(h, "conv2", 2), "in2").relu()
    h = normal(convolved(h, "conv3", 2), "in3").relu()
    for i in range(1, 6):
        inner = normal(convolved(h, f"res{i}.conv1"), f"res{i}.in1").relu()
        h = h + normal(convolved(inner, f"res{i}.conv2"), f"res{i}.in2")
    for i in (1, 2):
        doubled = h.repeat_interleave(2, -1).repeat_interleave(2, -2)
        h = normal(convolved(doubled, f"deconv{i}"), f"in{i + 3}").relu()
    return convolved(h, "deconv3")


@pytest.mark.parametrize("size", [(32, 24), (33, 30)])
def test_a_teacher_is_the_network_of_its_weights_on_pixels(folder: Path, size: tuple[int, int]) -> None:
    with np.load(folder / "fast-style" / "candy.npz") as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    pixels = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = reference(state, pixels.float())[..., : size[0], : size[1]]
    assert float(expected.amin()) < 0  # random weights: much is clamped, and much is not
    found = 128 * (load_teacher("candy", folder)(unit(pixels)) + 1) - 0.5
    assert torch.allclose(found, expected.clamp(0, 255), atol=2e-3)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the folder fast-style is not below INDUCED_DATA")
@pytest.mark.parametrize("style", STYLES)
def test_the_published_weights_load_and_repaint_a_picture(style: str) -> None:
    with np.load(WEIGHTS / f"{style}.npz") as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    waves = torch.sin(torch.arange(48) / 5)
    pixels = (127 * (1 + waves[:, None] * waves) * torch.tensor([1.0, 0.7, 0.4])[:, None, None]).to(torch.uint8)[None]
    found = 128 * (load_teacher(style, WEIGHTS.parent)(unit(pixels)) + 1) - 0.5
    assert torch.allclose(found, reference(state, pixels.float()).clamp(0, 255), atol=2e-2)
    # neither the picture itself, nor most of it beyond the range of pixels
    assert (found - pixels).abs().mean() > 20 and ((found > 0) & (found < 255)).float().mean() > 0.6


def test_what_is_no_teacher_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    with pytest.raises(DataError, match="no folder was given: pass --data-dir or set INDUCED_DATA"):
        load_teacher("candy")
    monkeypatch.setenv("INDUCED_DATA", str(folder))
    assert not any(p.requires_grad for p in load_teacher("candy").parameters())
    with pytest.raises(DataError, match="is missing; styles found there: candy, late, udnie"):
        load_teacher("monet")
    with pytest.raises(DataError, match="styles found there: none"):
        load_teacher("monet", tmp_path)
    (tmp_path / "fast-style").mkdir()
    (tmp_path / "fast-style" / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "fast-style" / "other.npz", weight=np.zeros(3))
    with pytest.raises(DataError, match="is no readable npz file"):
        load_teacher("broken", tmp_path)
    with pytest.raises(DataError, match="does not hold the weights of Teacher"):
        load_teacher("other", tmp_path)
    for shape in ((1, 3, 19, 40), (1, 1, 40, 40), (3, 40, 40)):
        with pytest.raises(ShapeError, match="sides of at least 20"):
            load_teacher("candy")(torch.zeros(shape))
    assert load_teacher("candy")(torch.zeros(1, 3, 20, 20)).shape == (1, 3, 20, 20)


# -------------------------------------------------------------------------------------------------------------- photographs
def test_no_embedded_photograph_is_in_both_splits_and_three_are_held_out() -> None:
    assert len(TEST) >= 3 and not set(TRAIN) & set(TEST) and len(set(TRAIN)) == len(TRAIN)
    assert {"skimage/data/motorcycle_left.png", "skimage/data/motorcycle_right.png"} <= set(TRAIN)


@needs_photographs
def test_the_embedded_photographs_are_there() -> None:
    found = [photographs("embedded", split) for split in ("train", "test")]
    for path in (found[0] | found[1]).values():
        assert min(read_picture(path).colours.size) >= 300
    crops = plain_crops("embedded", 256, 4)
    assert crops.shape == (4, 3, 256, 256) and crops.dtype == torch.uint8
    cat = np.asarray(read_picture(found[1]["chelsea"]).colours).transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(cat[0], (256, 256))
    assert any((windows[i, j] == crops[0, 0].numpy()).all() for i in range(windows.shape[0]) for j in range(windows.shape[1]))
    assert torch.equal(crops, plain_crops("embedded", 256, 4)) and not torch.equal(crops, plain_crops("embedded", 256, 4, seed=1))


def test_a_folder_holds_out_whole_pictures_and_missing_packages_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(folder / "photographs")
    train, test = photographs(source, "train"), photographs(source, "test")
    assert set(train) | set(test) == {f"{i}.png" for i in range(12)} and not set(train) & set(test)
    assert plain_crops(source, 30, 3).shape == (3, 3, 30, 30)
    with pytest.raises(DataError, match="has a side of 36 pixels, crops have 40"):
        plain_crops(source, 40, 3)
    with pytest.raises(DataError, match="is no folder of photographs"):
        photographs(str(tmp_path / "nowhere"), "train")


def test_random_crops_are_repeatable_differ_and_stay_in_the_picture(folder: Path) -> None:
    picture = read_picture(folder / "photographs" / "0.png").colours
    crops = [random_crop(picture, 24, torch.Generator().manual_seed(i)) for i in range(40)]
    assert all(crop.shape == (3, 24, 24) and crop.dtype == np.uint8 for crop in crops)
    assert np.array_equal(crops[3], random_crop(picture, 24, torch.Generator().manual_seed(3)))
    assert len({crop.tobytes() for crop in crops}) == 40
    # a constant picture has no border that could be seen
    flat = random_crop(Image.new("RGB", (30, 20), (90, 90, 90)), 24, torch.Generator().manual_seed(0))
    assert flat.min() == flat.max()


# -------------------------------------------------------------------------------------------------------------------- pairs
def tiny(folder: Path, crops: int = 10) -> Config:
    return Config(str(folder / "photographs"), crops=crops, side=24, model=TINY, objective=ObjectiveConfig(patch=16, margin=2))


def test_pairs_are_what_the_teachers_make_of_the_crops(folder: Path, tmp_path: Path) -> None:
    found = pairs(tiny(folder), folder, cache_dir=tmp_path)
    assert found.crops.shape == (10, 3, 3, 24, 24) and found.crops.dtype == torch.uint8
    for number, style in enumerate(TINY.styles, 1):
        expected = ((load_teacher(style, folder)(unit(found.crops[:, 0])) + 1) * 128).floor()
        # a pixel on the edge between two numbers may fall to either with another batch
        assert (expected - found.crops[:, number].float()).abs().max() <= 1
    assert (found.crops[:, 1] != found.crops[:, 2]).any()
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".npy" and file.stat().st_size < 10 * 3 * 3 * 24 * 24 + 1000


def test_pairs_are_kept_until_something_changes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path))
    first = pairs(tiny(folder, 2), folder)
    calls = list[int]()

    def stylised(*_: object) -> Tensor:
        calls.append(1)
        return torch.zeros(2, 3, 3, 24, 24, dtype=torch.uint8)

    monkeypatch.setattr(pairs_module, "stylised", stylised)
    assert torch.equal(pairs(tiny(folder, 2), folder).crops, first.crops) and not calls
    other = tiny(folder, 2)
    pairs(replace(other, training=replace(other.training, seed=1)), folder)
    assert calls == [1]


def test_a_killed_computation_goes_on_where_it_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs(tiny(folder, 20), folder, cache_dir=tmp_path / "a").crops
    made, plain = list[int](), pairs_module.stylised

    def killed(pixels: Tensor, teachers: dict[str, Teacher]) -> Tensor:
        made.append(len(pixels))
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(pixels, teachers)

    monkeypatch.setattr(pairs_module, "stylised", killed)
    with pytest.raises(KeyboardInterrupt):
        pairs(tiny(folder, 20), folder, cache_dir=tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.npy"))
    resumed = pairs(tiny(folder, 20), folder, cache_dir=tmp_path / "b").crops
    assert made == [8, 8, 4, 4] and torch.equal(resumed, whole)
    assert [path.suffix for path in (tmp_path / "b").iterdir()] == [".npy"]


def test_a_cache_larger_than_allowed_or_not_writable_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DomainError, match="10 crops of side 24 in 2 styles take 0.00 GB on disk, cache_gb allows 1e-05"):
        pairs(replace(tiny(folder), cache_gb=1e-5), folder, cache_dir=tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="the cache cannot be written"):
        pairs(tiny(folder), folder, cache_dir=tmp_path / "file")


def test_damaged_photographs_are_all_named_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = [tmp_path / "1.png", tmp_path / "2.png"], [tmp_path / "a.png", tmp_path / "b.png"]
    for path in good:
        Image.new("RGB", (32, 24)).save(path)
    for path in bad:
        path.write_text("text")
    with pytest.raises(DataError, match=r"(?s)2 of 4 pictures cannot be used; .*--skip-bad .*a\.png: no picture.*b\.png: no "):
        opened([good[0], *bad, good[1]])
    assert len(opened([good[0], *bad, good[1]], skip_bad=True)) == 2
    assert "2 of 4 pictures are left out" in capsys.readouterr().out
    with pytest.raises(DataError, match="2 of 2 pictures cannot be used"):
        opened(bad, skip_bad=True)
