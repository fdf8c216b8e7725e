"""Whatever happens while a model is saved over another, the folder holds one of the two, whole."""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import torch

from induced import EuclideanSpace, Linearizer
from induced.errors import CheckpointError
from induced.serialization import disk, load, save

KILLS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 20
FILES = ["config.json", "model.safetensors"]
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def model(value: int, n: int = 200) -> Linearizer:
    return Linearizer(torch.full((n, n), float(value)), EuclideanSpace(n))


def saved(folder: Path) -> int:
    """Which model the folder holds, all its entries looked at."""
    f = load(folder)
    assert isinstance(f, Linearizer)
    values = f.core.matrix().unique().tolist()
    assert len(values) == 1
    return int(values[0])


def child(act: Callable[[], object]) -> int:
    """A process with what this one has imported; its exit status is 0 where the act ends."""
    if pid := os.fork():
        return pid
    try:
        act()
        os._exit(0)
    finally:
        os._exit(1)


def dies_at(event: int, act: Callable[[], object]) -> Callable[[], object]:
    """The act in a process that is gone, without any clean-up, at its so many-th call that changes or lists files."""
    count = iter(range(1, sys.maxsize))

    def hook(name: str, _: object) -> None:
        if name in WRITES and next(count) == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        sys.addaudithook(hook)
        act()

    return run


@forks
@pytest.mark.parametrize("before", ["model", "nothing", "crashed"])
def test_a_process_that_dies_at_any_call_leaves_the_old_model_or_the_new_one(before: str, tmp_path: Path) -> None:
    found: list[int | None] = []
    start = tmp_path / "start"
    if before != "nothing":
        save(model(1), start)
    if before == "crashed":  # after the moment when the new one took the old one's place
        os.waitpid(child(lambda: _committed(start)), 0)
        assert len(list(start.glob(".model-*"))) == 1 and saved(start) == 0
    for event in range(1, 100):
        folder = tmp_path / str(event)
        if before != "nothing":
            shutil.copytree(start, folder)
        status = os.waitpid(child(dies_at(event, partial(save, model(2), folder))), 0)[1]
        try:
            found.append(saved(folder))
        except CheckpointError as error:
            assert before == "nothing" and "No such file" in str(error)
            found.append(None)
        save(model(3), folder)  # a retry works, and clears up
        assert saved(folder) == 3 and sorted(os.listdir(folder)) == FILES
        if status == 0:
            break
    else:
        pytest.fail("no process ended")
    old = {"model": 1, "nothing": None, "crashed": 0}[before]
    switch = found.index(2)
    assert 3 < switch < len(found) - 2 and found == [old] * switch + [2] * (len(found) - switch)


def _committed(folder: Path) -> None:
    """Save, and die once config.json names the new weights."""
    replace = os.replace

    def dying(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name == "config.json":
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying  # type: ignore[assignment]
    save(model(0), folder)


@forks
def test_no_model_is_lost_to_kills_at_random_moments(tmp_path: Path) -> None:
    """1,000 kills in `make thorough`: each meets a process that saves over and over again."""

    def saving() -> None:
        for value in range(1, sys.maxsize):
            save(model(value), tmp_path)

    save(model(0), tmp_path)
    moments, left = random.Random(0), 0
    for _ in range(KILLS):
        pid = child(saving)
        time.sleep(moments.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        saved(tmp_path)
        left += len(os.listdir(tmp_path)) > len(FILES)
    assert left > KILLS // 20  # the kills met saves at work
    save(model(0), tmp_path)
    assert saved(tmp_path) == 0 and sorted(os.listdir(tmp_path)) == FILES


def test_two_files_of_two_saves_are_what_a_writer_in_two_steps_leaves(tmp_path: Path) -> None:
    """The counterexample: weights and config.json renamed one after the other, as they once were, and a crash in between."""
    old, new = save(model(1), tmp_path / "old"), save(model(2), tmp_path / "new")
    os.replace(new / "model.safetensors", old / "model.safetensors")
    with pytest.raises(CheckpointError, match="the two are of two saves"):
        load(old)


def test_a_reader_beside_writers_always_gets_a_whole_model(tmp_path: Path) -> None:
    save(model(0), tmp_path)
    failed: list[BaseException] = []

    def writing(first: int) -> None:
        try:
            for value in range(first, first + 40):
                save(model(value), tmp_path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=writing, args=(first,)) for first in (100, 200)]
    for writer in writers:
        writer.start()
    met = set()
    while any(writer.is_alive() for writer in writers):
        met.add(saved(tmp_path))
    for writer in writers:
        writer.join()
    assert not failed and len(met) > 5 and saved(tmp_path) in (139, 239)
    assert sorted(os.listdir(tmp_path)) == FILES


def test_a_file_that_is_replaced_by_a_longer_one_while_it_is_opened_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader beside a writer once read as many bytes of the new config.json as the old one had."""
    path = disk.replace_file(tmp_path / "file", b"old")
    real: Callable[..., IO[bytes]] = Path.open

    def replaced(self: Path, *mode: str) -> IO[bytes]:
        disk.replace_file(tmp_path / "new", b"longer than before")
        os.replace(tmp_path / "new", path)
        return real(self, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *mode: replaced(self, *mode) if self == path else real(self, *mode))
        assert disk.read(path, "") == b"longer than before"


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path) -> None:
    save(model(1), tmp_path / "old")
    for folder in (tmp_path / "old", tmp_path / "new"):
        with (
            no_file_above(10_000),
            pytest.raises(CheckpointError, match=r"cannot be written \(File too large\); 1\d\d\d\d\d bytes"),
        ):
            save(model(2), folder)
    assert saved(tmp_path / "old") == 1 and sorted(os.listdir(tmp_path / "old")) == FILES
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_written_leaves_what_was_there_and_nothing_besides(tmp_path: Path) -> None:
    disk.replace_file(tmp_path / "file", b"old")
    with no_file_above(10), pytest.raises(CheckpointError, match=r"file: cannot be written .File too large.; 100 bytes"):
        disk.replace_file(tmp_path / "file", b"x" * 100)
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_files_of_others_stay_where_they_are(tmp_path: Path) -> None:
    save(model(1), tmp_path)
    mine = [".model-of-mine.safetensors", ".partial-notes", "README.md", ".model-0123456789abcdef.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".model-0123456789abcdef.safetensors").write_text("what a crash has left")
    (tmp_path / ".partial-config.json-1-2").write_text("")
    save(model(2), tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, *mine])


@pytest.mark.parametrize("when", range(1, 4))
def test_a_disk_that_fills_at_any_file_is_said(when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(1), tmp_path)
    count, real = iter(range(1, 100)), os.fsync

    def full(handle: int) -> None:
        if next(count) == when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="cannot be written .No space left on device."):
        save(model(2), tmp_path)
    assert saved(tmp_path) == 1 and sorted(os.listdir(tmp_path)) == FILES


def test_a_file_system_that_syncs_no_folders_is_written_to_and_another_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(code: int) -> Callable[[int], None]:
        def sync(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, os.strerror(code))

        return sync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    assert saved(save(model(1), tmp_path)) == 1
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(CheckpointError, match="cannot be written .Input/output error."):
        save(model(2), tmp_path)
    assert saved(tmp_path) == 1


def test_what_fails_after_the_switch_is_not_called_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(1), tmp_path)
    real = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target).name == "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(
        CheckpointError, match=r"put in order .Input/output error.; it holds the new model, .* in \.model-.*: save it again"
    ):
        save(model(2), tmp_path)
    assert saved(tmp_path) == 2
    monkeypatch.undo()
    assert saved(save(model(2), tmp_path)) == 2 and sorted(os.listdir(tmp_path)) == FILES


def test_an_interrupt_at_the_moment_of_the_switch_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(1), tmp_path)
    real = os.replace

    def interrupted(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target).name == "config.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model(2), tmp_path)
    monkeypatch.undo()
    assert saved(tmp_path) == 2 and sorted(os.listdir(tmp_path)) == FILES


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, message in (
        (tmp_path / "file" / "model", r"file/model: cannot be written \(Not a directory\)"),
        (tmp_path / ("n" * 300), r"nnn: cannot be written \(File name too long\); choose another folder"),
        ("nu\0l", r"no folder has a null character in its name, got 'nu\\x00l'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save(model(1), folder)
    with pytest.raises(CheckpointError, match="null character"):
        load("nu\0l")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_model_has_a_file_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    save(model(1), tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=f"{name}: is a folder, where a model has a file: remove it, or choose another"):
            save(model(2), tmp_path, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == FILES and (tmp_path / name / "mine").exists()


@forks
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to become another user")
def test_a_folder_of_another_user_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)

    def as_nobody() -> None:
        os.chdir(tmp_path)
        os.setuid(65534)
        with pytest.raises(CheckpointError, match="mine: cannot be written .Permission denied.; choose another folder"):
            save(model(1), "mine")

    assert os.waitpid(child(as_nobody), 0)[1] == 0
