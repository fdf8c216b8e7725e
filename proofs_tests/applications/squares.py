"""What the tests of data sets of pictures share."""

from pathlib import Path

from PIL import Image


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)  # type: ignore[arg-type]
    return path
