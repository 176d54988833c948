"""Segment one photograph into classes that the user names."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fgaseg.data.raw.base import load_image
from fgaseg.errors import UserError
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.evaluation.sliding import label_map, merge, views
from fgaseg.files import write_json, write_whole
from fgaseg.loading import load_model
from fgaseg.plan import Plan
from fgaseg.reporting.palette import colours, paint
from fgaseg.runtime import set_up_torch

OPACITY = 0.55


def parse_classes(text: str) -> list[str]:
    """Class names from a comma-separated list. Raises `UserError` when there is none, or one comes twice."""
    names = [name.strip() for name in text.replace("\n", ",").split(",") if name.strip()]
    if not names:
        raise UserError('--classes: the list is empty; name classes such as "sky, tree, car"')
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--classes: '{name}' is named twice; name it once")
    return names


def draw_overlay(image: Image.Image, labels: NDArray[np.int64], names: list[str], shares: list[float]) -> Image.Image:
    """The photograph under its segmentation, with a legend of the classes found, largest first."""
    table = colours(names)
    mixed = Image.blend(image, Image.fromarray(paint(labels, names, table)), OPACITY)
    scale = max(1.0, 420 / min(mixed.size))
    mixed = mixed.resize((round(mixed.width * scale), round(mixed.height * scale)), Image.Resampling.BICUBIC)
    unit = max(18, round(min(mixed.size) / 26))
    font = ImageFont.load_default(size=unit * 0.72)
    found = sorted((i for i in range(len(names)) if shares[i] > 0), key=lambda i: -shares[i])
    lines = [(names[i], f"{names[i]}  {100 * shares[i]:.1f} %") for i in found]
    width = round(max(font.getlength(text) for _, text in lines) + 2.2 * unit)
    columns = max(1, mixed.width // width)
    rows = -(-len(lines) // columns)
    sheet = Image.new("RGB", (max(mixed.width, width), mixed.height + round((rows + 0.6) * unit * 1.25)), "white")
    sheet.paste(mixed)
    draw = ImageDraw.Draw(sheet)
    for n, (name, text) in enumerate(lines):
        left = (n % columns) * width + unit // 2
        top = mixed.height + round((n // columns + 0.3) * unit * 1.25)
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
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the overlay is a PNG file; end its name in .png")
    image = ImageOps.exif_transpose(load_image(photo)).convert("RGB")
    chosen = run or plan.default_row.run_id
    assert chosen is not None
    params = plan.runs[chosen]
    device = set_up_torch(threads)
    model = load_model(plan.paths, params, plan.paths.run(chosen) / "model.safetensors").to(device)
    segmenter = FGAsegSegmenter(model, params.vlm.architecture, params.vlm.prompts, params.training.loss)
    segmenter.set_vocabulary(names)
    scores = merge(segmenter.scores(views(image, params.evaluation).to(device)), params.evaluation)
    labels = label_map(scores, image.height, image.width).cpu().numpy()

    pixels = np.bincount(labels.ravel(), minlength=len(names))
    shares = [float(p) / labels.size for p in pixels]
    kind = np.uint8 if len(names) <= 255 else np.uint16
    write_whole(out.with_suffix(".labels.png"), _png(Image.fromarray(labels.astype(kind))))
    areas = [
        {"label": i, "name": n, "pixels": int(p), "area": round(s, 6)}
        for i, (n, p, s) in enumerate(zip(names, pixels, shares, strict=True))
    ]
    write_json(out.with_suffix(".json"), {"photo": str(photo), "run_id": chosen, "scale": plan.scale, "classes": areas})
    write_whole(out, _png(draw_overlay(image, labels, names, shares)))
    order = sorted(range(len(names)), key=lambda i: -shares[i])
    rows = [f"{100 * shares[i]:6.1f} %  {names[i]}" for i in order]
    return "\n".join([*rows, f"wrote {out}, {out.with_suffix('.labels.png').name}, {out.with_suffix('.json').name}"])
