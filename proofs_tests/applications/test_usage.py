"""What the command line answers to options that cannot be meant, and to signals: one line, and an exit code that says which."""

import inspect
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from applications.style_transfer import pairs
from induced.errors import DataError
from proofs_tests.applications.terminal import COMMANDS, OURS, TRAIN, command, refusal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("applications.common.data.sets.load_mnist5k", ["invert"]),
        ("applications.common.data.sets.load_mnist5k", ["train", "flow-matching"]),
        ("applications.common.data.squares.read_square", ["project", "--run", "projector", "--pictures", "pictures"]),
        ("applications.style_transfer.photographs.read_picture", ["train", "style-transfer", "--photographs", "pictures"]),
        ("applications.flow_matching.model.propagator", ["sample"]),
        ("applications.flow_matching.commands.grid", ["sample"]),
    ],
    ids=["reading", "reading for a training", "decoding", "decoding for a training", "computing", "drawing"],
)
def test_an_interruption_at_any_stage_is_one_line(
    number: signal.Signals,
    place: str,
    arguments: list[str],
    projector: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A signal of the system, to a process that reads data, decodes pictures in threads, computes or draws."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pairs, "load_teacher", lambda *_: torch.nn.Identity())
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.new("RGB", (300, 300), (6 * i, 0, 255)).save(tmp_path / "pictures" / f"{i}.png")
    reached = list[str]()

    def interrupted(*_: object, **__: object) -> None:
        if not reached:
            reached.append(place)
            os.kill(os.getpid(), number)
        time.sleep(0.01)
        raise DataError("of a picture that nobody waits for")

    monkeypatch.setattr(place, interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        command(*(projector if argument == "projector" else argument for argument in arguments))
    said = capsys.readouterr().err.strip()
    assert reached and end.value.code == 128 + number and signal.getsignal(signal.SIGTERM) == before
    assert re.fullmatch(
        rf"induced: {'terminated' if number == signal.SIGTERM else 'interrupted'}(: there is no checkpoint yet)?", said
    )
    assert ("checkpoint" in said) == (arguments[0] == "train")


@pytest.mark.parametrize("verb", sorted(set(COMMANDS) - {f"train {one.name}" for one in OURS}))
def test_numbers_that_cannot_be_meant_are_errors_of_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One type of each kind: a command that takes a plain int for a count or a seed fails here."""
    needed = {"add-style": ("--style", "x", "--out", "x"), "style": ("--picture", "x")}.get(verb, ())
    from_zero = {"seed", "likelihood", "first", "second", "frame", *(["steps"] if verb == "add-style" else [])}
    counts = from_zero | {"n", "crops", "integrator_steps", "side", "steps", "tile", "rank"}
    for name in counts & inspect.signature(COMMANDS[verb]).parameters.keys():
        option = f"--{name.replace('_', '-')}"
        for value in (-1, 10**12 if name != "seed" else 2**70, "x"):
            with pytest.raises(SystemExit) as end:
                command(verb, *needed, option, value)
            said = capsys.readouterr().err
            expected = (
                f"a whole number in {int(name not in from_zero)}.." if value != "x" else "a whole number is needed, got 'x'"
            )
            assert end.value.code == 2 and said.count("\n") == 1, said
            assert said.startswith(f"induced {verb}: error: {option}: {expected}") and str(value) in said, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise-share", "0"], "noise_share must be at least 1, got 0"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--batch", "1000000000000"], "batch must be at most 1000000, got 1000000000000"),
        (["--latent-batch", "0"], "latent_batch must be at least 1, got 0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--steps", "1.5"], "--steps: a whole number is needed, got '1.5'"),
        (["--learning-rate", "fast"], "--learning-rate: a number is needed, got 'fast'"),
        (["--seed", str(2**70)], f"seed lies in 0..2^63 - 1, got {2**70}"),
        (["--precision", "fp8"], "invalid choice 'fp8'"),
        (["--stepps", "5"], "unrecognized options: --stepps, 5 (perhaps --steps"),
        (["--training.log_every", "5"], "unrecognized options: --training.log_every, 5 (perhaps --log-every)"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_meant_is_an_error_of_usage(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command(*TRAIN, *arguments, "--out", tmp_path / "run")
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert said.startswith(f"induced train flow-matching: error: {message}"), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--rank", "5000"], ["--rest-std", "-1"], ["--widths"], ["--blocks", "2"], ["--shape", "1", "30", "30"]],
    ids=" ".join,
)
def test_a_model_that_cannot_be_built_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    said = refusal(*TRAIN, *arguments, "--out", tmp_path / "run")
    assert re.match("induced: .* got ", said) and "\n" not in said
    assert not (tmp_path / "run").exists()
