"""Which photographs are meant, and where what is made of them goes."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fgaseg.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""What counts as a picture in a folder, in lower case."""


@dataclass(frozen=True)
class Job:
    """One photograph and its overlay; the label map and the areas have names made of the overlay's."""

    photo: Path
    overlay: Path

    @property
    def labels(self) -> Path:
        return self.overlay.with_name(f"{self.overlay.stem}.labels.png")

    @property
    def areas(self) -> Path:
        return self.overlay.with_name(f"{self.overlay.stem}.json")

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return self.overlay, self.labels, self.areas


def local_path(text: str) -> Path:
    """A path, or the path of a file:// URL. Raises `UserError` for URLs of other machines: nothing is downloaded."""
    if "\0" in text:
        raise UserError(f"{text!r}: a path holds no zero byte; check the path")
    if "://" not in text:
        return Path(text)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UserError(f"{text}: no URL ({error}); write file:///path/on/this/machine") from None
    if parts.scheme != "file":
        raise UserError(f"{text}: nothing is downloaded; save the picture and name its file")
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"{text}: a file on {parts.netloc}; write file:///path/on/this/machine")
    path = unquote(parts.path)
    if "\0" in path:
        raise UserError(f"{text}: a path holds no zero byte; check the path")
    return Path(path)


def _pictures(folder: Path, without: Path) -> list[Path]:
    """All pictures below a folder, sorted, without hidden ones and those below `without`; links to folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != without.resolve())
        found += [here / f for f in files if not f.startswith(".") and Path(f).suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{folder}: no picture in this folder; name one with {', '.join(sorted(SUFFIXES))} files")
    return sorted(found)


def single_job(photo: Path, out: Path) -> Job:
    """One photograph whose overlay is `out`. Raises `UserError` when one of the files cannot be written as such."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the overlay is a PNG file; end its name in .png")
    job = Job(photo, out)
    for path in job.files:
        if path.is_dir():
            raise UserError(f"--out {out}: {path} is a folder; choose another name")
        if path.exists() and path.samefile(photo):
            raise UserError(f"--out {out}: {path} is the photograph itself; choose another name")
    return job


def jobs(paths: Sequence[Path], out: Path) -> list[Job]:
    """The photographs of several files and folders, with results in the folder `out`.

    A folder's pictures keep their places below it. Where two pictures differ in the suffix alone, results keep it:
    a.jpg.png and a.webp.png. Raises `UserError` when two would have the same results, or results replace a photograph.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file; several photographs need a folder")
    places: list[tuple[Path, Path]] = []
    for path in dict.fromkeys(paths):
        if path.is_dir() and path.resolve() != out.resolve():
            places += [(photo, photo.relative_to(path)) for photo in _pictures(path, out)]
        elif path.is_dir():
            raise UserError(f"--out {out}: the folder of the photographs; choose another one")
        else:
            places.append((path, Path(path.name)))
    stems = Counter(place.with_suffix("") for _, place in places)
    made = [
        Job(photo, out / (place.with_suffix(".png") if stems[place.with_suffix("")] == 1 else f"{place}.png"))
        for photo, place in places
    ]
    photos = {job.photo.resolve() for job in made}
    taken: dict[Path, Path] = {}
    for job in made:
        for path in job.files:
            if path in taken:
                raise UserError(
                    f"{taken[path]} and {job.photo} would both be written to {path}; segment them with different --out folders"
                )
            if path.resolve() in photos:
                raise UserError(f"--out {out}: {path} is one of the photographs; choose another folder")
            taken[path] = job.photo
    return made
