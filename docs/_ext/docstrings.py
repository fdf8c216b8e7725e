"""Docstrings of this library, Markdown with sections, as reStructuredText: sections become fields, code becomes links.

`name` in backticks is linked where the reference has it, `laws/test_x.py` where its source is, and "Prop 2.8" to its page.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from inspect import getdoc
from itertools import groupby
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_content
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode
from torch.nn import Module

from proofs_tests.statements import STATEMENTS

DOCS = Path(__file__).parents[1]
SECTION = re.compile(r"^(Arguments|Attributes|Returns|Raises|Example|Law):\n((?:[ \t].*\n|\n)*)", re.MULTILINE)
LISTS = ("Arguments", "Attributes", "Raises")
PAGES = {s.number: s.page.removesuffix(".md") for s in STATEMENTS if re.match(r"(Def|Prop|Lemma|Thm|eqs?\.) ", s.number)}
INLINE = re.compile(
    r"(?P<code>`[^`]+`)"
    r"|(?P<test>\b(?:proofs|laws|units|counterexamples|structure|applications)/test_\w+\.py)"
    r"|(?P<page>\bdocs/[\w/]+\.md)"
    r"|(?P<statement>\b(?:" + "|".join(map(re.escape, sorted(PAGES, key=len, reverse=True))) + r")(?![\w.-]))"
    r"|(?P<special>[\\*|]|_(?!\w))"
)


def documented() -> dict[str, list[str]]:
    """The full names that the pages of the reference hold, under their last part."""
    names: dict[str, list[str]] = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        module = ""
        for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            if kind == "currentmodule":
                module = name
            elif kind != "automodule":
                names.setdefault(name.rpartition(".")[2], []).append(f"{module}.{name}")
    return names


NAMES = documented()


def made_elsewhere(text: str | None) -> bool:
    """Whether a docstring is that of nn.Module's `__init__`, or one that a NamedTuple makes for itself."""
    return text == getdoc(Module.__init__) or (text or "").startswith(("Create new instance of", "Alias for field number"))


def target(token: str, home: str, cls: type | None) -> str | None:
    """The full name that `token` means in the docstring of `home`, an object of the class or no class's."""
    first, _, rest = token.partition(".")
    for base in cls.__mro__ if cls else ():
        doc = getattr(vars(base).get(token), "__doc__", None)
        if doc and not rest and not token.startswith("_") and not made_elsewhere(doc):
            return next((f"{full}.{token}" for full, one in classes().items() if one is base), None)
    if rest and (module := [name for name in NAMES.get(token.rpartition(".")[2], ()) if name.endswith(token)]):
        return module[0]
    found = NAMES.get(first, [])
    here = [name for name in found if home.startswith(name.rpartition(".")[0])]
    best = here or (found if len(found) == 1 else [])
    return best[0] if best and not rest else None


def inline(text: str, home: str, cls: type | None) -> str:
    def replace(match: re.Match[str]) -> str:
        found = match[0]
        match match.lastgroup:
            case "code":
                code = " ".join(found.strip("`").split())
                name = target(code.removesuffix("()"), home, cls) if re.fullmatch(r"[\w.]+(\(\))?", code) else None
                return f":py:obj:`{code} <{name}>`" if name and name != home else f"``{code}``"
            case "test":
                return f":download:`{found} </../proofs_tests/{found}>`"
            case "page":
                return f":doc:`{found} </{found[5:-3]}>`"
            case "statement":
                return f":doc:`{found} </theory/{PAGES[found]}>`"
        return "\\" + found

    return INLINE.sub(replace, text)


def table(lines: list[str], home: str, cls: type | None) -> Iterator[str]:
    yield from ("", ".. list-table::", "   :header-rows: 1", "")
    for line in (lines[0], *lines[2:]):
        cells = line.strip().strip("|").split(" | ")
        for k, cell in enumerate(cells):
            content = re.sub(r"^(?=[+-])", r"\\", inline(cell.strip(), home, cls))  # no list
            yield f"   {'* -' if k == 0 else '  -'} {content}"
    yield ""


def kind(line: str) -> str:
    bare = line.strip()
    return "table" if bare.startswith("|") and bare.endswith("|") and bare.count("|") > 2 else "text"


def body(text: str, home: str, cls: type | None) -> str:
    """Paragraphs, tables, and examples as they are."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.lstrip().startswith(">>>"):
            parts.append(paragraph)
        else:
            for what, group in groupby(paragraph.split("\n"), kind):
                lines = list(group)
                parts.append("\n".join(table(lines, home, cls)) if what == "table" else inline("\n".join(lines), home, cls))
    return "\n\n".join(parts)


def entries(text: str, raises: bool, home: str, cls: type | None) -> str:
    """ "name: meaning" as a list; names of errors are links."""
    items = []
    for entry in re.split(r"\n(?=\S)", text.strip("\n")):
        names, colon, meaning = entry.partition(": ")
        if not colon:
            items.append(f"* {indent(inline(entry, home, cls), '  ').strip()}")
            continue
        shown = re.sub(r"\b[A-Z]\w+", r":py:exc:`\g<0>`", names) if raises else f"**{inline(names, home, cls)}**"
        items.append(f"* {shown}: {indent(inline(dedent_rest(meaning), home, cls), '  ').strip()}")
    return "\n".join(items)


def dedent_rest(text: str) -> str:
    first, newline, rest = text.partition("\n")
    return first + newline + dedent(rest)


def restructured(text: str, home: str, cls: type | None) -> str:
    parts, end = [], 0
    for section in SECTION.finditer(text):
        parts.append(body(text[end : section.start()], home, cls))
        name, content = section[1], dedent(section[2])
        made = entries(content, name == "Raises", home, cls) if name in LISTS else body(content, home, cls)
        parts.append(f":{name}:\n{indent(made, '    ')}")
        end = section.end()
    return "\n\n".join([*parts, body(text[end:], home, cls)])


@cache
def classes() -> dict[str, type]:
    """The documented classes by their full names."""
    found = {full: getattr(import_module(full.rpartition(".")[0]), last) for last, names in NAMES.items() for full in names}
    return {full: obj for full, obj in found.items() if isinstance(obj, type)}


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    return True if made_elsewhere(getattr(obj, "__doc__", None)) else None


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if made_elsewhere("\n".join(lines).strip()):
        lines.clear()
        return
    cls = classes().get(name) or classes().get(name.rpartition(".")[0])
    lines[:] = restructured("\n".join(lines) + "\n", name, cls).split("\n")


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.TextElement) -> nodes.reference | None:
    """An error, or a class of an annotation, by its last name."""
    if node.get("refdomain") != "py":
        return None
    names = NAMES.get(node["reftarget"].rpartition(".")[2], [])
    domain = env.domains.python_domain
    if len(names) != 1 or names[0] not in domain.objects:
        return None
    entry = domain.objects[names[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, names[0])


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, returns: str | None) -> Any:
    """None for a class without an `__init__` of its own: it has that of nn.Module."""
    return ("", returns) if what == "class" and args == "(*args: Any, **kwargs: Any)" else None


def bases(app: Sphinx, name: str, obj: Any, options: Any, found: list[Any]) -> None:
    """Only bases that a reader can look up: those of the reference, and torch's."""
    found[:] = [base for base in found if base.__name__ in NAMES or base.__name__ == "Module"] or [object]


def tidied(app: Sphinx, domain: str, objtype: str, content: desc_content) -> None:
    """No base that says nothing, and of a function that dispatches on a type the signature alone that is called."""
    if content.children and content.children[0].astext() == "Bases: object":
        content.pop(0)
    first, *others = content.parent.children[:-1]
    if objtype == "function" and hasattr(getattr(import_module(first["module"]), first["fullname"]), "registry"):
        for other in others:
            content.parent.remove(other)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-bases", bases)
    app.connect("object-description-transform", tidied)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
