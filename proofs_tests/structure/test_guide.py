"""What the blocks of the guide print is what the comments behind their prints say."""

import math
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def shown(block: str) -> list[str]:
    """The comment behind each print, and the lines of comment right below it."""
    found = re.findall(r"^print\(.*?\)(?:  # (.*))?\n((?:# .*\n)*)", block, re.MULTILINE)
    return [line for behind, below in found for line in ([behind] if behind else []) + re.findall("# (.*)", below)]


def same(printed: str, comment: str) -> bool:
    """Equal but for spaces and the last digits of numbers."""
    texts = [re.sub(r"\s+", "", NUMBER.sub("0", line)) for line in (printed, comment)]
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(comment), strict=False)
    return texts[0] == texts[1] and all(math.isclose(float(a), float(b), rel_tol=0.01, abs_tol=2e-4) for a, b in pairs)


@pytest.mark.parametrize("page", sorted(page for page in GUIDE.glob("*.md") if blocks(page)), ids=lambda page: page.name)
def test_the_printed_results_of_a_page_are_true(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(block, names)
        printed, comments = capsys.readouterr().out.splitlines(), shown(block)
        assert len(printed) == len(comments), (printed, comments)
        assert [pair for pair in zip(printed, comments, strict=True) if not same(*pair)] == []


def test_a_wrong_comment_is_seen() -> None:
    assert same("tensor([ 4., 16.])", "tensor([4.,  16.])") and same("1.1498", "1.1499")
    assert not same("1.15", "1.25") and not same("True 12", "False 12") and not same("2", "2 3")
