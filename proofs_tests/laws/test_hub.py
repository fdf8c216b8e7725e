"""What is pushed to the hub and fetched from it is the same model; what is no model is refused. Nothing here uses a network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from torch import nn

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import Log, real_nvp
from induced.errors import CheckpointError
from induced.hub import HubModel
from induced.operators import Dense
from induced.serialization import notes
from proofs_tests.registry import shaken

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub of one machine: an upload lands where huggingface_hub keeps what it has downloaded."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.private: bool | None = None

    def at(self, repo_id: str) -> Path:
        return self.cache / f"models--{repo_id.replace('/', '--')}"

    def create_repo(self, repo_id: str, *, private: bool | None = None, **_: Any) -> SimpleNamespace:
        self.private = private
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        (self.at(repo_id) / "refs").mkdir(parents=True)
        (self.at(repo_id) / "refs" / "main").write_text(COMMIT)
        shutil.copytree(folder_path, self.at(repo_id) / "snapshots" / COMMIT)
        return f"https://hub/{repo_id}/commit/{COMMIT}"

    def fetch(self, repo_id: str, **options: Any) -> nn.Module:
        return HubModel.from_pretrained(repo_id, cache_dir=self.cache, local_files_only=True, **options).module


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "cache")
    monkeypatch.setattr(HfApi, "create_repo", staticmethod(made.create_repo))
    monkeypatch.setattr(HfApi, "upload_folder", staticmethod(made.upload_folder))
    return made


def test_a_linearizer_comes_back_from_the_hub_bit_for_bit(hub: Hub) -> None:
    X = InducedSpace(shaken(real_nvp(4)))
    f, x = Linearizer(torch.randn(4, 4), X), torch.randn(3, 4)
    assert HubModel(f).push_to_hub("me/map", private=True) == f"https://hub/me/map/commit/{COMMIT}"
    assert hub.private
    loaded = hub.fetch("me/map")
    assert isinstance(loaded, Linearizer) and loaded.domain == loaded.codomain
    assert torch.equal(loaded(x), f(x))
    assert torch.equal(hub.fetch("me/map", revision=COMMIT)(x), f(x))


def test_half_the_bytes_and_the_notes_are_shared_too(hub: Hub) -> None:
    A = Dense(torch.randn(30, 30))
    HubModel(A, dtype=torch.float16, notes={"application": "toy"}).push_to_hub("me/half")
    uploaded = hub.at("me/half") / "snapshots" / COMMIT
    assert notes(uploaded) == {"application": "toy"}
    loaded = hub.fetch("me/half")
    assert isinstance(loaded, Dense) and torch.equal(loaded.A, A.A.half().float())


@pytest.mark.parametrize("module", [Log((2,)), Dense(torch.eye(2)), EuclideanSpace(2)], ids=lambda module: type(module).__name__)
def test_charts_operators_and_spaces_are_shared_too(module: nn.Module, hub: Hub) -> None:
    HubModel(module).push_to_hub("me/part")
    assert type(hub.fetch("me/part")) is type(module)


def test_an_upload_is_the_two_files_of_a_saved_model_and_a_card(hub: Hub) -> None:
    HubModel(Log((2,))).push_to_hub("me/chart")
    uploaded = hub.at("me/chart") / "snapshots" / COMMIT
    assert sorted(path.name for path in uploaded.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "library_name: induced" in (uploaded / "README.md").read_text()


@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        ("me/nothing", {}, "me/nothing: is no folder, and cannot be fetched from the Hugging Face hub"),
        ("me/chart", {"revision": "v2"}, "me/chart: is no folder, and cannot be fetched"),
        ("not a name", {}, "not a name: is no folder, and cannot be fetched .* Repo id must"),
        ("a/b/c", {}, "a/b/c: is no folder, and cannot be fetched .* Repo id must"),
    ],
)
def test_what_is_not_there_is_refused_with_the_reason_of_the_hub(
    repo_id: str, options: dict[str, str], message: str, hub: Hub
) -> None:
    HubModel(Log((2,))).push_to_hub("me/chart")
    with pytest.raises(CheckpointError, match=message):
        hub.fetch(repo_id, **options)


@pytest.mark.parametrize("text", ['{"model_type": "bert", "module": 1}', "[]", "{", "[" * 200_000], ids=lambda text: text[:4])
def test_a_repository_of_another_origin_is_refused_as_load_refuses_it(text: str, hub: Hub) -> None:
    HubModel(Log((2,))).push_to_hub("me/chart")
    (hub.at("me/chart") / "snapshots" / COMMIT / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json: (is not JSON|is JSON of another origin|holds a JSON list)"):
        hub.fetch("me/chart")


def test_a_folder_is_saved_again_and_one_of_another_origin_is_left_alone(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for shape in (2, 3):
        HubModel(Log((shape,))).save_pretrained(ours)
    loaded = HubModel.from_pretrained(ours).module
    assert isinstance(loaded, Log) and loaded.shape == (3,)
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="holds no model that induced saved"):
        HubModel(Log((2,))).save_pretrained(theirs)
    assert json.loads((theirs / "config.json").read_text()) == {"model_type": "bert"}
