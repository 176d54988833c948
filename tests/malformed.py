"""Seeded malformed requests and files: broken pictures, wrong types, huge numbers, odd encodings, path tricks, deep JSON."""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
PATHS = (
    "/etc/passwd", "../../../../etc/passwd", "..\\..\\x", "file:///etc/shadow", "file://host/x", "http://localhost:1/x",
    "ftp://x/y", "x\0.jpg", "~/x", "/dev/zero", "/proc/self/mem", "", ".", "..", "a" * 5000, "con", "%2e%2e%2f", "file:///%00",
    "http://[", "://", "x\n../y", "\ud800", "smb://h/s",
)  # fmt: skip
WORDS = (
    "", " ", ",", "|", "||,|", "sky", "sky, sky", "sky|sky", "{}", "{0.__class__}", "%s%n", "\0", "\x1b[31m", "\ud800",
    "\u202egniht",
    "é" * 300, "a," * 3000, "|".join("abcdefgh"), "\u200b", "🦊" * 100, "<script>alert(1)</script>", "'; DROP TABLE x",
    "background",
)  # fmt: skip
NUMBERS = (float("nan"), float("inf"), -1, 2, 10**400, -0.0, 1e-320, True, "0.5", None, [], {})


def _png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that says it is of some size, whatever its pixels are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _picture(rng: random.Random) -> bytes:
    image = Image.effect_noise((rng.randint(1, 40), rng.randint(1, 40)), 80).convert(rng.choice(["L", "RGB"]))
    buffer = io.BytesIO()
    image.save(buffer, rng.choice(FORMATS))
    return buffer.getvalue()


def broken_picture(rng: random.Random) -> bytes:
    """Bytes that are no picture, or one that was cut, changed, or says to be huge."""
    content = bytearray(_picture(rng))
    match rng.randrange(6):
        case 0:
            return bytes(content[: rng.randrange(len(content))])
        case 1:
            for _ in range(rng.randint(1, 30)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            return bytes(content)
        case 2:
            return rng.randbytes(rng.randrange(300))
        case 3:
            return _png(rng.choice([0, 1, 2**31 - 1, 60_000]), rng.choice([0, 2**31 - 1, 60_000]), zlib.compress(b"\0" * 1000))
        case 4:
            return bytes(content[: rng.randrange(2, 12)]) + rng.randbytes(200)
        case _:
            start = rng.randrange(len(content))
            return bytes(content[:start] + content[start + rng.randint(1, 20) :])


def broken_row(rng: random.Random) -> Any:
    """A row of a request with at least one thing wrong, mostly."""
    image: Any = base64.b64encode(broken_picture(rng)).decode()
    if rng.random() < 0.3:
        image = rng.choice([None, 3, [], {}, "=", "A" * 99, "data:image/png;base64,AAAA", *PATHS])
    row: dict[str, Any] = {"image": image, "classes": rng.choice([*WORDS, *NUMBERS, ["sky"]])}
    if rng.random() < 0.4:
        row["background"] = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        row[rng.choice(WORDS)] = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        del row[rng.choice(list(row))]
    return rng.choice([None, 7, "row", [row]]) if rng.random() < 0.05 else row


def broken_body(rng: random.Random) -> bytes:  # noqa: PLR0911
    """The body of a request by HTTP."""
    content: Any = {rng.choice(["dataframe_records", "inputs"]): [broken_row(rng) for _ in range(rng.choice([0, 1, 1, 2, 20]))]}
    text = json.dumps(content)
    match rng.randrange(9):
        case 0:
            return text.encode()[: rng.randrange(len(text))]
        case 1:
            depth = rng.choice([33, 1000, 100_000])
            return (rng.choice(["[", '{"a":']) * depth).encode()
        case 2:
            return text.encode(rng.choice(["utf-16", "utf-32", "utf-7"]))
        case 3:
            return rng.randbytes(rng.randrange(400))
        case 4:
            return json.dumps(rng.choice([None, 3, [], "x", {}, {"inputs": 3}, {"instances": []}, {"a": content}])).encode()
        case 5:
            return b'{"inputs": ' + b"9" * rng.choice([5000, 100_000]) + b"}"
        case _:
            return text.encode()


def malformed(count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """`count` attempts, each as what it is tried on and what is sent: the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.choice(["picture", "row", "body", "body", "classes", "path"])
        match kind:
            case "picture":
                yield kind, broken_picture(rng)
            case "row":
                yield kind, broken_row(rng)
            case "body":
                yield kind, broken_body(rng)
            case "classes":
                yield kind, rng.choice([rng.choice(WORDS), [rng.choice([*WORDS, 3, None]) for _ in range(rng.randrange(5))]])
            case _:
                yield kind, rng.choice(PATHS)
