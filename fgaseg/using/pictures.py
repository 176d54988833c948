"""Pictures as people see them, from files, bytes, arrays and other images."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fgaseg.errors import UserError
from fgaseg.using.limits import OWN_FILES, REQUEST, Limits

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
_REMEDY = "choose a photograph that other programs can open"
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is taken from elsewhere: formats that Pillow decodes by itself, where it calls no other program."""


def upright(image: Image.Image) -> Image.Image:
    """The picture as people see it, RGB: turned upright by its EXIF orientation, on white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image) // 256, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _decode(source: Path | io.BytesIO, what: str, limits: Limits, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Size first, pixels second. Raises `UserError` for whatever is no picture, damaged or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=formats) as image:
                limits.check_size(*image.size, what)
                image.load()
                return upright(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{what}: too many pixels; make the picture smaller") from None
    except Exception as error:  # each of Pillow's decoders has exceptions of its own for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what} cannot be read as an image ({reason}): {_REMEDY}") from None


def open_photo(path: Path, limits: Limits = OWN_FILES) -> Image.Image:
    """The photograph in a file, RGB. Raises `UserError` when it is missing, no picture, damaged or too large."""
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or that the disk cannot hold
        raise UserError(f"{str(path)[:200]}: no such photograph ({error.args[-1]}); check the path") from None
    if not there:
        raise UserError(f"{path}: no such photograph; check the path")
    if not path.is_file() and not path.is_dir():
        raise UserError(f"{path} cannot be read as an image (not an ordinary file): {_REMEDY}")
    limits.check_bytes(path.stat().st_size, str(path))
    return _decode(path, str(path), limits)


def decode(content: bytes, what: str = "image", limits: Limits = REQUEST) -> Image.Image:
    """The picture in an encoded file's bytes, RGB; errors as in `open_photo`, `what` names it in them."""
    if not content:
        raise UserError(f"{what}: empty; send a picture's file")
    limits.check_bytes(len(content), what)
    return _decode(io.BytesIO(content), what, limits, FORMATS)


def _from_array(pixels: NDArray[np.uint8], limits: Limits) -> Image.Image:
    grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not grey_or_colour or not pixels.size:
        raise UserError(
            f"picture: an array of {pixels.dtype} with shape {pixels.shape}; uint8 (H, W), (H, W, 3) or (H, W, 4) is expected"
        )
    limits.check_size(pixels.shape[1], pixels.shape[0], "picture")
    return upright(Image.fromarray(pixels))


def as_image(picture: Picture, limits: Limits = OWN_FILES) -> Image.Image:
    """Any kind of picture, RGB: a path, a file's bytes, a Pillow image, an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
    if isinstance(picture, bytes):
        return decode(picture, limits=limits)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, limits)
    if isinstance(picture, Image.Image):
        limits.check_size(*picture.size, "picture")
        return upright(picture)
    if isinstance(picture, str | os.PathLike):
        return open_photo(Path(picture), limits)
    raise UserError(f"picture: {type(picture).__name__} is no picture; give a path, bytes, a Pillow image or an array")
