"""Every link inside the built pages leads to a page, a file and an anchor that exist, and no page asks the network for anything.

`make docs` runs it on docs/_build/html.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, its links, and what a browser loads with it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") == "stylesheet":
            self.loads.append(values["href"])
        elif tag in {"img", "script", "source", "iframe"} and "src" in values:
            self.loads.append(values["src"])


def complaints(root: Path) -> list[str]:
    """What is wrong with the links of the pages below a folder."""
    pages = {file.resolve(): Page(file) for file in sorted(root.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        where = file.relative_to(root.resolve())
        for link in dict.fromkeys(page.links + page.loads):
            parts = urlsplit(link)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                found += [f"{where} loads {link}"] if link in page.loads else []
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                found.append(f"{where}: no page or file {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: no anchor {link}")
    return found if pages else [f"no pages in {root}"]


if __name__ == "__main__":
    wrong = complaints(Path(sys.argv[1]))
    print("\n".join(wrong) or "every internal link leads somewhere")
    sys.exit(bool(wrong))
