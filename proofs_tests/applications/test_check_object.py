"""`induced check module:object`: every law that applies, a table, and one line for each mistake."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from applications import cli
from applications.check import Checkable, check_object, table
from induced import EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator, Report
from induced.bijections import Affine, Log, Simplex
from induced.errors import DomainError
from induced.operators import Dense, Projection

ROOT = Path(__file__).resolve().parents[2]
MODULE = "charts_of_a_user"
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


CHART, SPACE, MAP, SQUARE = 4, 12, 15, 8  # laws of a chart without determinant, a space, a map, a map of one space


@pytest.mark.parametrize(
    ("name", "parts", "laws"),
    [
        ("Shear", ["chart Shear"], CHART + SPACE),
        ("shear", ["chart Shear"], CHART + SPACE),
        ("space", ["space InducedSpace(Shear(3,))"], CHART + SPACE),
        ("Twisted", ["space Twisted()"], SPACE),
        ("core", ["operator Dense"], MAP + SQUARE),
        ("wide", ["operator Dense"], MAP),
        (
            "between",
            ["domain InducedSpace(Shear(3,))", "codomain InducedSpace(Simplex(4,))", "map Linearizer"],
            2 * (CHART + SPACE) + 1 + MAP,
        ),
        ("within", ["domain InducedSpace(Shear(3,))", "map Linearizer"], CHART + SPACE + MAP + SQUARE),
    ],
)
def test_every_law_that_applies_is_checked_in_both_precisions(
    name: str, parts: list[str], laws: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command(f"{MODULE}:{name}")
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    assert [block[0] for block in blocks] == [f"{dtype}: {part}" for dtype in ("float32", "float64") for part in parts]
    assert all(block[1].split() == ["law", "statement", "residual", "tolerance", "ok", "worst", "sample"] for block in blocks)
    rows = [row for block in blocks for row in block[2:]]
    assert len(rows) == 2 * laws
    assert all("  yes" in row for row in rows)


def test_a_broken_chart_ends_in_one_line_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(f"{MODULE}:Family.broken") == f"induced: 22 of 32 laws do not hold for {MODULE}:Family.broken"
    rows = capsys.readouterr().out.splitlines()
    assert sum("  NO " in row for row in rows) == 22
    row = next(row for row in rows if row.startswith("g^-1(g(x)) = x"))
    assert re.fullmatch(r"g\^-1\(g\(x\)\) = x +Def 2.2 +\d\.\d\de[+]00 +\d\.\d\de-06  NO   \[.*, .*, .*\]", row)


def test_a_check_that_raises_is_a_row_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(f"{MODULE}:OnlyFloat32")
    assert said == f"induced: 2 of 18 laws do not hold for {MODULE}:OnlyFloat32"
    rows = capsys.readouterr().out.splitlines()
    assert sum("  yes" in row for row in rows) == 16
    failed = [row for row in rows if "  NO" in row]
    assert [row.split()[:3] for row in failed] == [
        [f"check_{what}", "raised", "RuntimeError:"] for what in ("bijection", "space")
    ]


def test_a_mistake_is_one_line(here: Path) -> None:
    for name, said in {
        "charts": "what to check is named module:object, e.g. mycharts:MyChart; got 'charts'",
        ":Shear": "what to check is named module:object, e.g. mycharts:MyChart; got ':Shear'",
        "gone:Shear": "cannot import gone: ModuleNotFoundError: No module named 'gone'",
        "fails:Shear": "cannot import fails: ZeroDivisionError: division by zero",
        f"{MODULE}:gone": f"{MODULE} ({here / MODULE}.py) has no gone",
        f"{MODULE}:Family.gone": f"{MODULE} ({here / MODULE}.py) has no Family.gone",
        f"{MODULE}:number": f"{MODULE}:number is neither a Bijection, HilbertSpace, LinearizerOperator or LinearOperator "
        "nor makes one: got int",
        f"{MODULE}:Family": f"{MODULE}:Family is neither a Bijection, HilbertSpace, LinearizerOperator or LinearOperator "
        "nor makes one: got Family",
    }.items():
        assert refusal(name) == f"induced: {said}"
    said = refusal(f"{MODULE}:needs_arguments")
    assert (
        said.startswith(f"induced: {MODULE}:needs_arguments cannot be called without arguments: TypeError: ") and "\n" not in said
    )
    assert refusal(f"{MODULE}:Shear", "--samples", 0) == "induced: --samples is at least 1, got 0"
    assert refusal(f"{MODULE}:Shear", "--radius", 0) == "induced: --radius is a finite number above 0, got 0.0"
    assert "not both" in refusal(f"{MODULE}:Shear", "--run", here)


def test_the_command_exits_with_code_1_where_a_law_does_not_hold(here: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", "from applications.cli import main; main()", "check", f"{MODULE}:Family.broken"]
    ended = subprocess.run(arguments, env=environment, cwd=here, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"induced: 22 of 32 laws do not hold for {MODULE}:Family.broken\n"
    assert "float64: chart Shear" in ended.stdout


def reports(thing: Checkable, **options: float) -> list[Report]:
    return [report for found in check_object(thing, **options).values() for report in found]  # type: ignore[arg-type]


def test_the_seed_and_the_radius_choose_the_samples_and_the_object_stays_as_it_is() -> None:
    g = Affine((3,), nn.Parameter(torch.tensor([2.0, 1.0, -1.0])))

    def worst(**options: float) -> list[list[float]]:
        return [report.worst.flatten().tolist() for report in reports(InducedSpace(g), **options) if report.worst is not None]

    assert worst(seed=1) == worst(seed=1) != worst(seed=2)
    lengths = [report.worst.norm() for report in reports(EuclideanSpace(3), samples=1, radius=0.5) if report.worst is not None]
    assert lengths and all(float(length) == pytest.approx(0.5) for length in lengths)
    assert g.scale.dtype == torch.float32


def test_a_radius_beyond_the_domain_is_said() -> None:
    found = reports(Log((2,)), radius=1e4)
    assert len(found) == 4 and all(not report.ok and "raised DomainError" in report.law for report in found)
    with pytest.raises(DomainError):
        check_object(Log((2,)), samples=-1)


def test_a_projection_is_checked_for_being_idempotent() -> None:
    X = InducedSpace(Simplex(4))
    laws = {report.law for report in reports(Linearizer(Projection(torch.tensor([1.0, 0.0, 1.0])), X)) if report.ok}
    assert "f(f(x)) = f(x)" in laws
    assert "f(f(x)) = f(x)" not in {report.law for report in reports(Linearizer(Dense(torch.eye(3)), X))}


def test_the_table_tells_what_is_wrong_from_what_cannot_be_judged() -> None:
    lines = table(
        [
            Report("fine", "eq. 1", 0.0, 1e-6, torch.ones(2)),
            Report("wrong", "eq. 2", 1.0, 1e-6, torch.ones(2, 3)),
            Report("unclear", "eq. 3", 0.1, 1.0),
        ]
    ).splitlines()
    assert [line.split()[5] for line in lines[1:]] == ["yes", "NO", "?"]
    assert [line.split("  ")[-1].strip() for line in lines[1:]] == ["[1, 1]", "[1, 1, 1, 1, ...] (2, 3)", "?"]
    assert "too ill-conditioned" not in table([Report("fine", "eq. 1", 0.0, 1e-6)])


@pytest.mark.parametrize(
    "derive", [lambda f: f.H, lambda f: f.pinv(), lambda f: 2 * f, lambda f: f @ f], ids=["H", "pinv", "2f", "ff"]
)
def test_what_is_derived_from_a_map_that_trains_is_checked(derive: Callable[[LinearizerOperator], LinearizerOperator]) -> None:
    f = derive(Linearizer(nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), EuclideanSpace(2)))
    assert all(report.ok for reports in check_object(f, samples=3).values() for report in reports)
