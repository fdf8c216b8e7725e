"""The shape of the library: who imports whom, what is final, and that what docstrings promise exists."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import induced
from induced import errors

ROOT = Path(induced.__file__).parent
TESTS = Path(__file__).parents[1]
MODULES = sorted(ROOT.rglob("*.py"))

# errors <- operators <- {propagators, bijections <- spaces <- subspaces <- linearizer} <- the rest <- applications
LAYERS = {
    "errors": 0,
    "_module": 1,
    "_registry": 1,
    "_validate": 1,
    "_numerics": 2,
    "operators": 3,
    "propagators": 4,
    "bijections": 4,
    "spaces": 5,
    "subspaces": 6,
    "serialization": 7,
    "spectrum": 7,
    "hub": 8,
    "linearizer": 8,
    "fitting": 9,
    "checks": 9,
    "export": 9,
    "plot": 9,
    "strategies": 10,
    "__init__": 11,
    "__main__": 12,
}
EXTRAS = (
    *("accelerate", "tyro", "tqdm", "tensorboard", "matplotlib", "PIL", "mlxtend", "hypothesis", "sympy", "pytest"),
    "huggingface_hub",
    *("applications", "proofs_tests", "benchmarks", "experiments"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Each import statement with the full name of a module that it imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield node, node.module or ""


modules = pytest.mark.parametrize("path", MODULES, ids=module_name)


@modules
def test_imports_go_in_one_direction(path: Path) -> None:
    mine = LAYERS[layer(path)]
    for node, name in imports(path):
        parts = name.split(".")
        assert parts[0] not in {"applications", "proofs_tests", "benchmarks", "experiments"}
        if parts[0] == "induced":
            theirs = parts[1] if len(parts) > 1 else "__init__"
            assert LAYERS[theirs] < mine or theirs == layer(path), f"{path.name}:{node.lineno} imports {name}"
            assert theirs != "__init__", f"{path.name}:{node.lineno} imports the package from inside it"


def test_the_direction_test_sees_a_wrong_import() -> None:
    assert LAYERS["linearizer"] > LAYERS["spaces"] > LAYERS["bijections"] > LAYERS["operators"] > LAYERS["errors"]
    assert LAYERS["serialization"] > LAYERS["propagators"] > LAYERS["operators"]
    assert {layer(path) for path in MODULES} <= set(LAYERS)
    assert any(name == "induced.operators" for _, name in imports(ROOT / "linearizer.py"))


@modules
def test_no_import_stands_inside_a_function(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"{path.name}:{inner[0].lineno} imports inside a function"


@modules
def test_modules_stay_under_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400


@modules
def test_modules_state_their_subject(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def exported() -> list[type]:
    """The classes that some package of the library exports by name."""
    names = {
        (name, getattr(module, name))
        for module in (importlib.import_module(module_name(path)) for path in MODULES)
        for name in getattr(module, "__all__", ())
        if inspect.isclass(getattr(module, name))
    }
    return [cls for _, cls in sorted(names, key=lambda pair: pair[0]) if not issubclass(cls, Exception)]


@pytest.mark.parametrize("cls", exported(), ids=lambda cls: cls.__name__)
def test_a_public_class_is_abstract_or_final(cls: type) -> None:
    final = "__final__" in vars(cls)
    assert inspect.isabstract(cls) != final


@pytest.mark.parametrize("cls", exported(), ids=lambda cls: cls.__name__)
def test_a_public_class_says_what_it_is(cls: type) -> None:
    assert vars(cls).get("__doc__")


def test_exported_names_exist_and_are_sorted() -> None:
    for path in MODULES:
        module = importlib.import_module(module_name(path))
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.{name}"


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", path.name), text


def test_every_law_names_a_test_that_exists() -> None:
    laws = [(path.name, name, text) for path in MODULES for name, text in docstrings(path) if re.search(r"^Law:$", text, re.M)]
    assert laws
    for module, name, text in laws:
        files = re.findall(r"\w+/test_\w+\.py", text.partition("Law:")[2])
        assert files, f"the law of {module}:{name} names no test"
        for file in files:
            assert (TESTS / file).is_file(), f"the law of {module}:{name} names {file}"


def test_every_kind_of_error_is_raised_by_a_test() -> None:
    kinds = {name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, errors.InducedError)}
    raised: set[str] = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            # pytest.raises(Kind, ...), or the tables of units
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in {"pytest.raises", "Case"}:
                raised |= {n.id for n in ast.walk(node.args[0]) if isinstance(n, ast.Name)}
    assert kinds <= raised, f"no test raises {sorted(kinds - raised)}"


IMPORT_WITHOUT_EXTRAS = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
import induced
from induced.bijections import Log
X = induced.InducedSpace(Log((1,)))
print(X.zero().item())
"""


def test_the_library_imports_and_runs_without_any_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_EXTRAS], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.0"
    blocked = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_EXTRAS.replace("import induced", "import pytest", 1)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "blocked: pytest" in blocked.stderr


@modules
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    assert doctest.testmod(importlib.import_module(module_name(path))).failed == 0


def test_there_are_examples_in_docstrings() -> None:
    found = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(t.examples) for path in MODULES for t in found.find(importlib.import_module(module_name(path)))) >= 5
