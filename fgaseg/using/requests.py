"""Requests by HTTP to an exported model: what they hold, checked before the model runs, and what they get."""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fgaseg.errors import UserError
from fgaseg.using.limits import REQUEST, Limits
from fgaseg.using.overlay import png
from fgaseg.using.pictures import decode
from fgaseg.using.segmentation import Segmentation
from fgaseg.using.vocabulary import Vocabulary, check_background, parse_classes

COLUMNS = ("image", "classes", "background")
AT_ONCE = 16
"""How many pictures a request may hold."""


@dataclass(frozen=True)
class Order:
    """One picture to be segmented."""

    image: Image.Image
    vocabulary: Vocabulary
    background: float | None


def _image(value: Any, limits: Limits) -> Image.Image:
    if not isinstance(value, str):
        raise UserError("image: a picture's file in base64 is expected, as text")
    limits.check_bytes(len(value) * 3 // 4, "image")
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("image: not base64; encode the bytes of the picture's file") from None
    return decode(content, "image", limits)


def read_order(row: Mapping[str, Any], limits: Limits = REQUEST) -> Order:
    """A row of a request: `image` (base64), `classes` ("sky, tree, sofa|couch") and perhaps `background` (0 to 1).

    Raises `UserError` for anything else. A background that is null or not a number counts as none.
    """
    unknown = sorted(str(key)[:40] for key in row if key not in COLUMNS)
    if unknown:
        raise UserError(f"{unknown[0]!a}: unknown; a request has {', '.join(COLUMNS)}")
    if not isinstance(row.get("classes"), str):
        raise UserError('classes: text is expected, such as "sky, tree, sofa|couch"')
    vocabulary = parse_classes(row["classes"], "classes", limits)
    background = row.get("background")
    if isinstance(background, float) and math.isnan(background):
        background = None
    return Order(_image(row.get("image"), limits), vocabulary, check_background(background, vocabulary, "background"))


def answer(result: Segmentation) -> dict[str, Any]:
    """What a request gets for a picture; `labels` is a grey PNG in base64, of 8 bits for up to 255 classes, else of 16."""
    return {
        "run_id": result.run_id,
        "height": result.labels.shape[0],
        "width": result.labels.shape[1],
        "labels": base64.b64encode(png(result.label_image())).decode(),
        "classes": result.areas(),
    }


def read_labels(text: str) -> Image.Image:
    """The label map of an answer."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def rows_of(content: Any) -> list[Mapping[str, Any]]:
    """The rows of a request's JSON: `dataframe_records` or `inputs` with a list of rows or one row.

    Raises `UserError` for any other form.
    """
    if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in ("dataframe_records", "inputs"):
        raise UserError('JSON: {"dataframe_records": [{"image": ..., "classes": ...}]} is expected')
    rows = next(iter(content.values()))
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError("JSON: a list of rows is expected, each with image and classes")
    if not 1 <= len(rows) <= AT_ONCE:
        raise UserError(f"JSON: {len(rows)} rows; 1 to {AT_ONCE} are taken")
    return rows


def check_request(path: str, content: Any) -> None:
    """`UserError` for a request to `/invocations` that the model would refuse; each picture is read once for that."""
    if path == "/invocations":
        for row in rows_of(content):
            read_order(row)
