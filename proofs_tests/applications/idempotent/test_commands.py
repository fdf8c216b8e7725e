"""The commands of the idempotent generator: project, generate, anomaly, export."""

import re
from pathlib import Path

import pytest

from proofs_tests.applications.terminal import command, refusal, size_of


def test_project_shows_inputs_above_their_projections_and_compares_bits(
    projector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("project", "--run", projector, "--n", 3, "--kinds", "as they are", "letters", "--out", tmp_path / "x.png")
    *rows, last = capsys.readouterr().out.splitlines()
    assert last == f"wrote {tmp_path / 'x.png'}" and min(size_of(tmp_path / "x.png")) > 64
    expected = r"(as they are|letters) +f\(f\(x\)\) is f\(x\), bit for bit; \|\|x \(-\) f\(x\)\|\| is [\d.]+ on average"
    assert len(rows) == 2 and all(re.fullmatch(expected, row) for row in rows)
    command("train", "idempotent", "--blocks", 1, "--widths", 4, "--rank", 5, "--batch", 8, "--steps", 1, "--no-exact",
            "--device", "cpu", "--out", tmp_path / "plain")  # fmt: skip
    command("project", "--run", tmp_path / "plain", "--n", 3, "--kinds", "normal noise", "--out", tmp_path / "y.png")
    assert re.search(r"normal noise +f\(f\(x\)\) differs from f\(x\) by up to [\d.]+e-0\d;", capsys.readouterr().out)


def test_generate_draws_in_three_ways(projector: Path, tmp_path: Path) -> None:
    pictures = []
    for how in ("gaussian", "classes", "noise"):
        command("generate", "--run", projector, "--how", how, "--n", 3, "--out", tmp_path / f"{how}.png")
        pictures.append((tmp_path / f"{how}.png").read_bytes())
    assert len(set(pictures)) == 3


def test_anomaly_prints_the_area_under_the_curve(projector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("anomaly", "--run", projector, "--data", "mnist5k", "--against", "mnist5k", "--n", 40)
    rows = capsys.readouterr().out.splitlines()
    tail = r" +AUROC 0.5000 of mnist5k against mnist5k, rank 12, 40 and 40 images"
    assert re.fullmatch(r"\|\|x \(-\) f\(x\)\|\|" + tail, rows[0]) and re.fullmatch("principal components" + tail, rows[1])
    command("anomaly", "--run", projector, "--n", 9)
    assert "of mnist5k against letters, rank 12, 9 and 9 images" in capsys.readouterr().out, "the default needs no files"
    assert "neither a file or folder nor one of mnist, mnist5k, " in refusal("anomaly", "--run", projector, "--against", "letter")


def test_a_projector_is_exported_and_read_again(projector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("export", "--run", projector, "--out", tmp_path / "small")
    command("project", "--run", tmp_path / "small", "--n", 2, "--kinds", "as they are", "--out", tmp_path / "x.png")
    assert "bit for bit" in capsys.readouterr().out
