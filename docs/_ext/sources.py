"""Links to source, and back: a Python file of the repository has a page here, and what it defines an anchor in the reference."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.addnodes import desc_signature, download_reference
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[2]


def pagename(file: str | Path) -> str:
    return "source/" + Path(file).resolve().relative_to(ROOT).with_suffix("").as_posix()


class LinkToSource(SphinxPostTransform):
    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(download_reference)):
            if node["reftarget"].endswith(".py"):
                _, file = self.env.relfn2path(node["reftarget"], node.get("refdoc", self.env.docname))
                uri = self.app.builder.get_relative_uri(self.env.docname, pagename(file))
                node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri))


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    formatter = HtmlFormatter(cssclass="highlight", anchorlinenos=True, linenos="inline", lineanchors="L", linespans=None)
    for file in sorted(app.env.dlfiles):
        path = Path(app.srcdir, file)
        if path.suffix == ".py":
            name = path.resolve().relative_to(ROOT).as_posix()
            code = highlight(path.read_text(encoding="utf-8"), PythonLexer(), formatter)
            yield pagename(path), {"title": name, "body": f"<h1>{name}</h1>{code}", "parents": []}, "page.html"


def anchored(app: Sphinx, doctree: nodes.document) -> None:
    """Anchors under the module that defines a name and under its package: sphinx.ext.viewcode links to one of them for all."""
    for node in doctree.findall(desc_signature):
        if node.get("module"):
            found = getattr(import_module(node["module"]), node["fullname"].split(".")[0])
            module = getattr(found, "__module__", node["module"])
            names = (f"{prefix}.{node['fullname']}" for prefix in (module, ".".join(module.split(".")[:2])))
            node["ids"] += [name for name in names if name not in node["ids"]]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(LinkToSource)
    app.connect("doctree-read", anchored)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
