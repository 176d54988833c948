"""Files and folders that are either complete or absent."""

import errno
import fcntl
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fgaseg.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk, or any other refusal to write, becomes a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: no space left on the disk; free some and start again") from None
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); write elsewhere, or make {path.parent} a writable folder"
        ) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well, remove it otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> tuple[BinaryIO, bool]:
    """The open and locked file `lock`, and whether another process held it, for which this one has waited."""
    waited = False
    while True:
        with writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process is making it; waiting until it ends", path)
            fcntl.flock(file, fcntl.LOCK_EX)
            waited = True
        except OSError as error:
            file.close()
            raise UserError(
                f"{lock}: cannot be locked ({error.strerror}); put results/ on a disk that knows flock (Lustre: mount -o flock)"
            ) from None
        with suppress(FileNotFoundError):  # where the holder has removed the file that was waited for
            if os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                return file, waited
        file.close()


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Only one process at a time makes `path`; a second one waits, says so, and yields True.

    A workflow that was killed may leave a job behind that is still at work when the same job is started again.
    """
    lock = path.with_name(f".{path.name}.lock")
    file, waited = _locked(lock, path)
    with file:
        try:
            yield waited
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, for this process alone, that is gone afterwards, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    with exclusive(path):
        try:
            with writing(path):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder; it takes the place of `path` when the block ends well and is removed otherwise."""
    with _scratch(path) as temporary:
        yield temporary
        with writing(path):
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)


@contextmanager
def complete_files(folder: Path) -> Iterator[Path]:
    """Yield a new folder; what it holds joins `folder` when the block ends well, nothing does otherwise.

    A file or folder takes the place of the one of the same name, a folder whole.
    """
    with _scratch(folder) as temporary:
        yield temporary
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in temporary.iterdir():
                if path.is_dir() and (folder / path.name).is_dir():
                    shutil.rmtree(folder / path.name)
                os.replace(path, folder / path.name)


def relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that both can be moved together."""
    return os.path.relpath(path.resolve(), folder.resolve())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, durably and at once."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON."""
    write_whole(path, json.dumps(content, indent=1) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())


def read_json(path: Path) -> Any:
    """The content of a result's JSON file; `UserError` when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate the row again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete its folder and evaluate the row again") from None
