"""What a folder of a run or model holds, as text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from applications.application import family_of, owner, settings_of
from applications.common.runs import Run
from applications.common.settings import flat
from induced import LinearizerOperator, load
from induced.errors import CheckpointError
from induced.serialization.disk import read_json
from induced.serialization.layout import CONFIG, read_config

WIDTH = 12


def described(folder: Path) -> str:
    """Application, settings, steps done, sizes and figures of a run; the same of a model, as far as it has them.

    Raises:
        CheckpointError: there is no config.json of a run or model.
    """
    config, application = read_config(folder / CONFIG), owner(folder)
    stages = "newest_of" in config
    what = "run" if stages else "model"
    if application is not None:
        about = f"a {what} of `{application.name}`: it has {application.verbs(folder)}"
    elif stages:
        about = f"a run of `{family_of(folder)}`, an application that is not installed"
    else:
        about = f"a {config['objects']['0']['class']}, of no application: it has check and export"
    lines = [f"{folder}: {about}", *progress(folder), *_model(folder)]
    notes = {name: value for name, value in config["notes"].items() if name != "application"}
    if application is not None and not stages:
        notes["model"] = settings_of(folder)
    part = application.part(settings_of(folder)) if application is not None else None
    if part is not None:
        notes |= {
            name: {key: value for key, value in notes.get(name, {}).items() if key in part[1]} for name in ("model", "objective")
        }
    lines += _table("settings", notes)
    if (folder / "report.json").exists():
        lines += _table("figures", read_json(folder / "report.json"))
    return "\n".join(lines)


def progress(folder: Path) -> list[str]:
    """Steps, checkpoints and the newest metrics of each stage of a run; none of a model."""
    places = reversed(read_config(folder / CONFIG).get("newest_of", []))
    return [line for place in places for line in _progress(Run((folder / place).parent), folder)]


def _progress(stage: Run, folder: Path) -> list[str]:
    """Steps and checkpoints of one stage of a run, and what its last line of metrics says."""
    name = "steps" if stage.folder == folder else stage.folder.name
    if not (stage.folder / CONFIG).exists():
        return [f"{name:<{WIDTH}} not begun"]
    records, saved = stage.metrics(), [path.name for path in stage.checkpoints()]
    training = stage.config().get("training")
    done, asked = records[-1]["step"] if records else 0, training.get("steps", "?") if isinstance(training, dict) else "?"
    lines = [f"{name:<{WIDTH}} {done} of {asked}; checkpoints: {', '.join(saved) or 'none yet'}"]
    if records:
        shown = (f"{key} {value:.4g}" for key, value in records[-1].items() if key != "step" and isinstance(value, int | float))
        lines.append(f"{'':<{WIDTH}} {', '.join(shown)}")
    return lines


def _model(folder: Path) -> list[str]:
    """What the model is and how large; what is wrong where it does not load."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    on_disk = f"{'on disk':<{WIDTH}} {size / 1e6:.3g} MB"
    try:
        model = load(folder)
    except CheckpointError as error:
        return [f"{'model':<{WIDTH}} cannot be loaded: {error}", on_disk]
    tensors = [*model.parameters(), *model.buffers()]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    count = sum(tensor.numel() for tensor in tensors)
    text = f"{type(model).__name__}{_map(model)}, {count:,} numbers in {len(tensors)} tensors ({', '.join(dtypes)})"
    return [f"{'model':<{WIDTH}} {text}", on_disk]


def _map(model: nn.Module) -> str:
    if not isinstance(model, LinearizerOperator):
        return ""
    return f" from {tuple(model.domain.shape)} to {tuple(model.codomain.shape)}"


def _table(title: str, tree: Mapping[str, Any]) -> list[str]:
    """Nested values by dotted name; long lists by their length."""
    texts = {name: json.dumps(value) for name, value in flat(tree)}
    lists = {name: f"{len(value)} entries" for name, value in flat(tree) if isinstance(value, list) and len(texts[name]) > 100}
    texts |= lists
    width = max(map(len, texts), default=0)
    return [title, *(f"  {name:<{width}}  {text}" for name, text in texts.items())] if texts else []
