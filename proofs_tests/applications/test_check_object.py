"""`induced check module:object`: every law that applies, a table, and one line for each mistake."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from applications import cli

ROOT = Path(__file__).resolve().parents[2]
MODULE = "charts_of_a_user"
KINDS = "a Bijection, a HilbertSpace, a LinearizerOperator or a LinearOperator"
SOURCE = """
import torch
from torch import nn
from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer
from induced.bijections import Bijection, Simplex
from induced.operators import Dense

class Shear(Bijection):
    def __init__(self, dim=3, sign=-1.0):
        super().__init__((dim,))
        self.curl, self.sign = nn.Parameter(torch.tensor(0.5)), sign

    def forward(self, x):
        return torch.cat([x[..., :1], x[..., 1:] + self.curl * x[..., :1] ** 2], -1)

    def inverse(self, z):
        return torch.cat([z[..., :1], z[..., 1:] + self.sign * self.curl * z[..., :1] ** 2], -1)

class OnlyFloat32(Shear):
    def inverse(self, z):
        return super().inverse(z @ torch.eye(3))

class Twisted(HilbertSpace):
    def __init__(self):
        super().__init__((2,), 2)

    def coords(self, x):
        return x.sinh()

    def point(self, z):
        return z.asinh()

class Family:
    broken = staticmethod(lambda: Shear(sign=1.0))

def needs_arguments(dim):
    return Shear(dim)

shear, space, twisted = Shear(), InducedSpace(Shear()), Twisted()
core = Dense(torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.5, -0.5], [0.3, 0.0, 1.0]]))
wide = Dense(torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.5, -0.5]]))
between = Linearizer(core, space, InducedSpace(Simplex(4)))
within = Linearizer(core / 2, space)
number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a user's module in it, as the current directory."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "fails.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop(MODULE, None)


def command(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["induced", "check", *map(str, arguments)])
        cli.main()


def refusal(*arguments: object) -> str:
    """What the command says that ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert isinstance(end.value.code, str), "a text ends a process with code 1 on stderr"
    return end.value.code


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Shear", ["chart Shear", "space InducedSpace(Shear(3,))"]),
        ("space", ["chart Shear", "space InducedSpace(Shear(3,))"]),
        ("Twisted", ["coordinates of Twisted()", "space Twisted()"]),
        ("core", ["operator Dense"]),
        ("within", ["domain: chart Shear", "domain: space InducedSpace(Shear(3,))", "map Linearizer"]),
    ],
)
def test_a_table_for_each_part_in_both_precisions(name: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command(f"{MODULE}:{name}", "--n", 4)
    *blocks, summary = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    assert [block[0] for block in blocks] == [f"{dtype}: {part}" for dtype in ("float32", "float64") for part in parts]
    assert all(block[1].split() == ["law", "statement", "residual", "tolerance", "verdict"] for block in blocks)
    assert re.fullmatch(r"(\d+) laws judged: \1 hold, 0 violated; 0 unjudgeable, \d+ not applicable\n?", summary[0])


def test_a_broken_chart_ends_in_one_line_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(f"{MODULE}:Family.broken")
    printed = capsys.readouterr().out
    assert said == f"induced: {MODULE}:Family.broken: {printed.splitlines()[-1]}"
    violated = re.search(r"hold, (\d+) violated", said)
    assert violated is not None and int(violated[1]) == printed.count("VIOLATED") > 10
    assert re.search(
        r"^g\^-1\(g\(x\)\) = x +Def 2.2 +\d\.\d\de[+]00 +\d\.\d\de-0[67] +VIOLATED\s+at \[.*, .*, .*\]$", printed, re.MULTILINE
    )


def test_a_check_that_raises_is_a_row_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    refusal(f"{MODULE}:OnlyFloat32")
    single, double = capsys.readouterr().out.split("float64: chart OnlyFloat32")
    assert "VIOLATED" not in single
    rows = double.splitlines()
    assert "VIOLATED" in next(row for row in rows if row.startswith("check_bijection"))
    assert "VIOLATED" in next(row for row in rows if row.startswith("check_space"))
    assert "raised RuntimeError: expected m" in double


def test_a_mistake_is_one_line(here: Path) -> None:
    for name, said in {
        "charts": "name what to check as module:object, for example mycharts:MyChart; got 'charts'",
        ":Shear": "name what to check as module:object, for example mycharts:MyChart; got ':Shear'",
        "gone:Shear": "cannot import gone: ModuleNotFoundError: No module named 'gone'",
        "fails:Shear": "cannot import fails: ZeroDivisionError: division by zero",
        f"{MODULE}:gone": f"{MODULE} ({here / MODULE}.py) has no gone",
        f"{MODULE}:Family.gone": f"{MODULE} ({here / MODULE}.py) has no Family.gone",
        f"{MODULE}:number": f"{MODULE}:number should be, or make, {KINDS}; it is of the type int",
        f"{MODULE}:Family": f"{MODULE}:Family should be, or make, {KINDS}; it is of the type Family",
    }.items():
        assert refusal(name) == f"induced: {said}"
    said = refusal(f"{MODULE}:needs_arguments")
    assert (
        said.startswith(f"induced: {MODULE}:needs_arguments cannot be called without arguments: TypeError: ") and "\n" not in said
    )
    assert refusal(f"{MODULE}:Shear", "--radius", 0) == "induced: the radius of the samples is a finite number above 0, got 0.0"
    assert "not both" in refusal(f"{MODULE}:Shear", "--run", here)


def test_the_command_exits_with_code_1_where_a_law_does_not_hold(here: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", "from applications.cli import main; main()", "check", f"{MODULE}:Family.broken"]
    ended = subprocess.run(arguments, env=environment, cwd=here, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(rf"induced: {MODULE}:Family.broken: \d+ laws judged: .*\n", ended.stderr)
    assert "float64: chart Shear" in ended.stdout
