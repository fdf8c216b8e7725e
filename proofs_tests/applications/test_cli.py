"""The command line: every command explains itself, does what it says on a small run, and ends a mistake with one line."""

import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import induced
from applications import cli, commands
from applications.common.runs import Run
from applications.flow_matching.config import Config
from induced.checks import check_linear
from induced.errors import CheckpointError
from proofs_tests.applications.terminal import COMMANDS, TRAIN, command, refusal, size_of

ROOT = Path(__file__).resolve().parents[2]
MISSING = "cannot be read (No such file or directory); a saved model has config.json and model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps; its high `rest_std` keeps the laws within what float32 can judge."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    command(
        *TRAIN, "--steps", 4, "--checkpoint-every", 2, "--sample-every", 2, "--rest-std", 0.5, "--device", "cpu", "--out", folder
    )
    return folder


def test_training_leaves_a_run_with_samples(run: Path) -> None:
    assert [path.name for path in Run(run).checkpoints()] == ["step-00000002", "step-00000004"]
    assert [record["step"] for record in Run(run).metrics()] == [1, 2, 3, 4]
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-00000002.png", "step-00000004.png"]


def test_sample_draws_the_same_picture_for_the_same_seed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command(
            "sample",
            "--run",
            run,
            "--n",
            5,
            "--integrator-steps",
            7,
            "--method",
            "euler",
            "--seed",
            seed,
            "--out",
            tmp_path / f"{name}.png",
        )
    assert f"wrote {tmp_path / 'c.png'}" in capsys.readouterr().out
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    assert min(size_of(tmp_path / "a.png")) >= 64


def test_the_pretrained_model_is_taken_where_no_run_is_given(tmp_path: Path) -> None:
    for name, chosen in (("a", ()), ("b", ("--pretrained", "mnist"))):
        command("sample", *chosen, "--n", 2, "--out", tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_tilde_that_the_shell_left_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    command("sample", "--n", 1, "--out=~/a.png")
    command("export", "--out", "~/model")
    command("sample", "--n", 1, "--run", "~/model", "--out=x~.png")
    assert {path.name for path in home.iterdir()} == {"a.png", "model"}
    assert [path.name for path in elsewhere.iterdir()] == ["x~.png"]
    assert "~" not in refusal("info", "~/gone") and str(home / "gone") in refusal("info", "~/gone")


def test_judge_says_when_the_weights_of_inception_are_missing(tmp_path: Path) -> None:
    said = refusal("judge", "--n", 4, "--fid-weights", tmp_path / "inception.pth")
    assert re.search(r"inception\.pth: cannot be read as weights of InceptionV3", said)


def test_invert_prints_the_psnr_of_held_out_digits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command("invert", "--run", run, "--n", 12)
    said = " ".join(capsys.readouterr().out.split())
    found = re.fullmatch(
        r"12 held-out images of mnist5k: PSNR ([\d.]+) dB \(worst ([\d.]+) dB\), encodings have .*inversion.png", said
    )
    assert found, said
    assert 60 < float(found[2]) <= float(found[1])
    assert size_of(tmp_path / "inversion.png") > (64, 64)


def test_images_of_ones_own_are_read_as_the_model_takes_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colour pictures of another size, to a model of grey ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.new("RGB", (50, 40), (6 * i, 0, 255 - i)).save(tmp_path / "pictures" / f"{i}.png")
    command("invert", "--run", run, "--data", "folder", "--data-dir", "pictures", "--n", 1)
    assert capsys.readouterr().out.startswith("1 held-out images of folder: PSNR")


def test_damaged_pictures_are_all_named_or_left_out_and_classes_are_called_by_their_folders(
    run: Path, projector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    for i in range(40):
        (tmp_path / "pictures" / "ab"[i % 2]).mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (50, 40), (6 * i, 0, 255 - i)).save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png")
    for name in ("x.png", "y.png"):
        (tmp_path / "pictures" / "a" / name).write_text("damaged")
    own = ("--data", "folder", "--data-dir", "pictures")
    for given in (("generate", "--run", projector, *own), ("project", "--run", projector, "--pictures", "pictures")):
        said = refusal(*given, "--out", "x.png")
        assert "2 of " in said and "a/x.png: no picture" in said and "a/y.png: no picture" in said and "--skip-bad" in said
        command(*given, "--skip-bad", "--out", "x.png")
        assert re.match("2 of .* pictures are left out: they cannot be decoded\n", capsys.readouterr().out)
    assert "its classes are a, b" in refusal("edit", "--run", run, *own, "--skip-bad", "--to-class", "c", "--from-class", "a")
    command("anomaly", "--run", projector, *own, "--skip-bad", "--against", "pictures/b/1.png", "--n", 1)
    assert "of folder against pictures/b/1.png, rank 12, 1 and 1 images" in capsys.readouterr().out


def test_interpolate_draws_as_many_images_as_asked(run: Path, tmp_path: Path) -> None:
    for count in (3, 9):
        command("interpolate", "--run", run, "--first", 7, "--second", 99, "--n", count, "--out", tmp_path / f"{count}.png")
    (narrow, height), (wide, same) = (size_of(tmp_path / f"{count}.png") for count in (3, 9))
    assert 0 < height - same < 80, "a caption has more lines on a narrow picture"
    assert narrow < wide and 2.5 * narrow < wide < 3.5 * narrow


def test_edit_draws_a_row_for_each_digit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (8, 4):
        command("edit", "--run", run, "--from-class", 3, "--to-class", 8, "--n", n, "--out", tmp_path / f"{n}.png")
    (width, low), (same, high) = (size_of(tmp_path / f"{n}.png") for n in (4, 8))
    assert width == same and 1.7 * low < high < 2.0 * low, "a row each, below one caption"
    assert re.search(r"takes [0-4] of 4 for a 8\n", capsys.readouterr().out), "a network of its own says how many succeed"
    said = refusal("edit", "--run", run, "--to-class", 12, "--out", tmp_path / "x.png")
    assert "no images of a class '12'; its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in said


def test_judge_compares_samples_of_several_step_counts_and_prints_bits_per_dimension(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("judge", "--run", run, "--n", 20, "--likelihood", 3)
    *rows, caution, bits = capsys.readouterr().out.splitlines()
    assert caution == "note: a Frechet distance of 20 samples is biased upwards: give --n above 64, the features' number"
    assert [row.split()[0] for row in rows] == ["1", "10", "100", "1000"]
    assert all(re.search(r"frechet [\d.]+  precision [\d.]+ .* \(20 samples, digit classifier\)$", row) for row in rows)
    judged = re.fullmatch(r"([\d.]+) bits per dimension over 3 held-out images", bits)
    assert judged and float(judged[1]) > 0
    assert refusal("judge", "--run", run, "--n", 501).startswith("induced: quality compares equal numbers: got 501 samples")


def test_check_shows_the_laws_at_held_out_images_too(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of the library, which test_application.py looks at on smaller models."""
    monkeypatch.setattr(commands, "check", lambda thing, **options: check_linear(thing, thing.domain.zero(1)))
    command("check", "--run", run, "--n", 3)
    *blocks, last = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    parts = ("chart of the noise", "chart of the data", "space of the noise", "space of the data", "map", "promises")
    held_out = [f"{dtype}: at held-out images: {part}" for dtype in ("float32", "float64") for part in parts]
    assert [block[0] for block in blocks] == ["float32: ", "float64: ", *held_out]
    judged = [sum("  holds" in line for line in block) for block in blocks[2:]]
    assert judged[:6] == judged[6:] and sum(judged[:6]) >= 47 and min(judged) > 0
    assert re.fullmatch(r"(\d+) laws judged: \1 hold, 0 violated; 0 unjudgeable, \d+ not applicable", last[0])


def test_export_writes_what_load_pretrained_reads(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("export", "--run", run, "--out", tmp_path / "models" / "mine")
    assert f"wrote {tmp_path / 'models' / 'mine'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "models" / "mine").iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(tmp_path / "models" / "mine" / "model.safetensors")["family.offset"].dtype == torch.float16
    command("sample", "--run", tmp_path / "models" / "mine", "--n", 2, "--out", tmp_path / "x.png")
    said = refusal("export", "--run", run, "--out", run)
    assert "or a checkpoint, which an export would replace: choose another folder with --out" in said and "\n" not in said
    with pytest.raises(CheckpointError, match="holds no run to go on with; start without --resume"):
        Run(tmp_path / "models" / "mine").check({}, resume=True)


# ----------------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    "arguments", [["sample"], ["invert"], ["interpolate"], ["check"], ["export", "--out", "x"]], ids=" ".join
)
def test_a_run_that_is_not_there_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    assert refusal(*arguments, "--run", tmp_path / "gone") == f"induced: {tmp_path / 'gone' / 'config.json'}: {MISSING}"


def test_missing_mnist_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    said = refusal(*TRAIN, "--data", "mnist", "--out", tmp_path / "run")
    assert said.startswith("induced: mnist needs the four IDX files of MNIST ") and "\n" not in said
    assert "(the data set mnist5k needs no files) and no folder was given: pass --data-dir or set INDUCED_DATA" in said
    said = refusal(*TRAIN, "--data", "mnist", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert (
        said.startswith("induced: mnist: found none of train-images-idx3-ubyte.gz, ")
        and f"in {tmp_path}/mnist, " in said
        and "\n" not in said
    )
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run(folder).begin(Run(run).config())
    state = Run(run).latest()
    path = Run(folder).save(4, state.model, induced.load(run), state.optimizer) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    said = refusal("sample", "--run", folder, "--out", tmp_path / "x.png")
    assert re.fullmatch(f"induced: {path}: other bytes than config.json was saved with: cut short, changed, .*", said)
    assert not (tmp_path / "x.png").exists()


def test_an_earlier_run_is_kept_and_settings_cannot_change(run: Path) -> None:
    assert "give --resume to go on" in refusal(*TRAIN, "--rest-std", 0.5, "--out", run)
    said = refusal(*TRAIN, "--rest-std", 0.4, "--out", run, "--resume", "--device", "cpu")
    assert "model.rest_std (config.json: 0.5, now: 0.4)" in said and "\n" not in said


def test_resume_alone_goes_on_with_the_options_that_config_json_records(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    command("train", "flow-matching", "--out", moved, "--resume", "--steps", "5")
    said = capsys.readouterr().out
    assert "training.steps is 5 from here on, it was 4" in said and "resumed after step 4, at a learning rate of " in said
    assert re.search(r"^steps +5 of 5; ", said, re.M), "the last lines report the run"
    assert Run(moved).config()["model"] == Run(run).config()["model"] != Config().model
    assert "model.rest_std" in refusal("train", "flow-matching", "--out", moved, "--resume", "--rest-std", "0.4")


@pytest.mark.parametrize(("signals", "code"), [((), 130), ((signal.SIGTERM,), 143)], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_says_in_one_line_how_to_go_on(
    signals: tuple[int, ...], code: int, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Callable[[], None]:
        raise KeyboardInterrupt(*signals)

    monkeypatch.setattr(cli, "training", interrupted)
    with pytest.raises(SystemExit) as end:
        command("train", "flow-matching", "--out", run, "--batch", "8")
    assert end.value.code == code
    ended = capsys.readouterr().err.strip()
    assert ended.endswith(f"`induced train flow-matching --out {run} --resume` goes on from {run}/checkpoints/step-00000004")


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if "out" in inspect.signature(COMMANDS[verb]).parameters])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    verb: str, run: Path, projector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if verb in ("export", "add-style", "tour") or verb.startswith("train"):
        (tmp_path / "file").touch()
        more = {"export": ["--run", run], "add-style": ["--run", run, "--style", "x"]}.get(verb, [])
        said = refusal(*verb.split(), *more, "--out", tmp_path / "file")
        assert re.search("file: is a file|this is a run of `flow-matching`", said), said
        return
    model = ["--run", projector] if verb in ("project", "generate") else []
    more = ["--picture", "gone.png"] if verb in ("style",) else []
    (tmp_path / "folder.png").mkdir()
    for out, expected in (
        ("folder.png", "is a folder; name a file in it"),
        ("x.gif", "pictures are written as .png, .jpg, .jpeg"),
    ):
        said = refusal(verb, *model, *more, "--out", out)
        assert said.startswith(f"induced: {out}: {expected}") and "\n" not in said
    (tmp_path / "file").touch()
    assert "its folder cannot be made" in refusal(verb, *model, *more, "--out", "file/x.png")


def test_a_mistake_ends_the_process_with_code_1_and_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "applications", "sample", "--run", str(tmp_path / "gone")]
    ended = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr == f"induced: {tmp_path / 'gone' / 'config.json'}: {MISSING}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["interpolate", "--first", "500"], id="a digit that is not there"),
        pytest.param(["judge", "--n", "3"], id="three samples to judge"),
        pytest.param([*TRAIN, "--shape", "1", "16", "16", "--device", "cpu"], id="another shape than the images have"),
    ],
)
def test_other_mistakes_are_one_line_too(
    arguments: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(*arguments, *([] if arguments[0] == "train" else ["--run", run]))
    assert said.startswith("induced: ") and "\n" not in said
