"""The console script `induced`: the command of the package `applications`, or one line that says why there is none."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from induced.errors import InducedError

HOME = Path(__file__).resolve().parents[1] / "applications"


def main() -> None:
    """Run `applications.cli.main`, of the package `applications` beside this one."""
    spec = find_spec("applications")
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    if HOME not in places:
        found = f"{places[0]} hides it: rename that, or take its folder off the path" if places else "it is not there"
        sys.exit(f"induced: the command lies in the package `applications` at {HOME}; {found}")
    try:
        command = importlib.import_module("applications.cli")
    except InducedError as error:
        sys.exit(f"induced: {error}")
    command.main()


if __name__ == "__main__":
    main()
