"""Where things lie: the folder of data sets and weights, and that of caches."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from induced.errors import DataError

Folder = str | os.PathLike[str]
"""A folder as a caller names it."""


def data_folder(given: Folder | None, need: str) -> Path:
    """The folder of data sets and weights: the given one, else $INDUCED_DATA; ~ is the home folder.

    Arguments:
        given: What --data-dir names, if anything.
        need: What is looked for, as the start of the message.

    Raises:
        DataError: no folder is given, or there is none of this name.
    """
    named = given if given is not None else os.environ.get("INDUCED_DATA")
    if not named:
        raise DataError(f"{need} and no folder was given: pass --data-dir or set INDUCED_DATA to where they are")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        whose = "--data-dir" if given is not None else "INDUCED_DATA"
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{need}: the folder {folder} ({whose}) {what}")
    return folder


def cache_folder(given: Folder | None = None) -> Path:
    """The folder of caches: the given one, else $INDUCED_CACHE, else `induced` among the user's caches on this platform."""
    named = given or os.environ.get("INDUCED_CACHE")
    return Path(named).expanduser() if named else user_cache_path("induced", appauthor=False)


def at_home(argument: str) -> str:
    """An argument whose path begins with `~`, as `--out=~/x` or quoted, which a shell leaves as it is, from the home folder."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(value)
