"""placeholder"""

from pathlib import Path


def tour(out: Path, *, steps: int, data_dir: Path | None, overwrite: bool) -> None:
    raise NotImplementedError
