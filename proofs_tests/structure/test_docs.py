"""The documentation site: every public name stands in the reference once, links are checked, docstrings become what they say."""

import ast
import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import induced

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (*(ROOT / "induced").glob("*.py"), *(ROOT / "induced").rglob("__init__.py"))
    if not path.name.startswith("_") or path.name == "__init__.py"
)


def public() -> dict[int, tuple[str, object]]:
    """The objects of `__all__` of the library and of its packages and modules, each once, and all errors."""
    named = dict[int, tuple[str, object]]()
    for module in map(importlib.import_module, PUBLIC):
        names = getattr(module, "__all__", ())
        if module.__name__ == "induced.errors":
            names = [name for name, obj in vars(module).items() if inspect.isclass(obj)]
        for name in names:
            obj = getattr(module, name)
            named.setdefault(id(obj), (f"{module.__name__}.{name}", obj))
    return named


def documented() -> list[tuple[str, object, bool]]:
    """What the directives of the reference name, and whether they name it in the module that defines it, as records are."""
    found = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        module: ModuleType = induced
        for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            if kind == "currentmodule":
                module = importlib.import_module(name)
            elif kind != "automodule":
                found.append((f"{module.__name__}.{name}", getattr(module, name), not hasattr(module, "__path__")))
    return found


def test_every_public_name_stands_in_the_reference_once() -> None:
    wanted, found = public(), Counter(id(obj) for _, obj, _ in documented())
    assert sorted(name for key, (name, _) in wanted.items() if key not in found) == [], "not in docs/reference"
    assert sorted(name for name, obj, _ in documented() if found[id(obj)] > 1) == [], "twice in docs/reference"
    assert sorted(name for name, obj, own in documented() if id(obj) not in wanted and not own) == [], "documented, not public"
    assert len(wanted) > 130


def test_every_public_class_and_function_has_a_docstring() -> None:
    things = [(name, obj) for name, obj in public().values() if inspect.isclass(obj) or inspect.isfunction(obj)]
    assert [name for name, obj in things if not vars(obj).get("__doc__", obj.__doc__)] == []
    methods = [
        f"{name}.{method}"
        for name, obj in things
        if inspect.isclass(obj)
        for method, function in vars(obj).items()
        if not method.startswith("_") and inspect.isfunction(function) and not documented_method(obj, method)
    ]
    assert methods == []


def documented_method(cls: type, name: str) -> bool:
    """Whether the method, or one of a base that it overrides, says what it does."""
    return any(getattr(vars(base).get(name), "__doc__", None) for base in cls.__mro__)


def test_every_folder_of_pages_has_an_index_with_all_of_them() -> None:
    for index in DOCS.glob("*/index.md"):
        trees = " ".join(re.findall(r"```{toctree}\n(.*?)```", index.read_text(encoding="utf-8"), re.DOTALL)).split()
        pages = {page.stem for page in index.parent.glob("*.md")} - {"index"}
        assert pages <= set(trees) or "*" in trees, index


def load(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    folder = str(DOCS / "_ext") if name != "check_links" else str(DOCS)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def test_a_link_to_nowhere_and_a_load_from_the_network_are_found(tmp_path: Path) -> None:
    check = load("check_links").complaints
    assert check(tmp_path) == [f"no pages in {tmp_path}"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.html").write_text(
        '<h1 id="top">x</h1><a href="../y.html#here">y</a><a href="#top">up</a><img src="data:,">'
    )
    (tmp_path / "y.html").write_text('<a name="here" href="https://example.org">outside</a>')
    assert check(tmp_path) == []
    (tmp_path / "y.html").write_text(
        '<a href="z.html"></a><a href="a/x.html#no"></a><script src="https://example.org/m.js"></script>'
    )
    assert check(tmp_path) == [
        "a/x.html: no anchor ../y.html#here",
        "y.html: no page or file z.html",
        "y.html: no anchor a/x.html#no",
        "y.html loads https://example.org/m.js",
    ]


DOCSTRING = """The map A^T |z| of `Dense` and its `*args`; see `no_such_name`.

| form | cost |
|---|---|
| `Dense` | O(n^2) |

Arguments:
    x, y: points, as
        `Dense` takes them.

Raises:
    ShapeError, DtypeError: x is no point.

Law:
    `f(x) == y` (Prop 2.8; laws/test_linearizer.py)

Example:
    >>> 2 * 3  # `code` stays
    6
"""


def test_a_docstring_becomes_fields_tables_and_links() -> None:
    pytest.importorskip("sphinx")
    lines = load("docstrings").restructured(DOCSTRING, "induced.checks.somewhere", None).split("\n")
    assert lines[0] == (
        r"The map A^T \|z\| of :py:obj:`Dense <induced.operators.Dense>` and its ``*args``; see ``no_such_name``."
    )
    for line in (
        ".. list-table::",
        "   * - :py:obj:`Dense <induced.operators.Dense>`",
        ":Arguments:",
        "    * **x, y**: points, as",
        "      :py:obj:`Dense <induced.operators.Dense>` takes them.",
        "    * :py:exc:`ShapeError`, :py:exc:`DtypeError`: x is no point.",
        ":Law:",
        "    ``f(x) == y`` (:doc:`Prop 2.8 </theory/linearizer>`; "
        ":download:`laws/test_linearizer.py </../proofs_tests/laws/test_linearizer.py>`)",
        "    >>> 2 * 3  # `code` stays",
        "    6",
    ):
        assert line in lines


def test_the_picture_of_the_front_page_is_drawn_and_commutes() -> None:
    figure = DOCS / "figures" / "idea.py"
    assert ast.get_docstring(ast.parse(figure.read_text(encoding="utf-8")))
    sys.path.insert(0, str(figure.parent))
    try:
        idea = importlib.import_module("idea")
    finally:
        sys.path.remove(str(figure.parent))
    assert idea.f(idea.X.point(idea.U + idea.V)).allclose(idea.Y.point(idea.f.core(idea.U) + idea.f.core(idea.V)), atol=1e-5)
    assert len(idea.draw().axes) == 4
