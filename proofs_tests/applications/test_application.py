"""Applications as records: each builds its model, and every command takes the models of all of them, or says which one does."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import applications
import induced
from applications import application, cli, commands
from applications.application import Application, known, owner, register
from applications.common.kinds import family
from applications.common.runs import Run
from applications.flow_matching.model import FlowMatching
from induced import InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import Affine
from induced.errors import InducedError, MissingExtra
from induced.operators import Diagonal
from induced.serialization import save
from proofs_tests.applications import pendulum

ROOT = Path(__file__).resolve().parents[2]
RECORDS = {one.name: one for one in known()}
SMALL: dict[str, dict[str, Any]] = {
    "flow-matching": {
        **{"shape": (1, 8, 8), "blocks": 1, "widths": (4,), "dense_blocks": 2, "dense_width": 8},
        **{"density_blocks": 2, "density_width": 8, "rank": 3, "rest_std": 0.5},
    },
    "idempotent": {"shape": (1, 8, 8), "blocks": 1, "widths": (4,), "rank": 5},
    "style-transfer": {"styles": ("candy",), "squeezes": 1, "blocks": 1, "width": 4},
    "pendulum": {},
}


def refusal(*arguments: object) -> str:
    """What a command says that ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, arguments)])
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def misuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says that there is not."""
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each application, of no step."""
    folders = {}
    for name, one in RECORDS.items():
        torch.manual_seed(0)
        whole = one.Config()
        config = replace(whole, model=replace(whole.model, **SMALL[name]))
        model, folder = one.build(config), tmp_path_factory.mktemp("runs") / name
        if isinstance(model, FlowMatching):
            model.chart_at(1.0).initialize(torch.randn(8, *model.config.shape))
        optimizer = torch.optim.Adam(model.parameters())
        settings = {"application": one.family, "model": asdict(config.model), "training": asdict(config.training)}
        Run(folder).begin(settings)
        Run(folder).save(0, model.state_dict(), model, optimizer.state_dict())
        folders[name] = folder
    return folders


@pytest.mark.fast
@pytest.mark.parametrize("name", RECORDS)
def test_settings_of_an_application_build_its_untrained_model(name: str) -> None:
    """The law of a record."""
    one = RECORDS[name]
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(one.build(one.Config()))
    assert family(type(models[0])) == one.family and models[0].training
    assert isinstance(one.operator(models[0]), LinearizerOperator)
    first, second = (model.state_dict() for model in models)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_name_belongs_to_one_application() -> None:
    one = RECORDS["idempotent"]
    assert register(one) is one
    with pytest.raises(InducedError, match=r"two applications are called 'idempotent'"):
        register(Application("idempotent", one.Config, one.build, one.train, {}))
    assert application.owner(RECORDS["flow-matching"].shipped()["mnist"]) is RECORDS["flow-matching"]


@pytest.mark.fast
@pytest.mark.parametrize("name", SMALL)
def test_check_export_info_and_load_take_a_run_of_every_application(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, run = RECORDS[name], runs[name]
    Run(run).report({"quality": {"frechet": 1.25}, "values": [0.5] * 99})
    cli.main(["check", "--run", str(run), "--n", "1"])
    printed = capsys.readouterr().out
    assert "float32: domain: " in printed and "float64: map Linearizer" in printed
    assert " 0 violated; 0 unjudgeable, " in printed.splitlines()[-1]
    cli.main(["export", "--run", str(run), "--out", str(tmp_path / "small")])
    loaded, small = induced.load(run), induced.load(tmp_path / "small")
    assert type(small) is type(loaded) and owner(tmp_path / "small") is owner(run) is one
    capsys.readouterr()
    cli.main(["info", str(run)])
    of_run = capsys.readouterr().out
    cli.main(["info", "--run", str(tmp_path / "small")])
    of_export = capsys.readouterr().out
    verbs = f"of `{name}`: it has {', '.join(one.commands)}, check and export\n"
    assert of_run.startswith(f"{run}: a run {verbs}") and of_export.startswith(f"{tmp_path / 'small'}: a model {verbs}")
    count = sum(t.numel() for t in (*loaded.parameters(), *loaded.buffers()))
    for said in (of_run, of_export):
        assert f"{type(loaded).__name__}, {count:,} numbers in" in said
        for key, value in asdict(cast(Any, loaded).config).items():
            assert f"  model.{key} " in said and (isinstance(value, tuple) or str(value).lower() in said.lower())
    assert f"0 of {one.Config().training.steps}; checkpoints: step-00000000\n" in of_run
    assert "  quality.frechet  1.25\n" in of_run and "  values           99 entries" in of_run


VERBS = sorted({verb for one in RECORDS.values() for verb, command in one.commands.items() if verb != "tour"})
NEEDS = {"style": ["--picture", "x.png"], "add-style": ["--style", "candy", "--out", "x"]}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_of_another_application_names_those_that_the_model_has(verb: str, runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        if verb not in RECORDS[name].commands:
            said = refusal(verb, "--run", run, *NEEDS.get(verb, []))
            assert (
                said == f"induced: {run}: this is a run of `{name}`: it has {', '.join(RECORDS[name].commands)}, check and export"
            )


def test_the_model_says_whose_verb_is_meant(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["sample", "--run", str(runs["pendulum"]), "--n", "4"])
    assert capsys.readouterr().out.count("angle") == 4
    cli.main(["sample", "--run", str(runs["flow-matching"]), "--n", "4", "--out", str(tmp_path / "x.png")])
    cli.main(["sample", "--pretrained", "mnist", "--n", "1", "--out", str(tmp_path / "y.png")])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'x.png'}\nwrote {tmp_path / 'y.png'}\n"


def test_wrong_uses_name_the_right_command(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs["idempotent"]
    all_ = ". `induced --help` lists all commands\n"
    assert misuse(capsys, "smaple") == f"induced: there is no command 'smaple'; like it: `induced sample`{all_}"
    assert misuse(capsys, "qqq") == f"induced: there is no command 'qqq'{all_}"
    trainings = ", ".join(f"`induced train {name}`" for name in RECORDS)
    for wrong in ([], ["flow"], ["--help"]):
        assert misuse(capsys, "train", *wrong) == f"induced: train takes the name of an application: {trainings}{all_}"
    mine = "`induced train idempotent`, `induced project`, `induced generate`, `induced anomaly`"
    assert misuse(capsys, "idempotent", "--run", run) == f"induced: idempotent is an application; its commands are: {mine}{all_}"
    assert misuse(capsys, "style_transfer").startswith("induced: style-transfer is an application; its commands are: ")
    bare = f"induced: project takes its model by an option: `induced project --run {run}`{all_}"
    assert misuse(capsys, "project", run) == bare
    ships = "induced: no model of `idempotent` ships: give --run FOLDER; `induced train idempotent` makes one"
    assert refusal("project") == ships
    assert refusal("sample", "--pretrained", "faces") == "induced: no model 'faces' ships; there are: mnist"
    both = f"induced: take the model from --run {run} or --pretrained mnist, not both"
    assert refusal("check", "--run", run, "--pretrained", "mnist") == both
    assert refusal("check", run) == f"induced: {run} is a folder: `induced check --run {run}` checks the model in it"
    assert refusal("check", "a:b", "--run", run) == "induced: check either the object a:b or the model of a folder, not both"
    said = f"induced: info shows one folder, got {run} and --run, --pretrained or --fallback"
    assert refusal("info", run, "--run", run) == said
    assert refusal("info", tmp_path).startswith(f"induced: {tmp_path}/config.json: cannot be read")


def test_models_of_the_library_are_shown_checked_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f = Linearizer(Diagonal(torch.tensor([1.0, 1e-15], dtype=torch.float64)), InducedSpace(Affine((2,))).double())
    save(f, tmp_path / "f")
    cli.main(["info", str(tmp_path / "f")])
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'f'}: a Linearizer, of no application: it has check and export\n")
    assert "model        Linearizer from (2,) to (2,), 4 numbers in 3 tensors (float64)\n" in said
    assert "holds a Linearizer, expected a FlowMatching: `induced info" in refusal("sample", "--run", tmp_path / "f")
    failed = refusal("check", "--run", tmp_path / "f")
    counts = failed.removeprefix(f"induced: {tmp_path / 'f'}: ")
    assert " 0 violated; " in counts and counts in capsys.readouterr().out.splitlines()


def test_a_run_that_does_not_load_is_shown_as_far_as_it_goes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path).begin({"application": "pendulum", "swings": 2.0})
    cli.main(["info", str(tmp_path)])
    said = capsys.readouterr().out
    assert "0 of ?; checkpoints: none yet\n" in said and "cannot be loaded: " in said and "  swings  2.0" in said
    monkeypatch.setattr(application, "_records", {})
    cli.main(["info", str(tmp_path)])
    assert capsys.readouterr().out.startswith(f"{tmp_path}: a run of `pendulum`, an application that is not installed\n")


@pytest.mark.fast
def test_an_application_in_one_file_is_trained_in_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its forecasts, beside those of an integrator that shares nothing with it."""
    assert len(Path(pendulum.__file__).read_text().splitlines()) <= 120
    cli.main(["train", "pendulum", "--device", "cpu", "--out", str(tmp_path / "run")])
    cli.main(["info", str(tmp_path / "run")])
    assert "400 of 400; checkpoints: step-00000400\n" in capsys.readouterr().out
    for steps in (2, -1):
        cli.main(["forecast", "--run", str(tmp_path / "run"), "--angle", "1", "--speed", "0.3", "--steps", str(steps)])
        words = capsys.readouterr().out.replace(",", "").split()
        found = [float(words[4]), float(words[6])]
        exact = solve_ivp(lambda _, y: [y[1], -np.sin(y[0]) - 0.5 * y[1]], (0, 0.5 * steps), [1.0, 0.3], rtol=1e-9).y[:, -1]
        assert np.abs(found - exact).max() < 0.1
    model = induced.load(tmp_path / "run")
    assert isinstance(model, pendulum.Pendulum) and Linearizer.from_pretrained(tmp_path / "run").core.shape == (2, 2)


def test_what_other_packages_register_has_commands_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ImportError("no module named gone")

    points = [
        SimpleNamespace(name="pendulum", value="mine", load=lambda: register(RECORDS["pendulum"])),
        SimpleNamespace(name="gone", value="their.models", load=broken),
    ]
    others = {one.family: one for one in known() if one.name != "pendulum"}
    monkeypatch.setattr(application, "_records", others)
    monkeypatch.setattr(cli, "entry_points", lambda group: points if group == "induced.models" else [])
    cli.main(["--version"])
    assert "pendulum" in others
    assert capsys.readouterr().err == "induced: their.models of another package cannot be imported (no module named gone)\n"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "__init__.py").write_text("")
    yield tmp_path


def test_another_package_of_the_name_is_named_in_one_line(elsewhere: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "induced", "--version"]
    done = subprocess.run(command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=False)
    hides = f"{elsewhere.resolve() / 'applications'} hides it: rename that, or take its folder off the path"
    said = f"induced: the command lies in the package `applications` at {ROOT / 'applications'}; {hides}\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_reader_that_leaves_early_is_no_error(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`induced info FOLDER | head`, and `induced --help | head`."""

    def closed(*_: object) -> str:
        raise BrokenPipeError

    replaced: list[int] = []
    monkeypatch.setattr(commands, "described", closed)
    monkeypatch.setattr(cli, "overview", closed)
    monkeypatch.setattr(os, "dup2", lambda _, descriptor: replaced.append(descriptor))
    cli.main(["info", str(runs["pendulum"])])
    cli.main(["--help"])
    assert replaced == 2 * [sys.stdout.fileno()]


def test_what_the_system_refuses_is_one_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").mkdir()
    sample = ["sample", "--run", runs["flow-matching"], "--n", "1", "--out"]
    assert refusal(*sample, tmp_path / "x.png").startswith(f"induced: {tmp_path / 'x.png'}: is a folder; name a file in it")
    (tmp_path / "y.png").symlink_to("/dev/full")
    said = refusal(*sample, tmp_path / "y.png")
    assert said == f"induced: {tmp_path / 'y.png'}: cannot be written ([Errno 28] No space left on device)"


def test_too_little_memory_is_one_line(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError("Unable to allocate memory for an array"), RuntimeError("can't allocate memory: of 8 bytes\nmore")):
        monkeypatch.setattr(commands, "described", lambda *_, error=error: (_ for _ in ()).throw(error))
        said = refusal("info", runs["pendulum"])
        assert said.startswith("induced: there is not enough memory (") and "\n" not in said
    monkeypatch.setattr(commands, "described", lambda *_: (_ for _ in ()).throw(RuntimeError("else")))
    with pytest.raises(RuntimeError, match="else"):
        cli.main(["info", str(runs["pendulum"])])


def test_an_interrupt_is_one_line_that_says_how_to_go_on(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "described", interrupted)
    monkeypatch.setattr(application, "_records", {"pendulum": replace(RECORDS["pendulum"], train=interrupted)})
    for command, said in ((f"train pendulum --out {tmp_path}", ": there is no checkpoint yet"), (f"info {tmp_path}", "")):
        with pytest.raises(SystemExit) as end:
            cli.main(command.split())
        assert end.value.code == 130 and capsys.readouterr().err == f"\ninduced: interrupted{said}\n"


def test_figures_and_metrics_that_are_none_are_said(runs: dict[str, Path], tmp_path: Path) -> None:
    Run(tmp_path).begin({"application": "pendulum", "training": 3})
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    assert "metrics.jsonl: line 1 is no record with a step" in refusal("info", tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "report.json").write_text("[1]")
    assert refusal("info", tmp_path).endswith("report.json: holds a JSON list, expected an object")


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(MissingExtra, match=r"^the applications need tqdm, tyro: install induced\[apps\]$"):
        importlib.reload(applications)
