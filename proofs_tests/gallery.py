"""The notebooks of docs/gallery as plain Python, and their thumbnails: `python -m proofs_tests.gallery` writes those anew."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import torch

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
THUMBNAILS = GALLERY.parent / "figures" / "gallery"
SHOWN = {"grids": 1, "simplex": 0, "velocities": 0, "spd": 0, "svd_of_a_network": 0, "spectrum": 1, "digits": 0}
"""Which figure of a page stands for it."""
PAGES = [GALLERY / f"{name}.md" for name in SHOWN]
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?::[\w-]+:[^\n]*\n)*(.*?)^```$", re.DOTALL | re.MULTILINE)


def cells(page: Path) -> list[str]:
    """The code of a notebook's cells, without their options."""
    return CELL.findall(page.read_text(encoding="utf-8"))


@contextmanager
def run(page: Path) -> Iterator[list[Figure]]:
    """Run the cells of a notebook in one namespace; its figures, open until the end. Settings are as before afterwards."""
    dtype, gradients, names = torch.get_default_dtype(), torch.is_grad_enabled(), {"__name__": "__main__"}
    try:
        with pyplot.rc_context():
            for cell in cells(page):
                exec(compile(cell, str(page), "exec"), names)
            yield [pyplot.figure(number) for number in pyplot.get_fignums()]
    finally:
        pyplot.close("all")
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


if __name__ == "__main__":
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        with run(page) as figures:
            figure = figures[SHOWN[page.stem]]
            figure.savefig(THUMBNAILS / f"{page.stem}.png", dpi=320 / figure.get_figwidth(), bbox_inches="tight")
