"""Tables of numbers: csv, npy and npz files of your own, and two that need no file."""

import csv
import io
import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from applications.common.data.idx import load_mnist5k
from applications.common.data.npz import read_npz
from induced.errors import DataError, ShapeError

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".npy", ".npz")
LEAST: Final = 50
"""Fewest rows that a model is trained on."""
HELD_OUT: Final = 5
"""One row in so many is held out, chosen by a permutation that depends on the number of rows alone."""
_SHOWN: Final = 5


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers under named columns.

    Arguments:
        name: What reports call it.
        columns: Names of the n columns, each once.
        rows: float64, (N, n), finite.

    Raises:
        ShapeError: rows and columns do not fit each other.
        DataError: a name occurs twice, or a value is not finite.
    """

    name: str
    columns: tuple[str, ...]
    rows: Tensor

    def __post_init__(self) -> None:
        """Refuse what is no table of numbers."""
        if self.rows.ndim != 2 or self.rows.shape[1] != len(self.columns):
            raise ShapeError(
                f"{self.name}: {len(self.columns)} columns need as many numbers a row, got rows of shape {tuple(self.rows.shape)}"
            )
        if twice := sorted({column for column in self.columns if self.columns.count(column) > 1}):
            raise DataError(f"{self.name}: more than one column is called {', '.join(map(repr, twice))}; give each its own name")
        if (bad := ~self.rows.isfinite().numpy()).any():
            raise DataError(
                _missing(self.name, self.columns, bad, "a missing value (NaN) or an infinite one", np.arange(len(bad)), "row")
            )

    def take(self, columns: Sequence[str]) -> "Table":
        """The table of some columns, in the order given; all of them where none is given.

        Raises:
            DataError: there is no such column.
        """
        if unknown := [column for column in columns if column not in self.columns]:
            raise DataError(f"{self.name}: there is no column {unknown[0]!r}; there are {', '.join(self.columns)}")
        chosen = tuple(columns) or self.columns
        return replace(self, columns=chosen, rows=self.rows[:, [self.columns.index(column) for column in chosen]])

    def constant(self) -> tuple[int, ...]:
        """Numbers of the columns with one value in all rows."""
        return tuple(int(i) for i in (self.rows == self.rows[:1]).all(0).nonzero().flatten())

    def discrete(self) -> dict[str, int]:
        """How many values each column takes that varies, but takes each of them ten times in the mean; 100 values at most."""
        counts = [len(column.unique()) for column in self.rows.T]
        most = min(100, len(self.rows) // 10)
        return {name: count for name, count in zip(self.columns, counts, strict=True) if 1 < count <= most}

    def require(self) -> None:
        """Refuse a table that no distribution can be learned from.

        Raises:
            DataError: fewer rows than `LEAST`, or fewer than two columns that vary.
        """
        if len(self.rows) < LEAST:
            raise DataError(f"{self.name} has {len(self.rows)} rows: at least {LEAST} are needed to learn a distribution from")
        fixed = [self.columns[i] for i in self.constant()]
        if len(self.columns) - len(fixed) < 2:
            but = f" ({', '.join(fixed)} never vary)" if fixed else ""
            raise DataError(
                f"{self.name} has {len(self.columns)} column{'s' * (len(self.columns) != 1)}{but}: at least two that vary are "
                "needed, since a chart changes some columns by the others. For a single one, its quantiles are a sampler"
            )

    def split(self, one_in: int = HELD_OUT) -> tuple["Table", "Table"]:
        """The rows to train on, and those held out, one in so many; in random order, since many tables are sorted."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(0))
        held_out = len(self.rows) // one_in
        return replace(self, rows=self.rows[order[held_out:]]), replace(self, rows=self.rows[order[:held_out]])


def two_moons(n: int = 10_000, noise: float = 0.05, seed: int = 0) -> Table:
    """Two interleaved half circles in the plane, with normal noise."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    side = torch.arange(n) % 2
    x = torch.where(side == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(side == 0, angle.sin(), 0.5 - angle.sin())
    rows = torch.stack([x, y], -1) + noise * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return Table("two-moons", ("x", "y"), rows)


@cache
def digit_scores(count: int = 8) -> Table:
    """The first principal components of the embedded digits, 4,500, pixels in [0, 1]; each has the sign of its largest entry."""
    pixels = load_mnist5k("train").images.flatten(1).double() / 255
    centred = pixels - pixels.mean(0)
    axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)[:, :count]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return Table("digit-scores", tuple(f"pc{k + 1}" for k in range(count)), centred @ axes)


EXAMPLES: Final[dict[str, Callable[[], Table]]] = {"two-moons": two_moons, "digit-scores": digit_scores}
"""Tables that need no file."""


def is_table(name: str) -> bool:
    """Whether a data set of this name is a table: one of `EXAMPLES`, or a file with one of `SUFFIXES`."""
    return name in EXAMPLES or Path(name).suffix.lower() in SUFFIXES


def load_table(name: str, columns: Sequence[str] = ()) -> Table:
    """An example, or a table from a file: csv (also with tabs or semicolons), npy, or npz.

    The first line of a csv file is its header unless all its cells are numbers. An npz file holds one matrix (N, n), or
    vectors (N,) whose names are the columns. Columns without a name are called x1, x2, ...

    Arguments:
        name: One of `EXAMPLES`, or the path of a file.
        columns: The columns to take; all if none.

    Raises:
        DataError: there is no such file, or it is damaged; a cell is text, missing or not finite; no such column.
    """
    if name in EXAMPLES:
        return EXAMPLES[name]().take(columns)
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: a table ends in {', '.join(SUFFIXES)}; or is one of {', '.join(EXAMPLES)}")
    if not os.path.isfile(path):  # false, not an error, where no file can be called so
        raise DataError(f"{path}: there is no such file")
    if path.suffix.lower() in (".npy", ".npz"):
        return _from_numpy(path).take(columns)
    return _from_text(path, columns)


def as_table(rows: object, name: str = "rows") -> Table:
    """A table of a tensor, an array, or nested lists (N, n) of numbers.

    Raises:
        ShapeError: it is no matrix.
        DataError: it holds no numbers, or one that is not finite.
    """
    try:
        # bfloat16 is no dtype of NumPy's, and float64 holds each number of it
        array = rows.detach().cpu().double().numpy() if isinstance(rows, Tensor) and not rows.is_complex() else np.asarray(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: cannot be read as an array of numbers ({error})") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected real numbers, got an array of {array.dtype}")
    if array.ndim != 2:
        raise ShapeError(f"{name}: expected a matrix (N, n), one row a sample, got shape {array.shape}")
    return Table(name, _numbered(array.shape[1]), torch.from_numpy(array.astype(np.float64)))


def csv_text(columns: Sequence[str], rows: Tensor) -> str:
    """A csv file's text: a header, and rows (N, n) with as many digits as tell their numbers from all others of their dtype."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([str(value) for value in row] for row in rows.cpu().numpy())
    return text.getvalue()


def _from_text(path: Path, columns: Sequence[str]) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    first = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is no csv ({error})") from error
    if not lines:
        raise DataError(f"{path}: is empty")
    headed = any(_number(cell) is None and cell for cell in lines[0][1])
    header = tuple(cell or f"x{k + 1}" for k, cell in enumerate(lines[0][1]))  # pandas leaves that of an index empty
    names, body = (header, lines[1:]) if headed else (_numbered(len(lines[0][1])), lines)
    for line, cells in body:
        if len(cells) != len(names):
            count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
            raise DataError(f"{path}, line {line}: has {count}, expected {len(names)}, one for each of {', '.join(names)}")
    named = Table(str(path), names, torch.zeros(0, len(names), dtype=torch.float64)).take(columns)
    wanted = [(names.index(name), name) for name in named.columns]
    for line, cells in body:
        if words := [(cells[i], name) for i, name in wanted if not _is_number(cells[i])]:
            word, name = words[0]
            remedy = _remedy(word, names, [cells for _, cells in body])
            raise DataError(f"{path}, line {line}: column {name!r} holds text, {word!r}; expected a number. {remedy}")
    values = np.array([[_number(cells[i]) for i, _ in wanted] for _, cells in body], np.float64).reshape(-1, len(wanted))
    if (bad := ~np.isfinite(values)).any():
        lines_of = np.array([line for line, _ in body])
        raise DataError(_missing(str(path), named.columns, bad, "no number, or an infinite one,", lines_of, "line"))
    return replace(named, rows=torch.from_numpy(values))


def _remedy(cell: str, names: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """What to do about a cell of text: decimals with a point, or the columns that hold numbers alone."""
    if _number(cell.replace(",", ".")) is not None:
        return "Write decimals with a point"
    some = [name for i, name in enumerate(names) if all(_is_number(cells[i]) for cells in body)]
    others = f", or take other columns: --columns {shlex.join(some[:_SHOWN])}{' ...' * (len(some) > _SHOWN)}" if some else ""
    return f"Code it as numbers{others}"


_ABSENT: Final = ("", "na", "n/a", "nan", "null", "none", "?", "-")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number, or says that there is none."""
    return _number(cell) is not None or cell.lower() in _ABSENT


def _from_numpy(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            is_npz = path.suffix.lower() == ".npz"
            arrays = read_npz(path) if is_npz else {"": np.lib.format.read_array(file, allow_pickle=False)}
    except (OSError, ValueError, EOFError, MemoryError) as error:
        # numpy's own words for what is no array advise to unpickle it
        why = "it is damaged, too large, no .npy or .npz file, or holds objects: write numbers with numpy.save"
        raise DataError(f"{path}: cannot be read as an array of numbers; {why}") from error
    if len(arrays) == 1 and (array := next(iter(arrays.values()))).ndim == 2:
        return as_table(array, str(path))
    shapes = {name: array.shape for name, array in arrays.items()}
    if "" in arrays or any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise DataError(
            f"{path}: expected one matrix (N, n), or in an npz vectors (N,) whose names are the columns; got the shapes {shapes}"
        )
    if text := [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]:
        raise DataError(f"{path}: column {text[0]!r} holds {arrays[text[0]].dtype}, expected real numbers")
    rows = np.stack([array.astype(np.float64) for array in arrays.values()], 1)
    return Table(str(path), tuple(arrays), torch.from_numpy(rows))


def _numbered(n: int) -> tuple[str, ...]:
    return tuple(f"x{k + 1}" for k in range(n))


def _missing(name: str, columns: Sequence[str], bad: np.ndarray, what: str, numbers: np.ndarray, unit: str) -> str:
    """What to say of cells that are no finite numbers: where they are, and what to do."""
    where = numbers[bad.any(1)]
    shown = f"{unit}{'s' * (len(where) > 1)} " + ", ".join(map(str, where[:_SHOWN])) + (" ..." if len(where) > _SHOWN else "")
    held = ", ".join(np.array(columns)[bad.any(0)])
    return (
        f"{name}: {len(where)} of {len(bad)} rows hold {what} in {held} ({shown}): leave these rows out, "
        "fill them in, or take other columns (--columns)"
    )
