"""Are labels shifted by one? Each file is sound then, every score is nearly zero, and nothing else tells.

Four witnesses, each with a remark that it makes only where it is sure:

* ids that no published file of the dataset holds: COCO-Stuff leaves out 11 of its 182;
* VOC's background, which covers most of most photographs: it may not have become a class, or the void around objects;
* the table's ends: if every class of a published dataset is seen, but the first or the last is not, it has become another;
* colours: what is called sky is bright and not reddish, grass is green, water not reddish, snow bright, sand not bluish. The
  regions that are called so are compared with those that would be called so if all ids were one higher, or one lower.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fgaseg.data.raw import RawDataset
from fgaseg.verification.scan import Scan

_WITHOUT_HOLES = ("coco-stuff",)
"""Tables whose publisher's files show no id below the highest that the table leaves out."""
_BACKGROUND = {"pas-20": 0}
"""The id, outside the table, that is to be expected in nearly every photograph."""
_VOID_NAMES = ("background", "void", "unlabeled", "unlabelled", "ignore")

_LEAST = 0.02
"""Regions count from this share of a photograph on."""
_FITS_IF_TRUE, _FITS_IF_NOT = 0.85, 0.4
"""How often a region's colour fits its name, and how often any other region's does."""
_SURE = 12.0
"""How much more likely, as the natural logarithm, shifted labels must be than labels that are as they should be."""
_KINDS, _REGIONS = 2, 12
"""How many names, and how many regions, must speak for a shift at least."""


def _bright(colour: Sequence[float], least: float) -> bool:
    return sum(colour) / 3 > least


_FITS: dict[str, Callable[[Sequence[float]], bool]] = {
    "sky": lambda c: _bright(c, 105) and c[2] > c[0] - 8,
    "grass": lambda c: c[1] > c[0] - 2 and c[1] > c[2] + 4,
    "water": lambda c: c[2] > c[0] + 2,
    "tree": lambda c: c[1] > c[0] - 4 and not _bright(c, 140),
    "snow": lambda c: _bright(c, 150) and abs(c[0] - c[2]) < 40,
    "sand": lambda c: _bright(c, 100) and c[0] > c[2] + 12,
}
_OTHER_NAMES = {"sky-other": "sky", "water-other": "water", "sea": "water", "river": "water", "lake": "water"}


@dataclass
class _Evidence:
    """What the regions of some names say for labels that are shifted in one way."""

    log_likelihood: float = 0.0
    fits: int = 0
    regions: int = 0
    kinds: tuple[str, ...] = ()


def shift_remarks(raw: RawDataset, scans: Sequence[Scan]) -> list[str]:
    """One sentence for each witness that has found labels shifted by one, or void among the classes."""
    witnesses = (_holes, _background, _ends, _colours)
    found = [*(witness(raw, scans) for witness in witnesses), _void_among_classes(raw)]
    return [remark for remark in found if remark]


def _holes(raw: RawDataset, scans: Sequence[Scan]) -> str:
    if raw.classes not in _WITHOUT_HOLES:
        return ""
    unused = raw.allowed - {entry.raw_id for entry in raw.table} - set(raw.void)
    counts: dict[int, int] = {}
    for one in scans:
        for i in set(one.ids.tolist()) & unused:
            counts[i] = counts.get(i, 0) + 1
    if not counts:
        return ""
    listed = ", ".join(map(str, sorted(counts)[:6])) + ", ..." * (len(counts) > 6)
    return (
        f"ids that no published file holds occur ({listed}; in {max(counts.values())} files): the labels are shifted by one, "
        "or of another numbering; unpack stuffthingmaps again"
    )


def _background(raw: RawDataset, scans: Sequence[Scan]) -> str:
    if raw.name not in _BACKGROUND:
        return ""
    expected, sound = _BACKGROUND[raw.name], [one for one in scans if one.ids.size]
    if len(sound) < 3:
        return ""
    pixels: dict[int, int] = {}
    images: dict[int, int] = {}
    for one in sound:
        for i, count in zip(one.ids.tolist(), one.pixels.tolist(), strict=True):
            pixels[i] = pixels.get(i, 0) + count
            images[i] = images.get(i, 0) + 1
    largest = max(pixels, key=pixels.__getitem__)
    if largest == expected or images.get(expected, 0) > len(sound) / 2:
        return ""
    names = {entry.raw_id: entry.name for entry in raw.table}
    called = f"{largest} ('{names[largest]}')" if largest in names else f"{largest}"
    return (
        f"background, id {expected}, is in {images.get(expected, 0)} of {len(sound)} files, while id {called} covers "
        f"{100 * pixels[largest] / sum(pixels.values()):.0f} % of all pixels: the labels are shifted, or void took "
        "background's place; unpack them again"
    )


def _ends(raw: RawDataset, scans: Sequence[Scan]) -> str:
    if not isinstance(raw.classes, str):
        return ""
    seen = set[int]().union(*(one.ids.tolist() for one in scans))
    unseen = [entry for entry in raw.table if entry.raw_id not in seen]
    first, last = (pick(raw.table, key=lambda entry: entry.raw_id) for pick in (min, max))
    if unseen not in ([first], [last]):
        return ""
    direction = "one too high" if unseen == [first] else "one too low"
    return (
        f"all classes are seen but the {'first' if unseen == [first] else 'last'}, '{unseen[0].name}': ids are {direction}; "
        "unpack the labels again"
    )


def _kinds(raw: RawDataset) -> dict[int, str]:
    """The raw ids whose colour is known, with what they are."""
    names = {entry.raw_id: [_OTHER_NAMES.get(name, name) for name in entry.all_names()] for entry in raw.table}
    return {i: kind for i, all_names in names.items() for kind in all_names if kind in _FITS}


def _weigh(kinds: dict[int, str], scans: Sequence[Scan], shift: int) -> _Evidence:
    """Evidence that the files hold every id plus `shift`."""
    evidence, agreeing = _Evidence(), dict[str, int]()
    for one in scans:
        total = one.pixels.sum()
        for i, count, colour in zip(one.ids.tolist(), one.pixels.tolist(), one.colours.tolist(), strict=True):
            kind = kinds.get(i - shift)
            if kind is None or count < _LEAST * total or math.isnan(colour[0]):
                continue
            fits = _FITS[kind](colour)
            evidence.regions += 1
            evidence.fits += fits
            agreeing[kind] = agreeing.get(kind, 0) + fits
            evidence.log_likelihood += math.log(
                _FITS_IF_TRUE / _FITS_IF_NOT if fits else (1 - _FITS_IF_TRUE) / (1 - _FITS_IF_NOT)
            )
    evidence.kinds = tuple(kind for kind, count in agreeing.items() if count > 1)
    return evidence


def _colours(raw: RawDataset, scans: Sequence[Scan]) -> str:
    kinds = _kinds(raw)
    as_is = _weigh(kinds, scans, 0)
    for shift in (1, -1):
        shifted = _weigh(kinds, scans, shift)
        sure = shifted.log_likelihood - max(as_is.log_likelihood, 0.0) > _SURE
        if sure and len(shifted.kinds) >= _KINDS and shifted.regions >= _REGIONS:
            direction = "one too high" if shift == 1 else "one too low"
            now = f"{as_is.fits} of {as_is.regions}" if as_is.regions else "none"
            return (
                f"ids are {direction}: of the regions called {', '.join(sorted(set(kinds.values())))} {now} have such a "
                f"colour, of those with an id {direction} {shifted.fits} of {shifted.regions}; unpack the labels again, or "
                "number the classes as the files do"
            )
    return ""


def _void_among_classes(raw: RawDataset) -> str:
    if isinstance(raw.classes, str):
        return ""
    for entry in raw.table:
        if entry.name.lower() in _VOID_NAMES:
            return (
                f"the class '{entry.name}' is scored like any other; if its id {entry.raw_id} stands for what has no class, "
                "list it under void in place of classes"
            )
    return ""


def seen_pixels(scans: Sequence[Scan]) -> dict[int, int]:
    """The pixels of each raw id in all files."""
    totals: dict[int, int] = {}
    for one in scans:
        for i, count in zip(one.ids.tolist(), np.asarray(one.pixels).tolist(), strict=True):
            totals[i] = totals.get(i, 0) + count
    return totals
