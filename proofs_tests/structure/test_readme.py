"""What the README and the pages of docs/ show runs, and is true."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "docs" / "_build"
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if BUILT not in page.parents)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(page: Path) -> dict[str, object]:
    """The names that the blocks of a page leave behind, one run after the other."""
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(block, names)
    return names


def test_the_example_of_the_readme_runs_and_its_comment_is_true() -> None:
    names = run(ROOT / "README.md")
    u, v, f = names["u"], names["v"], names["f"]
    difference = (f(2 * u - v).point - (2 * f(u) - f(v)).point).abs().max()  # type: ignore[operator]
    assert difference.item() < 1e-5
    assert not torch.allclose(f(u.point + v.point), f(u.point) + f(v.point), atol=1e-3)  # type: ignore[operator, attr-defined]


# test_guide.py runs those of the guide, and compares what they print
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page) and page.parent.name != "guide"], ids=name)
def test_the_examples_of_a_page_run(page: Path) -> None:
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    links = [
        link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")) if not link.startswith("http")
    ]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_links_to_the_front_page_and_the_main_pages() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    folders = [name(page) for page in (ROOT / "docs").glob("*/index.md")]
    applications = [name(page) for page in (ROOT / "docs" / "applications").glob("*.md")]
    main = ["docs/index.md", "docs/comparison.md", "docs/glossary.md", "docs/theory/limits.md", *folders, *applications]
    assert [page for page in main if f"]({page})" not in readme] == []
