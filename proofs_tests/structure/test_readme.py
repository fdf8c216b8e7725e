"""What the README shows runs, and is true."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_example_of_the_readme_runs_and_its_comment_is_true() -> None:
    match = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    names: dict[str, object] = {}
    exec(match.group(1), names)
    u, v, f = names["u"], names["v"], names["f"]
    difference = (f(2 * u - v).point - (2 * f(u) - f(v)).point).abs().max()  # type: ignore[operator]
    assert difference.item() < 1e-5
    assert not torch.allclose(f(u.point + v.point), f(u.point) + f(v.point), atol=1e-3)  # type: ignore[operator, attr-defined]


def test_every_file_that_the_readme_links_to_exists() -> None:
    root = Path(__file__).parents[2]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (root / link).exists()] == []
