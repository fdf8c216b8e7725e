"""The commands of style transfer: stylise, mix, restyle, unstylise, show styles and add one."""

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from applications import cli
from applications.common.data.pictures import read_picture
from applications.style_transfer import commands
from applications.style_transfer.config import ModelConfig
from applications.style_transfer.teacher import STYLES
from induced.errors import DataError, InducedError


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
