"""Files and folders that are either complete or absent, whoever else is at work on them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgaseg.errors import UserError
from fgaseg.files import atomic_folder, complete_files, exclusive

_WORKER = """
import sys, time
from pathlib import Path
from fgaseg.files import exclusive
path = Path(sys.argv[1])
with exclusive(path), path.with_suffix(".log").open("a") as log:
    log.write("begin "); log.flush(); time.sleep(0.05); log.write("end ")
"""


def test_of_several_processes_that_make_the_same_thing_one_works_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "thing")]
    workers = [subprocess.Popen(command) for _ in range(5)]
    assert [worker.wait(timeout=60) for worker in workers] == [0] * 5
    assert (tmp_path / "thing.log").read_text().split() == ["begin", "end"] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["thing.log"]


def test_one_that_is_killed_does_not_block_the_next(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", _WORKER.replace("0.05", "60"), str(tmp_path / "thing")])
    while not (tmp_path / "thing.log").exists() or not (tmp_path / "thing.log").read_text():
        assert worker.poll() is None
    worker.kill()
    worker.wait()
    with exclusive(tmp_path / "thing"):
        pass


def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as out:
        (out / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "made") as out:
        (out / "a").write_text(str(1 / 0))
    assert (tmp_path / "made" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_complete_files_join_a_folder_together_and_replace_its_folders_whole(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "stale").touch()
    (folder / "other").touch()
    with complete_files(folder) as out:
        (out / "sub").mkdir()
        (out / "sub" / "new").touch()
        assert not (folder / "sub" / "new").exists()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["other", "sub", "sub/new"]


def test_a_disk_that_knows_no_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with (
        pytest.raises(UserError, match=r"thing\.lock: cannot be locked .*; put results/ on a disk that knows flock"),
        exclusive(tmp_path / "thing"),
    ):
        pass
