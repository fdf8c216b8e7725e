"""Every model folder there is opens with `induced.load`, by one call and by no other import."""

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

import applications
import induced
from applications.common.classifier import DigitClassifier
from applications.flow_matching.model import FlowMatching
from induced._registry import by_name
from induced.errors import CheckpointError
from induced.hub import HubModel
from induced.serialization import notes, save

ROOT = Path(induced.__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["induced.models"]
APPLICATIONS = Path(applications.__file__).parent
SHIPPED = {
    "flow_matching/pretrained/mnist": FlowMatching,
    "common/pretrained/digits": DigitClassifier,
}


def test_each_entry_point_registers_the_kinds_of_its_name() -> None:
    for name, module in DECLARED.items():
        importlib.import_module(module)
        kinds = [entry for kind, entry in by_name.items() if kind.startswith(f"{name}.")]
        assert kinds and all(entry.owner.startswith("applications.") for entry in kinds)
    mine = {kind.partition(".")[0] for kind, entry in by_name.items() if entry.owner.startswith("applications.")}
    assert mine == DECLARED.keys()


def test_what_is_installed_declares_them() -> None:
    assert {point.name: point.value for point in entry_points(group="induced.models")} == DECLARED, "pip install -e . anew"


def test_the_shipped_models_are_all_here() -> None:
    found = {str(path.parent.relative_to(APPLICATIONS)) for path in APPLICATIONS.glob("**/pretrained/*/config.json")}
    assert found == SHIPPED.keys()


@pytest.mark.parametrize("folder", SHIPPED)
def test_a_shipped_model_opens_as_it_was_saved(folder: str, tmp_path: Path) -> None:
    place = APPLICATIONS / folder
    model = induced.load(place)
    assert type(model) is SHIPPED[folder]
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    again = save(model, tmp_path, dtype=torch.float16, notes=notes(place))
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (place / name).read_bytes()


def test_a_new_process_has_all_kinds_of_the_library_and_opens_those_of_applications() -> None:
    for module in pkgutil.walk_packages(induced.__path__, "induced."):
        importlib.import_module(module.name)
    kinds = {name for name, entry in by_name.items() if entry.owner.startswith(("induced.", "torch."))}
    script = (
        "import sys, induced, induced._registry as r; print(*r.by_name); print('applications' in sys.modules);"
        f"print(*(type(induced.load(folder)).__name__ for folder in {[str(APPLICATIONS / folder) for folder in SHIPPED]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    found, imported, opened = done.stdout.splitlines()
    assert set(found.split()) == kinds and imported == "False"
    assert opened.split() == [cls.__name__ for cls in SHIPPED.values()]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(by_name, "flow_matching.FlowMatching")
    monkeypatch.delitem(sys.modules, "applications.flow_matching.model")
    monkeypatch.setitem(sys.modules, "applications.common.kinds", None)
    with pytest.raises(CheckpointError, match=r"FlowMatching of .*, which cannot be imported .*: install induced\[apps\]"):
        induced.load(APPLICATIONS / "flow_matching/pretrained/mnist")


def test_a_folder_of_an_application_opens_as_from_the_hub() -> None:
    assert isinstance(HubModel.from_pretrained(APPLICATIONS / "common/pretrained/digits").module, DigitClassifier)
