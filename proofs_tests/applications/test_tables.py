"""Tables: what a file may hold, read right or refused with where and what to do; constant columns, splits and csv text."""

from pathlib import Path

import numpy as np
import pytest
import torch

from applications.common.data.table import EXAMPLES, Table, as_table, csv_text, is_table, load_table, two_moons
from induced.errors import DataError, ShapeError

ROWS = np.array([[1.5, -2.0], [3.0, 4e-3], [0.1, 5.0]])


def written(tmp_path: Path, text: str, name: str = "table.csv", encoding: str = "utf-8") -> str:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\n1.5,-2\n3,4e-3\n0.1,5\n", ("a", "b")),
        ("1.5,-2\n3,4e-3\n0.1,5\n", ("x1", "x2")),
        ('\ufeff"width, mm";b\r\n1.5; -2\r\n3;0.004\r\n\r\n0.1;5\r\n', ("width, mm", "b")),
        ("a\tb\n1.5\t-2\n3\t4E-3\n.1\t5.", ("a", "b")),
    ],
)
def test_a_csv_is_read_with_or_without_header_and_by_its_own_delimiter(
    tmp_path: Path, text: str, columns: tuple[str, ...]
) -> None:
    found = load_table(written(tmp_path, text))
    assert found.columns == columns and np.array_equal(found.rows.numpy(), ROWS)


def test_npy_and_npz_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS.astype(np.float32))
    assert np.array_equal(load_table(str(tmp_path / "rows.npy")).rows.numpy(), ROWS.astype(np.float32))
    np.savez(tmp_path / "one.npz", anything=ROWS)
    assert np.array_equal(load_table(str(tmp_path / "one.npz")).rows.numpy(), ROWS)
    np.savez(tmp_path / "named.npz", b=ROWS[:, 1], a=ROWS[:, 0].astype(int))
    found = load_table(str(tmp_path / "named.npz"), ["a"])
    assert found.columns == ("a",) and found.rows.flatten().tolist() == [1, 3, 0]


def test_columns_are_taken_in_the_order_given_and_text_elsewhere_does_not_matter(tmp_path: Path) -> None:
    name = written(tmp_path, "a,species,b\n1.5,setosa,-2\n3,,4e-3\n0.1,virginica,5\n")
    found = load_table(name, ["b", "a"])
    assert found.columns == ("b", "a") and np.array_equal(found.rows.numpy(), ROWS[:, ::-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,kind,b\n1,x,2\n", r"line 2: column 'kind' holds text, 'x'; expected a number. Code it as numbers, .* --columns a b$"),
        ("a,b c,d e\n1,2,3\n3,x,nan\n", "line 3: column 'b c' holds text, 'x'; .* --columns a 'd e'$"),
        ("a\n1\nx\n", "line 3: column 'a' holds text, 'x'; expected a number. Code it as numbers$"),
        ("a;b\n1;0,5\n", "line 2: column 'b' holds text, '0,5'; expected a number. Write decimals with a point$"),
        ("a,b\n1,2\n3\n", "line 3: has 1 cell, expected 2, one for each of a, b"),
        ("a,b\n1,2\n,3\n4,NaN\n5,inf\n", r"3 of 4 rows hold no number, .* in a, b \(lines 3, 4, 5\): leave these rows out, fill"),
        ("a,b\n1,?\n2,NA\n3,null\n4,none\n5,n/a\n6,-\n", r"6 of 6 rows .* in b \(lines 2, 3, 4, 5, 6 ...\)"),
        (",b\n,1\n", r"1 of 1 rows .* in x1 \(line 2\)"),
        ("a,a\n1,2\n", "more than one column is called 'a'; give each its own name"),
        ('a,b\n1,"2\n', r"line 2: is no csv \(unexpected end of data\)"),
    ],
)
def test_a_csv_that_is_no_table_of_numbers_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(written(tmp_path, text))


def test_other_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: there is no such file"):
        load_table(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match=r"a table ends in .csv, .tsv, .txt, .npy, .npz; or is one of two-moons, digit-scores"):
        load_table("table.parquet")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        load_table(written(tmp_path, "größe,b\n1,2\n", encoding="latin-1"))
    with pytest.raises(DataError, match="there is no column 'c'; there are a, b"):
        load_table(written(tmp_path, "a,b\n1,2\n"), ["c"])
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes((tmp_path / "objects.npy").read_bytes()[:20])
    (tmp_path / "vast.npy").write_bytes(
        b"\x93NUMPY\1\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 10000000)}" + b" " * 52
    )
    np.savez(tmp_path / "whole.npz", a=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-9])
    (tmp_path / "flipped.npz").write_bytes((tmp_path / "whole.npz").read_bytes().replace(bytes(24), bytes(23) + b"1"))
    for name in ("objects.npy", "short.npy", "vast.npy", "cut.npz", "flipped.npz"):
        with pytest.raises(
            DataError, match=f"{name}: cannot be read as an array of numbers; it is damaged, .*: write numbers with numpy.save$"
        ):
            load_table(str(tmp_path / name))
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.savez(tmp_path / "lengths.npz", a=np.zeros(3), b=np.zeros(4))
    for name, shapes in (("cube.npy", r"\(2, 2, 2\)"), ("lengths.npz", r"'a': \(3,\), 'b': \(4,\)")):
        with pytest.raises(DataError, match=f"expected one matrix .* got the shapes .*{shapes}"):
            load_table(str(tmp_path / name))
    with pytest.raises(DataError, match="nnn.csv: there is no such file"):
        load_table("n" * 300 + ".csv")
    np.savez(tmp_path / "text.npz", a=np.zeros(3), b=np.array(["x", "y", "z"]))
    with pytest.raises(DataError, match="column 'b' holds <U1, expected real numbers"):
        load_table(str(tmp_path / "text.npz"))


def test_what_is_no_matrix_of_numbers_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected a matrix \(N, n\), one row a sample, got shape \(5,\)"):
        as_table(torch.zeros(5))
    for odd in ([[1.0], [1.0, 2.0]], torch.eye(3).to_sparse(), torch.zeros(3, 2, device="meta")):
        with pytest.raises(DataError, match="rows: cannot be read as an array of numbers"):
            as_table(odd)
    assert torch.equal(as_table(torch.full((2, 2), 1.5, dtype=torch.bfloat16)).rows, torch.full((2, 2), 1.5).double())
    for wrong in (np.zeros((3, 2), complex), [["a", "b"]], [[None, 1.0]]):
        with pytest.raises(DataError, match="expected real numbers, got an array of"):
            as_table(wrong)
    with pytest.raises(DataError, match=r"1 of 2 rows hold a missing value \(NaN\) or an infinite one in x2 \(row 1\)"):
        as_table([[1.0, 2.0], [3.0, float("nan")]])
    with pytest.raises(ShapeError, match=r"2 columns need as many numbers a row, got rows of shape \(3, 1\)"):
        Table("t", ("a", "b"), torch.zeros(3, 1))


def test_a_distribution_needs_rows_and_two_columns_that_vary() -> None:
    with pytest.raises(DataError, match="X has 49 rows: at least 50 are needed"):
        as_table(torch.rand(49, 2), "X").require()
    with pytest.raises(DataError, match="X has 1 column: at least two that vary are needed"):
        as_table(torch.rand(60, 1), "X").require()
    rows = torch.rand(60, 3)
    rows[:, 1:] = 7.0
    with pytest.raises(DataError, match=r"X has 3 columns \(x2, x3 never vary\): at least two"):
        as_table(rows, "X").require()
    rows[3, 1] = 6.0
    table = as_table(rows, "X")
    table.require()
    assert table.constant() == (2,)


def test_a_split_keeps_every_row_once_and_depends_on_their_number_alone() -> None:
    table = as_table(torch.arange(200.0).view(100, 2))
    parts = table.split()
    assert [len(part.rows) for part in parts] == [80, 20]
    assert torch.equal(torch.cat([part.rows for part in parts]).sort(0).values, table.rows)
    assert (parts[0].rows[:20, 0] > 100).any() and (parts[0].rows[:20, 0] < 100).any(), "a sorted table is sorted no more"
    assert all(torch.equal(a.rows + 1, b.rows) for a, b in zip(parts, as_table(table.rows + 1).split(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_csv_text_is_read_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=dtype) * torch.tensor([1e-7, 1e9], dtype=dtype)
    found = load_table(written(tmp_path, csv_text(["a, b", "c"], rows)))
    assert found.columns == ("a, b", "c") and torch.equal(found.rows.to(dtype), rows)


def test_the_examples_need_no_file() -> None:
    for name, columns in (("two-moons", 2), ("digit-scores", 8)):
        table = load_table(name)
        assert is_table(name) and table.rows.shape[1] == len(table.columns) == columns and name in EXAMPLES
        assert torch.equal(table.rows, load_table(name).rows)
    assert not is_table("mnist5k") and is_table("my.CSV")
    covariance = load_table("digit-scores").rows.T.cov(correction=0)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-9 * covariance.max(), "components are uncorrelated"
    assert (covariance.diag().diff() < 0).all(), "and the first one varies most"
    x, y = two_moons(noise=0.0).rows.T
    upper, lower = (x**2 + y**2 - 1).abs() < 1e-12, ((x - 1) ** 2 + (y - 0.5) ** 2 - 1).abs() < 1e-12
    assert (upper | lower).all() and upper.sum() == lower.sum() == 5000
