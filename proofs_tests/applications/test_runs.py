"""The run folder: what is written is there whole, reads back exactly, and every damage is refused by name."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import induced
from applications.common.runs import Run
from induced.errors import CheckpointError
from induced.serialization import notes, register


class Net(nn.ModuleDict):
    """Two names for one part, and buffers."""

    def __init__(self, width: int) -> None:
        shared = nn.Linear(4, width)
        super().__init__({"a": shared, "b": shared, "norm": nn.BatchNorm1d(width)})


register(Net, describe=lambda net: {"width": net["a"].out_features}, name="tests.Net")


def trained(width: int = 3) -> tuple[Net, Net, torch.optim.Adam]:
    """A model with a shared part and a buffer, its average, and an optimiser that has taken a step."""
    model, average = Net(width), Net(width)
    shared = model["a"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model["norm"](shared(torch.randn(5, 4))).square().sum().backward()
    optimizer.step()
    return model, average, optimizer


def save(run: Run, step: int, keep: int = 2) -> Path:
    model, average, optimizer = trained()
    return run.save(step, model.state_dict(), average, optimizer.state_dict(), keep=keep)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.begin({"training": {"seed": 1, "steps": 10, "betas": (0.9, 0.99)}, "model": {"width": 3}})
    return run


def test_a_checkpoint_reads_back_bit_for_bit(run: Run) -> None:
    model, average, optimizer = trained()
    path = run.save(7, model.state_dict(), average, optimizer.state_dict())
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "state.json",
        "training.safetensors",
    ]
    found = run.latest()
    other = trained()
    found.restore(*other)
    assert (found.step, found.note) == (7, "")
    for mine, theirs in zip((model, average), other[:2], strict=True):
        for key, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key
    moments, read = optimizer.state_dict(), other[2].state_dict()
    assert [list(group["betas"]) for group in read["param_groups"]] == [[0.8, 0.9]]
    for index, entries in moments["state"].items():
        assert entries.keys() == read["state"][index].keys()
        assert all(torch.equal(value, read["state"][index][name]) for name, value in entries.items())


def test_a_tensor_of_two_names_is_written_once_in_the_model(run: Run) -> None:
    path = save(run, 1)
    header = (path / "model.safetensors").read_bytes()
    assert b'"a.weight"' in header and b'"b.weight"' not in header
    assert "b.weight" in run.latest().model and "b.weight" in run.latest().average


def test_a_run_and_each_of_its_checkpoints_open_as_the_averaged_model(run: Run) -> None:
    with pytest.raises(CheckpointError, match="run: is a run without a checkpoint yet, in checkpoints"):
        induced.load(run.folder)
    for step in (5, 10):
        model, average, optimizer = trained()
        path = run.save(step, model.state_dict(), average, optimizer.state_dict())
        for folder in (run.folder, path):
            loaded = induced.load(folder)
            assert isinstance(loaded, Net) and loaded["a"] is loaded["b"]
            for key, value in average.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], value), key
        assert notes(path) == run.config() | {"step": step}


def test_a_model_of_a_class_that_cannot_be_saved_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointError, match="a ModuleDict cannot be saved: its class is not registered"):
        run.save(1, {}, nn.ModuleDict(), {"state": {}, "param_groups": []})


def test_only_the_newest_stay(run: Run) -> None:
    for step in (5, 10, 15, 20):
        save(run, step)
    assert [path.name for path in run.checkpoints()] == ["step-00000015", "step-00000020"]
    save(run, 25, keep=1)
    assert [path.name for path in run.checkpoints()] == ["step-00000025"]


def test_leftovers_of_a_killed_write_are_cleared_and_never_read(run: Run) -> None:
    save(run, 5)
    leftover = run.folder / "checkpoints" / ".partial-step-00000010-123"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    (run.folder / ".partial-config.json-123").write_bytes(b"{")
    assert run.latest().step == 5
    run.begin(run.config(), resume=True)
    assert not leftover.exists() and not (run.folder / ".partial-config.json-123").exists()
    assert run.latest().step == 5


def edit_state(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        state = json.loads((path / "state.json").read_text())
        change(state)
        (path / "state.json").write_text(json.dumps(state))

    return damage


def truncate(path: Path) -> None:
    file = path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def flip(path: Path) -> None:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def forge(name: str, content: bytes) -> Callable[[Path], None]:
    """Damage a file and make its hash fit."""

    def damage(path: Path) -> None:
        (path / name).write_bytes(content)
        edit_state(lambda state: state["sha256"].update({name: hashlib.sha256(content).hexdigest()}))(path)

    return damage


DAMAGES = {
    "truncated": (truncate, r"training\.safetensors: SHA-256 .* \(truncated or changed\)"),
    "one bit": (flip, r"model\.safetensors: other bytes than config.json was saved with"),
    "missing tensors": (lambda p: (p / "training.safetensors").unlink(), r"training\.safetensors: cannot be read"),
    "missing state": (lambda p: (p / "state.json").unlink(), r"state\.json: cannot be read \(No such file"),
    "cut state": (lambda p: (p / "state.json").write_text('{"kind": '), r"state\.json: is not JSON, or was cut short"),
    "no object": (lambda p: (p / "state.json").write_text("[1]"), "holds a JSON list, expected an object"),
    "foreign schema": (edit_state(lambda s: s.update(schema=99)), "schema 99; this version reads .*schema 4"),
    "foreign kind": (edit_state(lambda s: s.update(kind="other")), "is of kind 'other'"),
    "renamed": (edit_state(lambda s: s.update(step=3)), r"state\.json says step 3 \(a renamed folder"),
    "no hashes": (edit_state(lambda s: s.pop("sha256")), "lacks the hashes of config.json and training.safetensors"),
    "no safetensors": (forge("training.safetensors", b"not safetensors"), "is no whole safetensors file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_offered(run: Run, name: str) -> None:
    damage, message = DAMAGES[name]
    save(run, 5)
    damage(save(run, 10))
    with pytest.raises(CheckpointError, match=message) as caught:
        run.latest()
    assert "--fallback resumes from the one before, step-00000005" in str(caught.value)
    assert "step-00000010" in str(caught.value)
    found = run.latest(fallback=True)
    assert found.step == 5
    assert found.note.startswith("fell back to step-00000005: ") and "step-00000010" in found.note


def test_without_a_good_checkpoint_there_is_no_fallback(run: Run) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from; --overwrite starts anew"):
        run.latest()
    truncate(save(run, 5))
    with pytest.raises(CheckpointError, match="There is none before it: --overwrite starts anew"):
        run.latest()
    truncate(save(run, 10))
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*step-00000010.*step-00000005"):
        run.latest(fallback=True)


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(run: Run) -> None:
    save(run, 5)
    model, average, optimizer = trained(width=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"'a.weight' is \(3, 4\) torch.float32, the model's is \(2, 4\)"):
        run.latest().restore(model, average, optimizer)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    other = nn.ModuleDict({"a": nn.Linear(4, 3), "c": nn.Linear(4, 3)})
    with pytest.raises(
        CheckpointError, match=r"'b.bias' is \(3,\) .*, the model's is missing; .*; 'c.bias' is missing, .* \(9 tensors differ"
    ):
        run.latest().restore(other, average, optimizer)
    with pytest.raises(CheckpointError, match="'a.weight' is .* torch.float32, the model's is .* torch.float64"):
        run.latest().restore(trained()[0].double(), average, optimizer)


def test_an_optimiser_of_another_model_is_refused(run: Run) -> None:
    model, average, _ = trained()
    save(run, 5)
    with pytest.raises(
        CheckpointError, match=r"'optimizer\.[23]\.\w+' of .* does not fit parameters of shapes \[\(3, 4\), \(3,\)\]"
    ):
        run.latest().restore(model, average, torch.optim.Adam(model["a"].parameters()))
    backwards = torch.optim.Adam(list(model.parameters())[::-1])
    with pytest.raises(CheckpointError, match=r"of shape \(3,.* does not fit parameters of shapes \[\(3,\), "):
        run.latest().restore(model, average, backwards)


def test_what_only_a_pickle_could_hold_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"training\.safetensors: 'model\.x' is a int; only tensors"):
        run.save(1, {"x": 3}, trained()[1], {"state": {}, "param_groups": []})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match=r"training\.safetensors: 'optimizer\.0\.f' is a function; only tensors"):
        run.save(1, {}, trained()[1], {"state": {0: {"f": flip}}})


def test_an_earlier_run_is_never_overwritten_unasked(run: Run) -> None:
    config = run.config()
    with pytest.raises(CheckpointError, match=r"already holds checkpoints, config\.json of an earlier run; give --over"):
        run.begin(config)
    save(run, 5)
    run.log({"step": 5})
    with pytest.raises(CheckpointError, match="newest checkpoint is step-00000005: give --resume to go on"):
        run.begin(config)
    with pytest.raises(CheckpointError, match="resume and overwrite exclude each other"):
        run.begin(config, resume=True, overwrite=True)
    (run.folder / "notes.txt").write_text("mine")
    run.begin(config, overwrite=True)
    assert run.checkpoints() == [] and run.metrics() == []
    assert (run.folder / "notes.txt").read_text() == "mine"


def test_resuming_with_other_settings_names_them(run: Run) -> None:
    changed = {"training": {"seed": 2, "steps": 99, "betas": [0.9, 0.99], "warmup": 1}, "model": {"width": 3}}
    with pytest.raises(CheckpointError) as caught:
        run.begin(changed, resume=True)
    message = str(caught.value)
    assert "training.warmup (config.json: absent, now: 1)" in message
    assert "training.seed (config.json: 1, now: 2)" in message
    assert "training.steps" not in message and "betas" not in message and "width" not in message
    assert run.config()["training"]["seed"] == 1


def test_steps_and_cadences_may_change_on_resume(run: Run) -> None:
    run.begin({"training": {"seed": 1, "steps": 99, "betas": [0.9, 0.99], "keep": 3}, "model": {"width": 3}}, resume=True)
    assert run.config()["training"]["steps"] == 99


def test_resuming_where_no_run_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run to go on with; start without --resume"):
        Run(tmp_path).begin({}, resume=True)


def test_metrics_after_the_resumed_step_are_dropped_with_a_torn_line(run: Run) -> None:
    for step in (2, 4, 6):
        run.log({"step": step, "loss": 1 / step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    assert [record["step"] for record in run.metrics()] == [2, 4, 6]
    run.rewind(4)
    run.log({"step": 6, "loss": 0.5})
    assert [(record["step"], record["loss"]) for record in run.metrics()] == [(2, 0.5), (4, 0.25), (6, 0.5)]


def test_a_line_that_is_no_record_is_named(run: Run) -> None:
    (run.folder / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is no record with a step: '\{\"loss\": 2\}'"):
        run.metrics()


def test_rewinding_sets_later_checkpoints_aside(run: Run) -> None:
    save(run, 5)
    save(run, 10)
    run.rewind(5)
    assert [path.name for path in run.checkpoints()] == ["step-00000005"]
    assert (run.folder / "checkpoints" / "rejected-step-00000010").is_dir()


def test_reports_are_strict_json(run: Run) -> None:
    path = run.report({"psnr": [math.inf, 30.5], "nan": math.nan})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"psnr": ["inf", 30.5], "nan": "nan"}
