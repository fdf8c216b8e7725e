"""What the README and the pages of docs/ show runs, and is true."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page)], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path) -> None:
    run(page)


def test_the_comments_of_the_toolkit_page_are_true() -> None:
    names = run(ROOT / "docs" / "toolkit.md")
    f, x, y, u, p, h, half = (names[name] for name in ("f", "x", "y", "u", "p", "h", "half"))
    assert torch.allclose(u(p(x)), f(x))  # type: ignore[operator]
    z = h.domain.sample(3)  # type: ignore[attr-defined]
    assert torch.allclose(half(half(z)), h(z))  # type: ignore[operator]
    X, Y = f.domain, f.codomain  # type: ignore[attr-defined]
    assert torch.allclose(Y.coords(f(names["best"])), Y.coords(y))  # type: ignore[operator]
    assert (X.norm(names["best"]) <= X.norm(X.add(names["best"], f.kernel().project(x))) + 1e-9).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_links_to_the_pages() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.relative_to(ROOT).as_posix() not in readme] == []
