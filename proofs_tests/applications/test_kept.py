"""Work is kept: what a run deletes, who may write to it, what a second stage was made from, what a run was trained on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import induced
from applications.common import kinds
from applications.common import runs as runs_module
from applications.common.data import ImageSet
from applications.common.manifest import delete_run, stages_of
from applications.common.options import ModelSource
from applications.common.runs import Run
from applications.common.training import fit
from applications.flow_matching import train as train_module
from applications.flow_matching import vectors
from applications.flow_matching.config import Config
from applications.flow_matching.tour import tour
from applications.idempotent import config as idempotent_config
from applications.idempotent import train as idempotent_train
from applications.style_transfer import config as style_config
from applications.style_transfer import train as style_train
from induced.errors import CheckpointError, DataError, ShapeError
from induced.serialization.disk import write_json
from proofs_tests.applications import toy
from proofs_tests.applications.kept import CONFIG, SMALL, listing, pixels, strangers, train


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "training_set", lambda *_: pixels())


def longer(steps: int, latent_steps: int = 3) -> Config:
    return replace(CONFIG, training=replace(CONFIG.training, steps=steps), latent_steps=latent_steps)


def state(folder: Path) -> dict[str, Tensor]:
    return induced.load(folder).state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


# --------------------------------------------------------------------------------------------------------------- two stages
def test_a_second_stage_is_trained_anew_where_the_first_went_on_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run")
    before = state(tmp_path / "run")
    result = train(tmp_path / "run", longer(8), resume=True)
    said = "latent/ was made from another encoder than there is now: the second stage is trained anew"
    assert said in result.notes and said in capsys.readouterr().out
    after, first = state(tmp_path / "run"), state(tmp_path / "run" / "checkpoints" / "step-00000008")
    encoder = [name for name in after if not name.startswith(("chart.parts.3.", "family."))]
    assert encoder and all(torch.equal(after[name], first[name]) for name in encoder)
    assert not all(torch.equal(after[name], before[name]) for name in encoder)
    result = train(tmp_path / "run", longer(12, latent_steps=5), resume=True)  # where both grow
    grown, first = state(tmp_path / "run"), state(tmp_path / "run" / "checkpoints" / "step-00000012")
    assert said in result.notes and all(torch.equal(grown[name], first[name]) for name in encoder)


def test_a_second_stage_holds_h_alone_and_names_what_it_was_made_from(tmp_path: Path) -> None:
    train(tmp_path)
    latent = Run(tmp_path / "latent")
    assert latent.config()["made_from"] == Run(tmp_path).digest() != ""
    trained = latent.latest().model
    assert trained and all(name.startswith(("density.", "family.")) for name in trained)
    assert same(state(tmp_path), state(latent.folder)) and same(state(tmp_path), latent.latest().average)


def test_a_second_stage_of_an_encoder_that_stayed_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "a", longer(4, latent_steps=6))
    train(tmp_path / "b", longer(4, latent_steps=3))
    result = train(tmp_path / "b", longer(4, latent_steps=6), resume=True)
    assert any(note.startswith("resumed after step 3,") for note in result.notes) and not any(
        "anew" in note for note in result.notes
    )
    assert "training.steps is 6 from here on, it was 3" in result.notes
    assert [record["step"] for record in Run(tmp_path / "b" / "latent").metrics()][-1] == 6


def test_while_the_first_stage_goes_on_the_model_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    stale = state(tmp_path)
    monkeypatch.setattr(train_module, "LatentObjective", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, longer(8), resume=True)
    assert same(state(tmp_path), state(Run(tmp_path).checkpoints()[-1])) and not same(state(tmp_path), stale)
    monkeypatch.undo()
    monkeypatch.setattr(train_module, "training_set", lambda *_: pixels())
    train(tmp_path, longer(8), resume=True)
    assert same(state(tmp_path), state(tmp_path / "latent" / "checkpoints" / "step-00000003"))
    train(tmp_path, longer(12, latent_steps=0), resume=True)  # no second stage any more: the old one is passed over
    assert same(state(tmp_path), state(Run(tmp_path).checkpoints()[-1]))


# ---------------------------------------------------------------------------------------------------------- what is deleted
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_written_to(tmp_path: Path, overwrite: bool) -> None:
    held = strangers(tmp_path)
    message = (
        r"holds checkpoints, config\.json, samples, tensorboard and no manifest\.json of a run, .* neither deleted nor written"
    )
    with pytest.raises(CheckpointError, match=message):
        toy.train(tmp_path, overwrite=overwrite)
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path, overwrite=overwrite)
    with pytest.raises(CheckpointError, match="holds other files than a tour: nothing is written over; choose another"):
        tour(tmp_path, config=CONFIG, overwrite=overwrite)
    assert listing(tmp_path) == held


def test_overwriting_deletes_what_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    train(tmp_path)
    mine = ("notes.txt", "samples/mine.png", "checkpoints/mine/x", "latent/thesis.tex", "tensorboard/mine", "latent/samples/mine")
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    train(tmp_path, longer(2, latent_steps=0), overwrite=True)
    assert all((tmp_path / name).read_text() == name for name in mine)
    assert Run(tmp_path).steps() == 2 and not Run(tmp_path / "latent").checkpoints()
    delete_run(tmp_path)
    assert sorted(listing(tmp_path)) == sorted(mine)


def test_a_tour_begins_in_its_own_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSource, "load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    def begin(folder: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            tour(folder, config=CONFIG, overwrite=True, say=lambda _: None)

    train(tmp_path / "long")
    held = listing(tmp_path / "long")
    with pytest.raises(CheckpointError, match="long: holds other files than a tour"):
        tour(tmp_path / "long", config=CONFIG, overwrite=True)
    assert listing(tmp_path / "long") == held
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "one_step.png").write_text("mine")
    with pytest.raises(CheckpointError, match="other: holds other files than a tour"):
        tour(tmp_path / "other", config=CONFIG, overwrite=True)
    begin(tmp_path / "tour")
    (tmp_path / "tour" / "notes.txt").write_text("mine")
    begin(tmp_path / "tour")
    assert (tmp_path / "tour" / "notes.txt").exists()


def test_a_manifest_that_names_folders_elsewhere_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "run").mkdir()
    for stages in ([".."], ["../run"], [""], [str(tmp_path)], [3], "latent", None):
        write_json(tmp_path / "run" / "manifest.json", {"stages": stages})
        with pytest.raises(CheckpointError, match="is no manifest of a run, whose stages lie in its folder: nothing is deleted"):
            delete_run(tmp_path / "run")
    for link, stages in (("checkpoints", []), ("link", ["link"])):
        write_json(tmp_path / "run" / "manifest.json", {"stages": stages})
        (tmp_path / "run" / link).symlink_to(tmp_path)
        with pytest.raises(CheckpointError, match=f"run/{link}: leads out of .*: nothing is deleted there; remove the link"):
            Run(tmp_path / "run").check({}, overwrite=True)
        (tmp_path / "run" / link).unlink()
    assert (tmp_path / "step-00000001").exists()


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "thesis")
    with pytest.raises(CheckpointError, match="cannot be written .Too many levels"), Run(tmp_path / "run").locked():
        pass
    assert (tmp_path / "thesis").read_text() == "mine"


def test_a_run_that_a_kill_ended_at_birth_can_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "save_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            toy.train(tmp_path)
    assert stages_of(tmp_path) == () and not (tmp_path / "config.json").exists()
    toy.train(tmp_path, overwrite=True)


# ----------------------------------------------------------------------------------------- checks before the first deletion
REFUSALS: dict[str, tuple[dict[str, Any], Config, type[Exception], str]] = {
    "both flags": ({"resume": True, "overwrite": True}, CONFIG, CheckpointError, "resume and overwrite exclude each other"),
    "other settings": (
        {"resume": True},
        replace(CONFIG, model=replace(SMALL, rank=3)),
        CheckpointError,
        r"model\.rank \(config\.json: 4, now: 3\)",
    ),
    "other settings of the second stage": (
        {"resume": True},
        replace(CONFIG, latent_batch=4),
        CheckpointError,
        r"latent: cannot resume with other settings: training\.batch \(config\.json: 8, now: 4\)",
    ),
    "a batch of the second stage": (
        {"overwrite": True},
        replace(CONFIG, latent_batch=6),
        ShapeError,
        "multiple of noise_share=4",
    ),
    "a batch": (
        {"overwrite": True},
        replace(CONFIG, training=replace(CONFIG.training, batch=6)),
        ShapeError,
        "multiple of noise_share=4",
    ),
    "nothing asked": ({}, CONFIG, CheckpointError, "its newest checkpoint is step-00000004: give --resume to go on"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_is_refused_before_data_are_read_and_anything_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    options, config, error, message = REFUSALS[case]
    train(tmp_path)
    held = listing(tmp_path)
    monkeypatch.setattr(train_module, "training_set", lambda *_: pytest.fail("the data are read"))
    with pytest.raises(error, match=message):
        train(tmp_path, config, **options)
    assert listing(tmp_path) == held


def test_room_is_asked_for_before_anything_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run")
    held = listing(tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(train_module, "training_set", lambda *_: pytest.fail("the data are read"))
    wide = replace(CONFIG, model=replace(SMALL, dense_width=500))
    with pytest.raises(
        CheckpointError, match=r"the checkpoints take up to \d+ bytes, and 1000 are free: make room, lower --keep"
    ):
        train(tmp_path / "run", wide, overwrite=True)
    with pytest.raises(CheckpointError, match="and 1000 are free"):
        train(tmp_path / "new")
    assert listing(tmp_path / "run") == held and not (tmp_path / "new").exists()


def test_data_that_cannot_be_read_delete_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> ImageSet:
        raise DataError("9.jpg: no picture")

    train(tmp_path)
    held = listing(tmp_path)
    monkeypatch.setattr(train_module, "training_set", missing)
    with pytest.raises(DataError, match=r"9\.jpg"):
        train(tmp_path, overwrite=True)
    assert listing(tmp_path) == held


def test_every_application_checks_its_folder_before_it_reads_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers(tmp_path)
    monkeypatch.setattr(idempotent_train, "training_images", lambda *_, **__: pytest.fail("the data are read"))
    monkeypatch.setattr(vectors, "load_table", lambda *_, **__: pytest.fail("the data are read"))
    monkeypatch.setattr(style_train, "pairs", lambda *_, **__: pytest.fail("the data are read"))
    for work in (
        lambda: train(tmp_path, Config(data="two-moons"), overwrite=True),
        lambda: idempotent_train.train(idempotent_config.Config(), Run(tmp_path), overwrite=True, device="cpu"),
        lambda: style_train.train(style_config.Config(), Run(tmp_path), overwrite=True, device="cpu"),
    ):
        with pytest.raises(CheckpointError, match="neither deleted nor written over"):
            work()


# --------------------------------------------------------------------------------------------------------------------- data
def test_other_data_of_the_same_name_and_number_are_refused_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    held = listing(tmp_path)
    monkeypatch.setattr(train_module, "training_set", lambda *_: pixels(seed=1))
    message = r"cannot resume with other settings: data\.sha256 .*; the data are not those that it was trained on\. Give the same"
    with pytest.raises(CheckpointError, match=message):
        train(tmp_path, longer(8), resume=True)
    assert listing(tmp_path) == held


@pytest.mark.parametrize(
    ("other", "said"), [("seed", r"training\.seed is 5, but .*run has 3\. Put"), ("data", r"data\.\w+ is .*")]
)
def test_a_checkpoint_that_was_moved_here_from_another_run_is_refused(other: str, said: str, tmp_path: Path) -> None:
    """Of equal shape, so that its weights would fit."""
    toy.train(tmp_path / "run")
    if other == "seed":
        toy.train(tmp_path / "other", config=replace(toy.CONFIG, seed=5))
    else:
        fit(toy.Denoise(), toy.images(36), toy.CONFIG, Run(tmp_path / "other"), device="cpu")
    longest = replace(toy.CONFIG, steps=toy.CONFIG.steps + 1)
    shutil.copytree(tmp_path / "run", tmp_path / "kept")
    assert toy.train(tmp_path / "kept", config=longest, resume=True).steps == longest.steps, "its own, for more steps"
    newest = Run(tmp_path / "run").checkpoints()[-1]
    shutil.rmtree(newest)
    shutil.copytree(Run(tmp_path / "other").checkpoints()[-1], newest)
    with pytest.raises(CheckpointError, match=f"{newest.name}: is a checkpoint of another run: its {said}"):
        toy.train(tmp_path / "run", config=longest, resume=True)


def test_settings_of_another_release_are_refused_on_resume_in_words(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"rest_std"', '"ground"'))
    with pytest.raises(
        CheckpointError, match=r"model\.ground \(config\.json: .*, now: absent\).* is of another release: go on with"
    ):
        train(tmp_path, longer(8), resume=True)


def test_export_refuses_a_place_before_it_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run")
    monkeypatch.setattr(kinds, "load", lambda *_: pytest.fail("the model is loaded"))
    for name, content in (("stranger", {"config.json": '{"model_type": "bert"}'}), ("file", {})):
        (tmp_path / name).touch() if not content else (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(CheckpointError, match="choose another (name )?with --out$"):
            kinds.export(tmp_path / "run", tmp_path / name)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    with pytest.raises(CheckpointError, match="is the folder of a run"):
        kinds.export(tmp_path / "run", tmp_path / "other")
