"""The cache: what is damaged is made anew and said, one process makes it while others wait, a full disk is an error in words."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from platformdirs import user_cache_path

from applications.common.data.cache import cached
from applications.common.locks import held
from applications.common.places import cache_folder, data_folder
from induced.errors import DataError

SHAPE = (10, 3, 5)
FORK = multiprocessing.get_context("fork")


def expected() -> np.ndarray:
    return np.arange(1, 151, dtype=np.uint8).reshape(SHAPE)


class Maker:
    """Makes three items at a time, and counts."""

    def __init__(self, before: Callable[[int], None] = lambda first: None) -> None:
        self.before, self.started, self.made = before, list[int](), 0

    def __call__(self, start: int) -> Iterator[np.ndarray]:
        self.started.append(start)
        for first in range(start, SHAPE[0], 3):
            self.before(first)
            block = expected()[first : first + 3]
            self.made += len(block)
            yield block


def die_at(item: int) -> Callable[[int], None]:
    return lambda first: os.kill(os.getpid(), signal.SIGKILL) if first >= item else None


def in_fork(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=work)
    process.start()
    return process


def test_an_array_is_made_once_and_then_mapped_and_any_reader_of_npy_opens_it(tmp_path: Path) -> None:
    file, maker = tmp_path / "new" / "a.npy", Maker()
    first = cached(file, SHAPE, maker)
    assert isinstance(first, np.memmap) and np.array_equal(first, expected())
    first[:] = 0  # in memory alone
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [0]
    assert np.array_equal(np.load(file), expected())
    assert [path.name for path in file.parent.iterdir()] == ["a.npy"]


def zeros(file: Path) -> None:
    """As a power cut leaves a file whose name was written before its bytes."""
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:100])
    os.truncate(file, size)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-60] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: os.truncate(file, 140),
    "empty": lambda file: os.truncate(file, 0),
    "zeros": zeros,
    "one bit": flip,
    "too long": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "of an earlier release": lambda file: np.save(file, expected()),
    "of another shape": lambda file: cached(file, (3, 5), lambda start: [np.zeros((3, 5), np.uint8)]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    file, maker = tmp_path / "a.npy", Maker()
    cached(file, SHAPE, maker)
    if damage == "of another shape":
        file.unlink()
    DAMAGES[damage](file)
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [0, 0]
    assert "is damaged (cut short, or its bytes are not those that were written); it is made anew" in capsys.readouterr().out
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [0, 0]


def test_a_killed_process_is_taken_over_where_its_bytes_are_right(tmp_path: Path) -> None:
    file, maker = tmp_path / "a.npy", Maker()
    killed = in_fork(lambda: cached(file, SHAPE, Maker(die_at(6))))
    killed.join(600)
    assert killed.exitcode == -signal.SIGKILL and sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "a.partial"]
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [6]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("damage", ["truncated", "zeros", "one bit"])
def test_a_partial_file_whose_bytes_are_wrong_is_begun_anew(tmp_path: Path, damage: str) -> None:
    file, maker = tmp_path / "a.npy", Maker()
    in_fork(lambda: cached(file, SHAPE, Maker(die_at(9)))).join(600)
    DAMAGES[damage](tmp_path / "a.partial")
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [0]


def test_one_process_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"

    def work(log: Path) -> None:
        maker = Maker(lambda first: time.sleep(0.05))
        right = np.array_equal(cached(file, SHAPE, maker), expected())
        log.write_text(f"{right} {maker.made}")

    logs = [tmp_path / f"{i}.txt" for i in range(4)]
    processes = [in_fork(partial(work, log)) for log in logs]
    for process in processes:
        process.join(600)
    assert sorted(log.read_text() for log in logs) == ["True 0"] * 3 + ["True 10"]


def test_a_process_takes_over_from_one_that_is_killed_while_it_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, maker = tmp_path / "a.npy", Maker()

    def stall(first: int) -> None:
        if first == 6:
            (tmp_path / "here").touch()
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)

    killed = in_fork(lambda: cached(file, SHAPE, Maker(stall)))
    while not (tmp_path / "here").exists():
        time.sleep(0.01)
    assert np.array_equal(cached(file, SHAPE, maker), expected()) and maker.started == [6]
    assert f"process {killed.pid} on " in capsys.readouterr().out
    killed.join(600)


def test_room_is_taken_before_the_first_item_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    maker = Maker()
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DataError, match=r"318 bytes are needed for the cache .* \(No space left on device\); make room, or"):
            cached(tmp_path / "a.npy", SHAPE, maker)
    assert maker.started == [] and not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "not here")))
        assert np.array_equal(cached(tmp_path / "a.npy", SHAPE, maker), expected())


def test_an_error_on_the_way_leaves_nothing_and_is_not_called_one_of_the_cache(tmp_path: Path) -> None:
    def fail(first: int) -> None:
        if first:
            raise DataError("3.png: no picture that can be decoded")

    with pytest.raises(DataError, match=r"^3\.png: no picture"):
        cached(tmp_path / "a.npy", SHAPE, Maker(fail))
    assert not list(tmp_path.iterdir())


def test_a_lock_is_one_processes_and_goes_with_it(tmp_path: Path) -> None:
    def refuse(holder: str) -> None:
        raise DataError(f"taken by {holder}")

    with held(tmp_path / "lock", refuse):
        with pytest.raises(DataError, match=f"taken by process {os.getpid()} on "), held(tmp_path / "lock", refuse):
            pass
        assert (tmp_path / "lock").exists()
    with held(tmp_path / "lock", refuse):
        pass
    assert not list(tmp_path.iterdir())


def test_the_cache_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INDUCED_CACHE", raising=False)
    assert cache_folder() == user_cache_path("induced", appauthor=False)
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" and cache_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INDUCED_CACHE", "~/there")
    assert cache_folder() == tmp_path / "there"


def test_the_data_folder_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert data_folder("~", "digits are needed") == tmp_path
    monkeypatch.setenv("INDUCED_DATA", "~/nowhere")
    with pytest.raises(DataError, match=r"digits are needed: the folder .*/nowhere \(INDUCED_DATA\) does not exist"):
        data_folder(None, "digits are needed")
    with pytest.raises(DataError, match=r"digits are needed: the folder .*/file \(--data-dir\) is a file, not a folder"):
        data_folder(tmp_path / "file", "digits are needed")
