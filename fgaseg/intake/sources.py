"""What a download holds: the files of a zip, a tar, a folder, or one plain file, without unpacking anything.

Nothing in an archive is trusted: paths that lead outside, links, devices, encrypted or sparse files, and more files or bytes
than any dataset has are refused before they are written.
"""

import calendar
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from fgaseg.errors import UserError

MOST_FILES = 1_000_000
MOST_BYTES = 300 * 10**9
"""What is taken from one download at most. COCO's training images, the largest, are 118 287 files of 19 GB."""

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)
"""Not RuntimeError as a whole, which zipfile raises for encrypted files alone: these are refused before they are read."""

Kind = Literal["zip", "tar", "stream", "folder", "file"]


@dataclass(frozen=True)
class Member:
    """A file in a download: its path there, its size in bytes, when it was changed (seconds), and whether it is a plain file.

    `place` finds its content: a number in a zip's directory, an offset in a tar.
    """

    path: str
    size: int
    changed: int
    plain: bool = True
    place: int = 0


def kind_of(download: Path) -> Kind:
    """How a download is read, told by its content; "stream" is a compressed tar, which is read from front to end alone."""
    if download.is_dir():
        return "folder"
    if not download.is_file():
        raise UserError(f"{download}: no such file or folder; give what was downloaded")
    if zipfile.is_zipfile(download):
        return "zip"
    try:
        with tarfile.open(download, "r:"):
            return "tar"
    except (tarfile.TarError, EOFError):
        pass
    if tarfile.is_tarfile(download):
        return "stream"
    if "".join(download.suffixes[-2:]).lower().endswith((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")):
        raise UserError(f"{download}: cannot be read as a zip or tar; it is damaged or incomplete, download it again")
    return "file"


@contextmanager
def damage(download: Path) -> Iterator[None]:
    """What zipfile and tarfile raise on a damaged archive becomes a `UserError`."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{download}: is damaged or incomplete ({error}); download it again") from None


def safe(path: str, download: Path) -> str:
    """A path from an archive, its parts separated by /; UserError where it leads outside."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or (pure.parts and pure.parts[0].endswith(":")):
        raise UserError(f"{download}: holds '{path}', which leads outside; this is no publisher's archive, download it again")
    return pure.as_posix()


def members(download: Path, kind: Kind) -> Iterator[Member]:
    """The files of a download that can be read in any order, in the order in which they lie there."""
    if kind == "zip":
        yield from _zip_members(download)
    elif kind == "tar":
        with damage(download), tarfile.open(download, "r:") as archive:
            for info in archive:
                if not info.isdir():
                    yield tar_member(info, download)
    elif kind == "folder":
        yield from _folder_members(download)
    else:
        found = download.stat()
        yield Member(download.name, found.st_size, int(found.st_mtime))


def tar_member(info: tarfile.TarInfo, download: Path) -> Member:
    plain = info.isreg() and not info.issparse()
    return Member(safe(info.name, download), info.size, int(info.mtime), plain, info.offset_data)


def _zip_members(download: Path) -> Iterator[Member]:
    with damage(download):
        for number, info in enumerate(_open_zip(download).infolist()):
            mode = info.external_attr >> 16
            plain = (not mode or stat.S_IFMT(mode) in (0, stat.S_IFREG)) and not info.flag_bits & 1
            if not info.is_dir():
                yield Member(safe(info.filename, download), info.file_size, _changed(info), plain, number)


def _changed(info: zipfile.ZipInfo) -> int:
    """When a zip's file was changed; the first day that a zip can tell where it tells an impossible one."""
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))
    except ValueError:
        return calendar.timegm((1980, 1, 1, 0, 0, 0, 0, 0, 0))


def _folder_members(download: Path) -> Iterator[Member]:
    for folder, folders, files in os.walk(download):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            found = path.lstat()
            inside = path.relative_to(download).as_posix()
            yield Member(inside, found.st_size, int(found.st_mtime), stat.S_ISREG(found.st_mode))


@lru_cache(maxsize=1)
def _open_zip(download: Path) -> zipfile.ZipFile:
    """The opened archive: reading the directory of a hundred thousand files takes a second, so each process does it once."""
    return zipfile.ZipFile(download)


@contextmanager
def content(download: Path, kind: Kind, member: Member) -> Iterator[IO[bytes]]:
    """The content of a member, to be read up to its size."""
    if kind == "zip":
        archive = _open_zip(download)
        with damage(download), archive.open(archive.infolist()[member.place]) as file:
            yield file
        return
    path = download / member.path if kind == "folder" else download
    with path.open("rb") as plain:
        plain.seek(member.place)
        yield plain
