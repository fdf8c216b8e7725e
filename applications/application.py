"""What an application is: a record of its settings, model, training and commands, found by its name or by its models."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from induced import LinearizerOperator
from induced.checks.report import Reports
from induced.errors import InducedError
from induced.serialization.layout import CONFIG, read_config


def _operator(model: Any) -> LinearizerOperator:
    found: LinearizerOperator = model.operator()
    return found


Commands = Mapping[str, Callable[..., None]]


@dataclass(frozen=True)
class Application:
    """An application on one page: a model of library objects, how it is trained, and what one can do with it.

    A file of an application has five parts, in this order (docs/guide/new_application.md shows a whole one):

    1. settings: frozen dataclasses; `Config()` works, each field has a docstring, which `--help` shows.
    2. a model: an nn.Module whose `operator()` is its Linearizer, under `@built_from(Config, "circles.Circles")`, so that
       `induced.load` opens it; the word before the dot is `family`.
    3. an `Objective`: the losses of a batch, with their randomness.
    4. `train(config, run, *, data_dir, resume, overwrite, fallback, device)`, which calls `fit` with a `Source` of data; the
       settings that it gives begin with `{"application": family}`.
    5. commands: functions with a docstring, whose parameters become options. One that takes a `ModelSource` has --run,
       --pretrained, --fallback and --device.

    Arguments:
        name: What `induced train` calls it: small letters, digits and hyphens.
        Config: Its settings; `Config()` is a working default.
        build: The untrained model of settings.
        train: Trains settings into a run folder.
        commands: Functions by verb. Verbs of several applications may be equal: the model that a command is given says whose is
            meant.
        pretrained: Folder whose subfolders are models that ship with it.
        operator: The map that `induced check` looks at, where `model.operator()` is too large for it.
        laws: What `induced check` shows besides: of a model, at so many rows of the data set of this name in this folder; whether
            damaged pictures are left out.
        part: Of a model's settings, where not all of the application is meant for such a model: the verbs that are, and the
            names of the settings, of the model and of its objective, that mean something.

    Law:
        `build(Config())` is a model of `family`, whose `operator()` is a LinearizerOperator (applications/test_application.py)
    """

    name: str
    Config: type[Any]
    build: Callable[[Any], nn.Module]
    train: Callable[..., Any]
    commands: Commands
    pretrained: Path | None = None
    operator: Callable[[Any], LinearizerOperator] = _operator
    laws: Callable[[Any, int, str | None, Path | None, bool], Reports] | None = None
    part: Callable[[Mapping[str, Any]], tuple[Collection[str], Collection[str]] | None] = lambda settings: None

    @property
    def family(self) -> str:
        """What config.json calls it: its name with underscores."""
        return self.name.replace("-", "_")

    def verbs(self, folder: Path) -> str:
        """The commands of a model or run of its own, as a message lists them, and those of every model."""
        own = (self.part(settings_of(folder)) or (self.commands, ()))[0]
        return f"{', '.join(own) or 'no command of its own'}, check and export"

    def shipped(self) -> dict[str, Path]:
        """The folders of the models that ship with it, by name."""
        folder = self.pretrained
        return {} if folder is None else {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG}"))}


_records: Final[dict[str, Application]] = {}


def register(application: Application) -> Application:
    """Make an application known to the command `induced` and to `owner`.

    Returns:
        The application.

    Raises:
        InducedError: another one has this name.
    """
    if (other := _records.setdefault(application.family, application)) is not application:
        raise InducedError(f"two applications are called {application.name!r}: {application.train} and {other.train}")
    return application


def known() -> tuple[Application, ...]:
    """All applications that are registered, in that order."""
    return tuple(_records.values())


def family_of(folder: Path) -> str:
    """The family of what a folder holds: of a run as its settings say, of a model that of its class.

    Raises:
        CheckpointError: there is no config.json of a run or model.
    """
    config = read_config(folder / CONFIG)
    kind = config["notes"].get("application", "") if "newest_of" in config else config["objects"].get("0", {}).get("class", "")
    return str(kind).partition(".")[0]


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a model, or of that of a run; none where config.json does not say.

    Raises:
        CheckpointError: there is no config.json of a run or model.
    """
    config = read_config(folder / CONFIG)
    found = config["notes"].get("model") if "newest_of" in config else config["objects"].get("0", {}).get("arguments")
    return found if isinstance(found, dict) else {}


def owner(folder: Path) -> Application | None:
    """The application that a run or model belongs to; None of the library's own, or where it is not registered.

    Raises:
        CheckpointError: there is no config.json of a run or model.
    """
    return _records.get(family_of(folder))
