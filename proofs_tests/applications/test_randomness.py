"""Noise of a row is the same whoever draws it, and no two blocks have a generator in common."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from applications.common.batches import batches
from applications.common.randomness import BLOCK, Asked, Noise, drawn, rows_of
from induced.errors import ShapeError
from proofs_tests.applications import toy


@given(st.sampled_from([(1, 5), (3, 7), (4, 24), (4, 33), (16, 6)]), st.integers(0, 5), st.data())
def test_a_part_of_the_rows_draws_what_the_whole_draws(shares: tuple[int, int], step: int, data: st.DataObject) -> None:
    """Rows of a part meet the numbers that they meet in the whole batch, whatever their blocks; shared ones too."""
    share, count = shares
    n = share * count
    start = share * data.draw(st.integers(0, count - 1))
    part = range(start, share * data.draw(st.integers(start // share + 1, count)))
    first: Asked = {"a": Noise((n, 3)), "b": Noise((count, 2, 2), normal=False), "given": torch.arange(count)}
    asked: list[Asked] = [first, {"c": Noise((n, 1))}]
    whole, found = drawn(asked, n, seed=7, step=step), drawn(asked, n, 7, step, part)
    for all_rows, some in zip(whole, found, strict=True):
        for name, value in all_rows.items():
            assert torch.equal(some[name], rows_of(value, part, n)), name


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_rows_of_a_part_share_what_they_share_in_the_whole(each: int, count: int, data: st.DataObject) -> None:
    """A part may begin and end between rows that share one."""
    n, value = each * count, torch.arange(count)
    start = data.draw(st.integers(0, n - 1))
    part = range(start, data.draw(st.integers(start + 1, n)))
    found = rows_of(value, part, n)
    assert len(part) % len(found) == 0
    assert torch.equal(found.repeat_interleave(len(part) // len(found)), value.repeat_interleave(each)[part.start : part.stop])


def test_noise_has_its_law_and_blocks_and_steps_have_their_own() -> None:
    n, shape = 8 * BLOCK, (4000,)
    first, other = (drawn([{"x": Noise((n, *shape)), "u": Noise((n, *shape), normal=False)}], n, 0, step)[0] for step in (0, 1))
    x, u, sd = first["x"].double(), first["u"].double(), (n * shape[0]) ** -0.5
    assert abs(x.mean()) < 5 * sd and abs(x.square().mean() - 1) < 5 * 2**0.5 * sd
    assert abs(u.mean() - 0.5) < 5 * sd / 12**0.5 and u.min() >= 0 and u.max() < 1
    rows = torch.cat([first["x"], other["x"]])
    # of independent rows, a cosine is of size 1 / sqrt(4000)
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).mT - torch.eye(len(rows))
    assert cosines.abs().max() < 7 * shape[0] ** -0.5


def test_draws_of_rows_that_do_not_divide_the_batch_are_refused() -> None:
    made = batches(lambda n, generator: {"x": Noise((3, 2))}, toy.images(), 8, 0, range(1))
    with pytest.raises(
        ShapeError, match=r"gave 'x' of shape \(3, 2\); its first dimension must be the global batch, or divide it"
    ):
        next(made)
