"""The notebooks of the gallery run from top to bottom, draw, and assert what they say."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot, rcParams

from proofs_tests.gallery import GALLERY, PAGES, THUMBNAILS, cells, run

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
INDEX = GALLERY / "index.md"


@every_page
def test_a_notebook_runs_and_draws_and_leaves_no_settings_behind(page: Path) -> None:
    before = torch.get_default_dtype(), torch.is_grad_enabled(), dict(rcParams)
    with run(page) as figures:
        assert figures and all(ax.has_data() for figure in figures for ax in figure.axes)
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), dict(rcParams)) == before
    assert pyplot.get_fignums() == []


@every_page
def test_a_notebook_asserts_laws_and_is_seeded(page: Path) -> None:
    code = "\n".join(cells(page))
    assert re.search(r"\bassert\b|\bassert_close\(|\brequire\(", code)
    assert "rand" not in code or "manual_seed(" in code


@every_page
def test_the_index_shows_every_notebook(page: Path) -> None:
    text = INDEX.read_text(encoding="utf-8")
    assert f"]({page.name})" in text and f"../figures/gallery/{page.stem}.png" in text
    assert (THUMBNAILS / f"{page.stem}.png").is_file()


def test_every_notebook_is_known() -> None:
    assert sorted(GALLERY.glob("*.md")) == sorted([*PAGES, INDEX])
    assert sorted(path.stem for path in THUMBNAILS.glob("*")) == sorted(page.stem for page in PAGES)


def test_a_page_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```{code-cell} ipython3\n:tags: [hide-input]\nx = 1\n```\n\n```{code-cell}\nassert x == 2\n```\n")
    assert cells(page) == ["x = 1\n", "assert x == 2\n"]
    with pytest.raises(AssertionError), run(page):
        pass
