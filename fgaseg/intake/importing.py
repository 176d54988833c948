"""Bring downloads of a dataset into the raw layout below the data root.

Each file is written beside the data root under another name and moved to its place when it is whole, with the time that its
archive gives it: an import that was killed leaves no half-written file, and the next one keeps every file that has the size
and time that it would be given.
"""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO

from tqdm import tqdm

from fgaseg.errors import UserError
from fgaseg.files import exclusive, read_json, write_json, writing
from fgaseg.intake.publishers import Archive, Publication
from fgaseg.intake.sources import MOST_BYTES, MOST_FILES, Kind, Member, content, damage, kind_of, members, tar_member

_CHUNK = 64
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What became of a download: files written, files that were there already, and files that are not needed."""

    download: Path
    written: int
    kept: int
    left_out: int


Job = tuple[Member, Path]
"""A file of a download, and where it belongs."""


def import_dataset(
    publication: Publication, downloads: Sequence[Path], root: Path, check: bool, workers: int, quiet: bool = True
) -> list[Imported]:
    """Bring `downloads` into place below the data root `root`.

    With `check`, a download that has a publisher's name must have the size and digest that are known of it. Only one import
    at a time works on a data root. UserError names a download that is damaged, unsafe, or holds nothing of this dataset.
    """
    kinds = [kind_of(download) for download in downloads]
    scratch = root.parent / f".{root.name}.import"
    with exclusive(scratch), _scratch(scratch):
        if check:
            for download, kind in zip(downloads, kinds, strict=True):
                if kind != "folder":
                    _check(download, publication.archives, scratch / "checked.json")
        done = []
        for download, kind in zip(downloads, kinds, strict=True):
            work = _Import(publication, download, kind, root, scratch, quiet)
            done.append(work.stream() if kind == "stream" else work.parallel(workers))
    return done


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """The folder where files are written before they are moved. Of an import that fails it keeps notes, but no halves."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for half in folder.glob("*.part"):
            half.unlink()
    try:
        yield
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):
            folder.rmdir()


def _check(download: Path, archives: Sequence[Archive], notes: Path) -> None:
    """Compare a download with what is known of the archive of its name; `notes` spare a resumed import the digest."""
    archive = next((archive for archive in archives if archive.name == download.name), None)
    if archive is None:
        return
    found = download.stat()
    if archive.size is not None and found.st_size != archive.size:
        raise UserError(f"{download}: has {found.st_size} bytes, published are {archive.size}; download it again")
    if archive.digest is None:
        return
    checked = read_json(notes) if notes.exists() else {}
    state = [found.st_size, found.st_mtime_ns]
    if checked.get(str(download.resolve())) == state:
        return
    method, expected = archive.digest.split(":")
    with download.open("rb") as file:
        digest = hashlib.file_digest(file, method).hexdigest()
    if digest != expected:
        raise UserError(f"{download}: its {method} is {digest}, that of the published file {expected}; download it again")
    write_json(notes, checked | {str(download.resolve()): state})


@dataclass
class _Import:
    """The import of one download."""

    publication: Publication
    download: Path
    kind: Kind
    root: Path
    scratch: Path
    quiet: bool
    written: int = 0
    kept: int = 0
    left_out: int = 0

    def _target(self, member: Member) -> Path | None:
        """Where a member belongs; None where it is not needed. A folder's or archive's own name may stand for a part."""
        name = self.download.resolve().name
        own = name if self.kind == "folder" else name.split(".")[0]
        target = self.publication.target(member.path) or self.publication.target(f"{own}/{member.path}")
        if target is None:
            return None
        if not member.plain:
            raise UserError(f"{self.download}: '{member.path}' is a link, a device or encrypted; download the archive again")
        return self.root / target

    def _wanted(self, found: Iterable[Member]) -> Iterator[Job]:
        """The members that are needed and not in place yet. UserError where there are more than any dataset has."""
        targets: set[Path] = set()
        total = 0
        for member in found:
            target = self._target(member)
            if target is None:
                self.left_out += 1
                continue
            total += member.size
            if target in targets:
                raise UserError(f"{self.download}: holds two files for {target}; give the folder or archive of one alone")
            targets.add(target)
            if len(targets) > MOST_FILES or total > MOST_BYTES:
                raise UserError(
                    f"{self.download}: holds more than {MOST_FILES} files or {MOST_BYTES / 1e9:.0f} GB; this is no "
                    "publisher's archive, download it again"
                )
            if _in_place(target, member):
                self.kept += 1
            else:
                yield member, target

    def _result(self) -> Imported:
        if not self.written + self.kept:
            names = ", ".join(archive.name for archive in self.publication.archives)
            raise UserError(f"{self.download}: holds no file of this dataset; expected are {names}, or their unpacked folders")
        return Imported(self.download, self.written, self.kept, self.left_out)

    def parallel(self, workers: int) -> Imported:
        """Unpack what can be read in any order, by several processes."""
        jobs = list(self._wanted(members(self.download, self.kind)))
        needed = sum(member.size for member, _ in jobs)
        there = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if needed > shutil.disk_usage(there).free:
            raise UserError(f"{there}: {needed / 1e9:.1f} GB are needed for {self.download}; free some space and start again")
        work = partial(_unpack, download=self.download, kind=self.kind, scratch=self.scratch)
        with self._bar(needed) as bar:
            for count, size in _done(work, jobs, workers):
                self.written += count
                bar.update(size)
        return self._result()

    def stream(self) -> Imported:
        """Unpack a compressed tar, which can be read from front to end alone."""
        with damage(self.download), tarfile.open(self.download, "r|*") as archive, self._bar(None) as bar:
            infos = {}

            def found() -> Iterator[Member]:
                for info in archive:
                    if not info.isdir():
                        infos[0] = info
                        yield tar_member(info, self.download)

            for member, target in self._wanted(found()):
                file = archive.extractfile(infos[0])
                assert file is not None
                _write(file, member, target, self.scratch, self.download)
                self.written += 1
                bar.update(member.size)
        return self._result()

    def _bar(self, total: int | None) -> "tqdm[None]":
        return tqdm(
            total=total, unit="B", unit_scale=True, desc=self.download.name, ncols=100, disable=self.quiet, leave=bool(total)
        )


def _in_place(target: Path, member: Member) -> bool:
    try:
        found = target.stat()
    except OSError:
        return False
    return found.st_size == member.size and int(found.st_mtime) == member.changed


def _done(work: "partial[tuple[int, int]]", jobs: list[Job], workers: int) -> Iterator[tuple[int, int]]:
    """Files and bytes that were written, as work goes on; at the first mistake no more is begun."""
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    if workers == 1 or len(chunks) < 2:
        yield from map(work, chunks)
        return
    try:
        with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
            try:
                for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool:
        raise UserError("a process that unpacks was killed, perhaps for its memory; start again with fewer --workers") from None


def _unpack(jobs: list[Job], download: Path, kind: Kind, scratch: Path) -> tuple[int, int]:
    for member, target in jobs:
        with content(download, kind, member) as file:
            _write(file, member, target, scratch, download)
    return len(jobs), sum(member.size for member, _ in jobs)


def _write(file: IO[bytes], member: Member, target: Path, scratch: Path, download: Path) -> None:
    """Write a member whole, then move it to its place."""
    half = scratch / f"{os.getpid()}.part"
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            left = member.size
            with half.open("wb") as out:
                while left and (block := file.read(min(_BLOCK, left))):
                    out.write(block)
                    left -= len(block)
            if left:
                raise UserError(f"{download}: '{member.path}' ends early; the archive is incomplete, download it again")
            os.utime(half, (member.changed, member.changed))
            os.replace(half, target)
    finally:
        half.unlink(missing_ok=True)
