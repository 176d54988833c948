"""How much one picture or one list of classes may ask for: checked before a model runs."""

from dataclasses import dataclass

from fgaseg.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The most that is taken: bytes of a file or request, pixels and side of a picture, classes and their words.

    `names` counts all synonyms of all classes, `letters` those of one name or template.
    """

    body: int = 32 * 2**20
    pixels: int = 16_000_000
    side: int = 16_384
    classes: int = 1_000
    names: int = 4_000
    letters: int = 200
    templates: int = 100

    def check_size(self, width: int, height: int, what: str) -> None:
        """`UserError` for a picture of too many pixels, known before it is decoded."""
        if width * height > self.pixels or max(width, height) > self.side:
            raise UserError(
                f"{what}: {width} x {height} pixels; at most {self.pixels / 1e6:g} million and {self.side} a side are taken: "
                "make the picture smaller"
            )

    def check_bytes(self, count: int, what: str) -> None:
        """`UserError` for content of more bytes than are taken."""
        if count > self.body:
            raise UserError(f"{what}: {count} bytes; at most {self.body} are taken: make the picture smaller")


REQUEST = Limits()
"""For what comes by HTTP or from other code: one picture may cost about 1 GB of memory, not more."""

OWN_FILES = Limits(body=2**31, pixels=178_956_970, side=2**31, letters=10_000)
"""For what the user names on this machine; pixels: twice what Pillow warns of, above which it suspects a decompression bomb."""
