"""What a verification found, as text for a person and as JSON for a program."""

from typing import Any

from fgaseg.verification.verify import Verification

_MOST_LINES = 20
"""Findings of a dataset that are printed; JSON has all."""
_MOST_NAMES = 8


def _listed(names: list[str], most: int = _MOST_NAMES) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def text(found: Verification, place: str) -> str:
    """A paragraph on a dataset at a place: counts, the most frequent classes, those never seen, every finding on a line."""
    there = len(found.items)
    expected = "" if found.expected in (None, there) else f" of {found.expected}"
    lines = [f"{found.name} ({place}): {there}{expected} sound images, {_count(len(found.defects), 'finding')}"]
    total = sum(share.pixels for share in found.classes)
    if total:
        frequent = sorted(found.classes, key=lambda share: -share.pixels)[:_MOST_NAMES]
        parts = [f"{share.name} {100 * share.pixels / total:.1f} %" for share in frequent if share.pixels]
        seen = len(found.classes) - len(found.unseen)
        lines += [
            f"  seen       {seen} of {_count(len(found.classes), 'class', 'classes')}; void {100 * found.void:.1f} % of pixels",
            f"  of labels  {', '.join(parts)}",
        ]
        if found.unseen:
            lines.append(f"  never      {_listed(found.unseen)}")
        if found.unlabelled:
            lines.append(f"  note       {_count(found.unlabelled, 'image')} without a labelled pixel")
    lines += [f"  found      {defect.text}" for defect in found.defects[:_MOST_LINES]]
    if len(found.defects) > _MOST_LINES:
        lines.append(f"  found      ... and {len(found.defects) - _MOST_LINES} more; --json lists all")
    return "\n".join(lines)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def as_json(found: Verification) -> dict[str, Any]:
    """All that was found, with the label histogram over the whole class table."""
    return {
        "dataset": found.name,
        "images": len(found.items),
        "expected": found.expected,
        "void_share": found.void,
        "images_without_label": found.unlabelled,
        "classes": [
            {"name": share.name, "raw_id": share.raw_id, "pixels": share.pixels, "images": share.images}
            for share in found.classes
        ],
        "findings": [{"path": str(defect.path), "text": defect.text} for defect in found.defects],
    }
