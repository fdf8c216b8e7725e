"""The shape of the library: who imports whom, what is final, and that what docstrings promise exists."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
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
    "precision": 1,
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

HOUSE = ROOT.parent
ROOMS = {
    "applications": {"induced"},
    "benchmarks": {"induced"},
    "experiments": {"induced", "applications", "benchmarks"},
    "tools": {"induced"},
    "proofs_tests": {"induced", "applications", "benchmarks", "experiments"},
}
"""The rooms beside the library, and whom each imports."""
OUTSIDE = sorted(path for room in ROOMS for path in (HOUSE / room).rglob("*.py"))

# the record <- common <- each application, none of which imports another <- the command
FLOORS = {"application": 0, "common": 1, "info": 2, "flow_matching": 2, "idempotent": 2, "style_transfer": 2}
FLOORS |= {"commands": 3, "cli": 4, "__main__": 5}

OF_EXTRAS = {"FrEIA", "mlxtend", "nflows", "onnxruntime", "sklearn", "tyro"}
"""What a function may import: a package of an optional extra that little needs, or that takes long."""

OF_OTHERS = {"_C", "_dynamo", "_embedding_net", "_exit", "_functorch", "_replace", "_repr_html_", "_transform", "_version"}
OF_OTHERS |= {"_buffers", "_getframe", "_make_wrapper_subclass", "_modules", "_parameters"}
OF_OTHERS |= {"_get_fp32_precision_getter", "_set_fp32_precision_setter", "_setup_privateuseone_for_python_backend"}
"""Names with an underscore that Python, torch, IPython or nflows have."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom | ast.Call, str]]:
    """Each import statement, or call that imports, with the full name of a module that it imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
            yield from ((node, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield node, node.module or ""


modules = pytest.mark.parametrize("path", MODULES, ids=module_name)
everywhere = pytest.mark.parametrize("path", [*MODULES, *OUTSIDE], ids=module_name)


@pytest.mark.fast
@modules
def test_imports_go_in_one_direction(path: Path) -> None:
    mine = LAYERS[layer(path)]
    for node, name in imports(path):
        parts = name.split(".")
        assert parts[0] not in ROOMS or layer(path) == "__main__"  # `python -m induced`, where the applications are installed
        if parts[0] == "induced":
            theirs = parts[1] if len(parts) > 1 else "__init__"
            assert LAYERS[theirs] < mine or theirs == layer(path), f"{path.name}:{node.lineno} imports {name}"
            assert theirs != "__init__", f"{path.name}:{node.lineno} imports the package from inside it"


def test_the_direction_test_sees_a_wrong_import() -> None:
    assert LAYERS["linearizer"] > LAYERS["spaces"] > LAYERS["bijections"] > LAYERS["operators"] > LAYERS["errors"]
    assert LAYERS["serialization"] > LAYERS["propagators"] > LAYERS["operators"]
    assert {layer(path) for path in MODULES} <= set(LAYERS)
    assert any(name == "induced.operators" for _, name in imports(ROOT / "linearizer.py"))


@pytest.mark.fast
@pytest.mark.parametrize("path", OUTSIDE, ids=module_name)
def test_rooms_import_the_library_and_one_another_in_one_direction(path: Path) -> None:
    room, *inner = path.relative_to(HOUSE).with_suffix("").parts
    for node, name in imports(path):
        theirs, *rest = name.split(".")
        assert theirs == room or theirs not in ROOMS or theirs in ROOMS[room], f"{path.name}:{node.lineno} imports {name}"
        if theirs == room == "applications":
            there = rest[:1] or [alias.name for alias in getattr(node, "names", ())]  # from applications import cli
            higher = [one for one in there if one != inner[0] and FLOORS[one] >= FLOORS[inner[0]]]
            assert not higher, f"{path.relative_to(HOUSE)}:{node.lineno} imports {higher} of {name}"


def test_each_floor_of_applications_has_its_place() -> None:
    assert {path.stem for path in (HOUSE / "applications").iterdir()} - {"__init__", "__pycache__"} == set(FLOORS)


def late(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and package of each import inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in inner.names] if isinstance(inner, ast.Import) else [inner.module or ""]
                    yield from ((inner.lineno, name.partition(".")[0]) for name in names)


@pytest.mark.fast
@everywhere
def test_no_import_stands_inside_a_function(path: Path) -> None:
    allowed = OF_EXTRAS if path in OUTSIDE else set()
    found = [f"{path.name}:{line} imports {name}" for line, name in late(parsed(path)) if name not in allowed]
    assert not found, "inside a function"


def borrowed(tree: ast.AST, *, modules_too: bool) -> Iterator[tuple[int, str]]:
    """Line and name of each `_name` of another module that is imported or, where no class here has it, asked for."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    set_here = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    own |= {node.attr for node in set_here if ast.unparse(node.value) == "self"}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("torch."):
            names = [alias.name for alias in node.names] + (node.module or "").split(".") * modules_too
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")] if modules_too else []
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in {"self", "cls", "super()"}:
            names = [node.attr] if node.attr not in own | OF_OTHERS else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            constants = [str(name.value) for name in node.args[1:2] if isinstance(name, ast.Constant)]
            names = [name for name in constants if name not in own | OF_OTHERS]
        yield from ((getattr(node, "lineno", 0), name) for name in names if name.startswith("_") and not name.startswith("__"))


@pytest.mark.fast
@pytest.mark.parametrize("path", OUTSIDE, ids=module_name)
def test_no_name_with_an_underscore_crosses_a_module(path: Path) -> None:
    """Tests may import a private module of the library, which is their subject, and nothing private out of it."""
    found = list(borrowed(parsed(path), modules_too="proofs_tests" not in path.parts))
    assert not found, f"{path.name}: {found}"


@modules
def test_the_library_imports_no_name_with_an_underscore(path: Path) -> None:
    own = [node for node, name in imports(path) if isinstance(node, ast.ImportFrom) and name.startswith("induced")]
    assert not [alias.name for node in own for alias in node.names if alias.name.startswith("_")]


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from induced._registry import named", ["_registry"]),
        ("from induced.propagators.propagate import _product", ["_product"]),
        ("import induced._numerics", ["_numerics"]),
        ("chart._parts()", ["_parts"]),
        ("self._parts(); torch._dynamo; x.__dict__", []),
        ("class A:\n  def _mine(self): ...\nA()._mine()", []),
        ("class A:\n  def __init__(self): self._mine = 1\nA()._mine", []),
        ("chart._parts = 1", ["_parts"]),
        ("getattr(chart, '_parts')", ["_parts"]),
    ],
)
def test_the_test_of_underscores_sees_them(code: str, names: list[str]) -> None:
    assert [name for _, name in borrowed(ast.parse(code), modules_too=True)] == names


TABLES = {TESTS / "statements.py", TESTS / "registry.py"}
"""One list each, whose rows are read side by side: every statement, and what every law is tried on."""


@pytest.mark.fast
@pytest.mark.parametrize("path", [path for path in (*MODULES, *OUTSIDE) if path not in TABLES], ids=module_name)
def test_modules_stay_under_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@everywhere
def test_modules_state_their_subject(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


PATIENCE = 600
"""Seconds that a test gives a process that it started, at least: a busy machine takes a hundred times as long as an idle one."""


def waits(tree: ast.AST) -> Iterator[tuple[int, float]]:
    """Line and seconds of each limit: `timeout=`, `join(s)`, `wait(s)`, `time.monotonic() + s`."""

    def limit(node: ast.AST | None) -> Iterator[float]:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node.value

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
            if isinstance(node.func, ast.Attribute) and node.func.attr in {"join", "wait", "communicate", "result"}:
                given += node.args[:1]
            yield from ((node.lineno, seconds) for value in given for seconds in limit(value))
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) in {"time.monotonic()", "time.time()", "time.perf_counter()"}:
            yield from ((node.lineno, seconds) for seconds in limit(node.right))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=module_name)
def test_no_test_ends_a_process_before_ten_minutes(path: Path) -> None:
    assert not [line for line, seconds in waits(parsed(path)) if seconds < PATIENCE]


def test_the_test_of_limits_sees_them() -> None:
    code = "run(x, timeout=100)\np.join(20)\np.join()\n', '.join(x)\nend = time.monotonic() + 60\nrun(timeout=t, x=5)"
    assert list(waits(ast.parse(code))) == [(1, 100), (2, 20), (5, 60)]


def exported() -> list[type]:
    """The classes that some package of the library exports by name."""
    names = {
        (name, getattr(module, name))
        for module in (importlib.import_module(module_name(path)) for path in MODULES)
        for name in getattr(module, "__all__", ())
        if inspect.isclass(getattr(module, name))
    }
    return [cls for _, cls in sorted(names, key=lambda pair: pair[0]) if not issubclass(cls, Exception)]


@pytest.mark.fast
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
    for node in ast.walk(parsed(path)):
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


@pytest.mark.fast
def test_every_kind_of_error_is_raised_by_a_test() -> None:
    kinds = {name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, errors.InducedError)}
    raised: set[str] = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(parsed(path)):
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
