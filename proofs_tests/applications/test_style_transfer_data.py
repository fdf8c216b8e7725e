"""Style transfer: teachers, photographs and their split, picture files, the cache of pairs, and the commands."""

import importlib.util
import inspect
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torch import Tensor

from applications import cli
from applications.common.data.pictures import Picture, read_picture, unit, write_picture
from applications.style_transfer import commands
from applications.style_transfer import pairs as pairs_module
from applications.style_transfer.config import Config, ModelConfig, ObjectiveConfig
from applications.style_transfer.pairs import pairs
from applications.style_transfer.photographs import TEST, TRAIN, photographs, random_crop
from applications.style_transfer.teacher import STYLES, Teacher, load_teacher
from experiments.stylised import plain_crops
from induced.errors import DataError, DomainError, InducedError, MissingExtra, ShapeError
from proofs_tests.applications import stylists

TINY = ModelConfig(styles=("candy", "udnie"), blocks=1, squeezes=1, width=6, kernel=3, features=3)
WEIGHTS = Path(os.environ.get("INDUCED_DATA", "")) / "fast-style"
SHIPPED = importlib.util.find_spec("skimage") is not None
needs_photographs = pytest.mark.skipif(not SHIPPED, reason="scikit-image, whose photographs these are, is not installed")


def noise(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    return 1.8 * torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 0.9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stylists.fill(tmp_path_factory.mktemp("data"))


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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="comes with the package skimage, not found"):
        photographs("embedded", "train")


def test_random_crops_are_repeatable_differ_and_stay_in_the_picture(folder: Path) -> None:
    picture = read_picture(folder / "photographs" / "0.png").colours
    crops = [random_crop(picture, 24, torch.Generator().manual_seed(i)) for i in range(40)]
    assert all(crop.shape == (3, 24, 24) and crop.dtype == np.uint8 for crop in crops)
    assert np.array_equal(crops[3], random_crop(picture, 24, torch.Generator().manual_seed(3)))
    assert len({crop.tobytes() for crop in crops}) == 40
    # a constant picture has no border that could be seen
    flat = random_crop(Image.new("RGB", (30, 20), (90, 90, 90)), 24, torch.Generator().manual_seed(0))
    assert flat.min() == flat.max()


# ------------------------------------------------------------------------------------------------------------ picture files
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


# -------------------------------------------------------------------------------------------------------------------- pairs
def tiny(folder: Path, crops: int = 10) -> Config:
    return Config(str(folder / "photographs"), crops=crops, side=24, model=TINY, objective=ObjectiveConfig(patch=16, margin=2))


def test_pairs_are_what_the_teachers_make_of_the_crops(folder: Path, tmp_path: Path) -> None:
    found = pairs(tiny(folder), folder, cache_dir=tmp_path)
    assert found.tensors["crops"].shape == (10, 3, 3, 24, 24) and found.tensors["crops"].dtype == torch.uint8
    for number, style in enumerate(TINY.styles, 1):
        expected = ((load_teacher(style, folder)(unit(found.tensors["crops"][:, 0])) + 1) * 128).floor()
        # a pixel on the edge between two numbers may fall to either with another batch
        assert (expected - found.tensors["crops"][:, number].float()).abs().max() <= 1
    assert (found.tensors["crops"][:, 1] != found.tensors["crops"][:, 2]).any()
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
    assert torch.equal(pairs(tiny(folder, 2), folder).tensors["crops"], first.tensors["crops"]) and not calls
    other = tiny(folder, 2)
    pairs(replace(other, training=replace(other.training, seed=1)), folder)
    assert calls == [1]


def test_a_killed_computation_goes_on_where_it_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs(tiny(folder, 20), folder, cache_dir=tmp_path / "a").tensors["crops"]
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
    resumed = pairs(tiny(folder, 20), folder, cache_dir=tmp_path / "b").tensors["crops"]
    assert made == [8, 8, 4, 4] and torch.equal(resumed, whole)
    assert [path.suffix for path in (tmp_path / "b").iterdir()] == [".npy"]


def test_a_cache_larger_than_allowed_or_not_writable_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DomainError, match="10 crops of side 24 in 2 styles take 0.00 GB on disk, cache_gb allows 1e-05"):
        pairs(replace(tiny(folder), cache_gb=1e-5), folder, cache_dir=tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="the cache cannot be written"):
        pairs(tiny(folder), folder, cache_dir=tmp_path / "file")


# ----------------------------------------------------------------------------------------------------------------- commands
def command(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["induced", *map(str, arguments)])
        cli.main()


def refusal(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    return str(stopped.value)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "styles"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INDUCED_CACHE", str(out.parent))
        command(
            *("train", "style-transfer", "--photographs", folder / "photographs", "--data-dir", folder, "--out", out),
            *("--crops", 4, "--side", 24, "--styles", "candy", "udnie", "--blocks", 1, "--squeezes", 1, "--width", 6),
            *("--kernel", 3, "--patch", 16, "--margin", 2, "--steps", 2, "--batch", 2, "--device", "cpu", "--sample-every", 0),
        )
    return out


def test_a_picture_is_styled_mixed_and_restyled_on_the_command_line(run: Path, folder: Path, tmp_path: Path) -> None:
    photograph = folder / "photographs" / "3.png"
    results = {}
    for name, options in {
        "one": ("--mix", "candy"),
        "none": ("--mix", "identity"),
        "weak": ("--mix", "candy", "--strength", 0),
        "both": ("--mix", "candy=0.5", "udnie=0.5", "--strength", 1.3),
        "rank": ("--mix", "candy", "--rank", 2),
        "removed": ("--mix", "candy", "--remove"),
        "restyled": ("--mix", "candy", "--remove", "--into", "candy"),
    }.items():
        command("style", "--picture", photograph, "--run", run, *options, "--out", tmp_path / f"{name}.png")
        results[name] = np.asarray(read_picture(tmp_path / f"{name}.png").colours).astype(int)
    assert all(picture.shape == (36, 48, 3) for picture in results.values())
    assert np.abs(results["weak"] - results["none"]).max() <= 1
    assert np.abs(results["restyled"] - np.asarray(read_picture(photograph).colours).astype(int)).max() <= 1
    assert len({picture.tobytes() for picture in results.values()}) >= 5


def test_removal_says_when_rounding_may_drown_it(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("style", "--picture", folder / "photographs" / "3.png", "--run", run, "--remove", "--out", tmp_path / "x.png")
    command(*given)
    assert "condition number" not in capsys.readouterr().out  # of cores that were hardly trained
    monkeypatch.setattr(commands, "LEVELS", 1)
    command(*given)
    assert "condition number is 1." in capsys.readouterr().out


def test_a_picture_is_not_written_over_itself_and_weights_and_a_strength_of_0_are_said(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.png"
    own.write_bytes(before := (folder / "photographs" / "3.png").read_bytes())
    (tmp_path / "link.png").symlink_to(own)
    for out in (own, tmp_path / "link.png"):
        assert "is the picture that is read, which is not written over" in refusal(
            "style", "--picture", own, "--run", run, "--out", out
        )
    assert own.read_bytes() == before
    command("style", "--picture", own, "--run", run, "--mix", "candy", "udnie", "--strength", 0, "--out", tmp_path / "x.png")
    said = capsys.readouterr().out
    assert re.search(r"note: the weights sum to 2; with 1 they interpolate\. \d+% of the values are cut", said)
    assert re.search(r"note: a strength of 0 is the style 'identity', as it was learned: PSNR to the picture [\d.]+ dB", said)
    command("style", "--picture", own, "--run", run, "--mix", "candy=0.3", "udnie=0.7", "--out", tmp_path / "x.png")
    assert "note" not in capsys.readouterr().out


def test_options_that_contradict_each_other_are_refused(run: Path, folder: Path) -> None:
    given = ("style", "--picture", folder / "photographs" / "3.png", "--run", run)
    assert "it needs --remove" in refusal(*given, "--into", "candy")
    assert "neither --strength nor --rank" in refusal(*given, "--remove", "--rank", 2)
    assert "NAME=WEIGHT with a number, got 'candy=much'" in refusal(*given, "--mix", "candy=much")
    assert "'candy' occurs twice" in refusal(*given, "--mix", "candy", "candy=2")
    assert "no style is called 'monet'" in refusal(*given, "--mix", "monet")
    assert "--frame must not be negative, got -1" in refusal(*given, "--frame", -1)
    assert "larger than two margins" in refusal(*given, "--tile", 8)


def test_styles_are_shown_with_distances_and_components(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ("styles", "--run", run, "--picture", folder / "photographs" / "3.png", "--out", tmp_path / "x.png")
    command(*shown, "--side", 32)
    told = capsys.readouterr().out
    assert (
        re.search(r"identity +candy +udnie\n +identity +0.000 ", told)
        and "principal components" in told
        and (tmp_path / "x.png").is_file()
    )
    assert "--side is a multiple of 2, got 31" in refusal(*shown, "--side", 31)
    assert "at most the picture's least side 36, got 64" in refusal(*shown, "--side", 64)


def test_a_style_is_added_to_a_trained_model_and_exported(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ("--data-dir", folder, "--photographs", folder / "photographs", "--crops", 3, "--side", 24)
    command("add-style", "--run", run, "--style", "late", "--out", tmp_path / "more", *photos, "--steps", 2)
    assert "late added to candy, udnie: PSNR" in capsys.readouterr().out
    command("style", "--picture", folder / "photographs" / "3.png", "--run", tmp_path / "more", "--mix", "late",
            "--out", tmp_path / "x.jpg")  # fmt: skip
    assert read_picture(tmp_path / "x.jpg").colours.size == (48, 36)
    assert "has a style 'candy' already" in refusal(
        "add-style", "--run", run, "--style", "candy", "--out", tmp_path / "no", *photos
    )
    assert "multiple of 2, got 23" in refusal(
        *("add-style", "--run", run, "--style", "late", "--out", tmp_path / "no", *photos[:-1], 23)
    )
    weighed = ("add-style", "--run", run, "--style", "late", "--out", tmp_path / "no", *photos, "--perceptual", 4)
    assert "in the loss of --steps, got 4.0 and 0 steps" in refusal(*weighed)
    assert "got -1.0 and 2 steps" in refusal(*weighed[:-1], -1, "--steps", 2)
    assert "alex_shift_tolerant" in refusal(*weighed, "--steps", 2)
    command("export", "--run", run, "--out", tmp_path / "small")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["config.json", "model.safetensors"]


def test_the_styles_by_default_are_those_of_the_data_folder() -> None:
    assert ModelConfig().names == ("identity", *STYLES)
    assert "candy" in inspect.getsource(commands.style)


def test_errors_of_the_library_end_a_command_with_their_message(tmp_path: Path) -> None:
    assert refusal("style", "--picture", tmp_path / "x.png", "--run", tmp_path).startswith("induced: ")
    assert issubclass(DataError, InducedError)
