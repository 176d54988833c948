"""Segment one photograph into classes that the user names."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from fgaseg.data.raw.base import load_image
from fgaseg.errors import UserError
from fgaseg.evaluation.benchmark import segment
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.files import write_json, write_whole
from fgaseg.loading import load_model
from fgaseg.plan import Plan
from fgaseg.reporting.palette import colours, paint
from fgaseg.runtime import set_up_torch

OPACITY = 0.55
SHORTEST = 420
"""Overlays of smaller photographs are enlarged to this shorter side, so that the legend can be read."""

_SCORES = 1 << 27
"""How many scores at the photograph's own size are held at once: large photographs take fewer classes at a time."""


def parse_classes(text: str) -> list[str]:
    """Class names from a comma-separated list. Raises `UserError` when there is none, or one comes twice."""
    names = [name.strip() for name in text.replace("\n", ",").split(",") if name.strip()]
    if not names:
        raise UserError('--classes: the list is empty; name classes such as "sky, tree, car"')
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--classes: '{name}' is named twice; name it once")
    return names


def outputs(photo: Path, out: Path) -> tuple[Path, Path, Path]:
    """The overlay, the label map and the areas. Raises `UserError` when one of them cannot be written as such."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the overlay is a PNG file; end its name in .png")
    paths = (out, out.with_suffix(".labels.png"), out.with_suffix(".json"))
    for path in paths:
        if path.is_dir():
            raise UserError(f"--out {out}: {path} is a folder; choose another name")
        if path.exists() and path.samefile(photo):
            raise UserError(f"--out {out}: {path} is the photograph itself; choose another name")
    return paths


def open_photo(path: Path) -> Image.Image:
    """A photograph as people see it, RGB: turned upright by its EXIF orientation, on white where it is transparent."""
    if not path.exists():
        raise UserError(f"{path}: no such photograph; check the path")
    image = ImageOps.exif_transpose(load_image(path, "choose a photograph that other programs can open"))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image) // 256, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _outlines(labels: NDArray[np.int64], size: tuple[int, int]) -> Image.Image:
    """A mask of `size` (width, height): the borders between classes, wider in larger pictures."""
    picture = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    drawn = np.asarray(picture)
    border = np.zeros(drawn.shape, np.uint8)
    border[1:] = drawn[1:] != drawn[:-1]
    border[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
    mask = Image.fromarray(border * 255)
    for _ in range(min(size) // 800):
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask


def draw_overlay(image: Image.Image, labels: NDArray[np.int64], names: list[str], shares: list[float]) -> Image.Image:
    """The photograph under its segmentation, with a legend of the classes found, largest first."""
    table = colours(names)
    mixed = Image.blend(image, Image.fromarray(paint(labels, names, table)), OPACITY)
    scale = max(1.0, SHORTEST / min(mixed.size))
    mixed = mixed.resize((round(mixed.width * scale), round(mixed.height * scale)), Image.Resampling.BICUBIC)
    mixed.paste("white", mask=_outlines(labels, mixed.size))
    unit = max(18, round(min(mixed.size) / 26))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), unit * 0.72)
    found = sorted((i for i in range(len(names)) if shares[i] > 0), key=lambda i: -shares[i])
    lines = [(names[i], f"{names[i]}  {_percent(shares[i])}") for i in found]
    width = round(max(font.getlength(text) for _, text in lines) + 2.8 * unit)
    columns = max(1, mixed.width // width)
    rows = -(-len(lines) // columns)
    sheet = Image.new("RGB", (max(mixed.width, width), mixed.height + round((rows + 0.6) * unit * 1.25)), "white")
    sheet.paste(mixed)
    draw = ImageDraw.Draw(sheet)
    for n, (name, text) in enumerate(lines):
        left = (n % columns) * width + unit // 2
        top = mixed.height + round((n // columns + 0.4) * unit * 1.25)
        draw.rectangle((left, top, left + unit, top + unit), fill=table[name], outline=(90, 90, 90))
        draw.text((left + 1.4 * unit, top + unit / 2), text, fill=(20, 20, 20), font=font, anchor="lm")
    return sheet


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def predict_file(plan: Plan, photo: Path, classes: str, out: Path, run: str | None, threads: int) -> str:
    """Segment `photo` and write the overlay `out`, `<out>.labels.png` and `<out>.json`; returns a table of areas.

    Labels are positions in the list of classes. `run` is a run id, or None for the default model.
    """
    names = parse_classes(classes)
    image = open_photo(photo)
    overlay_path, labels_path, areas_path = outputs(photo, out)
    chosen = run or plan.default_row.run_id
    assert chosen is not None
    params = plan.runs[chosen]
    device = set_up_torch(threads)
    model = load_model(plan.paths, params, plan.paths.run(chosen) / "model.safetensors").to(device)
    segmenter = FGAsegSegmenter(model, params.vlm.architecture, params.vlm.prompts, params.training.loss)
    segmenter.set_vocabulary(names)
    labels = segment(segmenter, image, params.evaluation, max(1, min(32, _SCORES // (image.height * image.width))))

    pixels = np.bincount(labels.ravel(), minlength=len(names))
    shares = [float(p) / labels.size for p in pixels]
    kind = np.uint8 if len(names) <= 255 else np.uint16
    areas = [
        {"label": i, "name": n, "pixels": int(p), "area": round(s, 6)}
        for i, (n, p, s) in enumerate(zip(names, pixels, shares, strict=True))
    ]
    overlay = _png(draw_overlay(image, labels, names, shares))
    write_whole(labels_path, _png(Image.fromarray(labels.astype(kind))))
    write_json(areas_path, {"photo": str(photo), "run_id": chosen, "scale": plan.scale, "classes": areas})
    write_whole(overlay_path, overlay)
    order = sorted(range(len(names)), key=lambda i: -shares[i])
    rows = [f"{_percent(shares[i]):>7}  {names[i]}" for i in order]
    return "\n".join([*rows, f"wrote {overlay_path}, {labels_path.name}, {areas_path.name}"])
