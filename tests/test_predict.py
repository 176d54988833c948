"""`fgaseg predict`: overlay, label map and areas agree, whatever photograph and classes it is given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from project import Project

CLASSES = ("sky", "tree", "car", "person", "grass", "dog", "wall")
SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
MIRRORED_AND_TURNED = 7
"""EXIF orientations from 5 to 8 exchange width and height."""


@dataclass(frozen=True)
class Prediction:
    labels: np.ndarray
    areas: dict[str, Any]
    overlay: Image.Image
    out: str


def predict(project: Project, photo: str | Path = SCENE, classes: Sequence[str] = CLASSES, name: str = "overlay") -> Prediction:
    out = project.root / "out" / f"{name}.png"
    result = project.succeed("predict", photo, "--classes", ", ".join(classes), "--out", out)
    labels = Image.open(out.with_suffix(".labels.png"))
    assert labels.mode == "L"
    areas = json.loads(out.with_suffix(".json").read_text())
    return Prediction(np.asarray(labels), areas, Image.open(out), result.out)


def scene(project: Project) -> Image.Image:
    return Image.open(project.root / SCENE)


def test_the_three_files_agree(project: Project) -> None:
    predicted = predict(project)
    width, height = scene(project).size
    assert predicted.labels.shape == (height, width)
    assert predicted.labels.max() < len(CLASSES)
    entries = predicted.areas["classes"]
    assert [(entry["label"], entry["name"]) for entry in entries] == list(enumerate(CLASSES))
    assert [entry["pixels"] for entry in entries] == [int((predicted.labels == i).sum()) for i in range(len(CLASSES))]
    assert sum(entry["area"] for entry in entries) == pytest.approx(1, abs=1e-5)
    for entry in entries:
        assert entry["area"] == pytest.approx(entry["pixels"] / (width * height), abs=1e-6)
    assert predicted.areas["run_id"] == project.ids("table_1", 2)[0]
    assert predicted.areas["photo"] == SCENE


def test_the_overlay_shows_each_found_class_in_one_colour_under_the_photograph(project: Project) -> None:
    """Inside a region, overlay minus dimmed photograph is the same colour at every pixel."""
    large = scene(project).resize((800, 600))
    large.save(project.root / "large.png")
    predicted = predict(project, "large.png")
    overlay = np.asarray(predicted.overlay.convert("RGB"), np.float64)
    assert overlay.shape[1] == 800
    assert overlay.shape[0] > 600
    tint = overlay[:600] - 0.45 * np.asarray(large, np.float64)
    labels = Image.fromarray(predicted.labels)
    inner = np.asarray(labels.filter(ImageFilter.MaxFilter(5))) == np.asarray(labels.filter(ImageFilter.MinFilter(5)))
    colours = []
    for label in np.unique(predicted.labels[inner]):
        tints = tint[inner & (predicted.labels == label)]
        assert np.ptp(tints, axis=0).max() <= 3
        colours.append(tuple(np.median(tints, 0).round()))
    assert len(set(colours)) == len(colours) > 1


def test_the_legend_is_below_the_photograph_and_in_its_colours(project: Project) -> None:
    predicted = predict(project, classes=["sky"])
    scale = 420 / min(scene(project).size)
    height = round(scene(project).height * scale)
    assert predicted.overlay.width == round(scene(project).width * scale)
    legend = np.asarray(predicted.overlay)[height:]
    assert (legend == (135, 190, 240)).all(-1).any()
    assert (legend == 255).all(-1).mean() > 0.5


def test_areas_are_listed_largest_first(project: Project) -> None:
    predicted = predict(project)
    entries = sorted(predicted.areas["classes"], key=lambda entry: -entry["pixels"])
    lines = predicted.out.splitlines()
    assert [line.split()[-1] for line in lines[: len(CLASSES)]] == [entry["name"] for entry in entries]
    assert lines[0].split()[:2] == [f"{100 * entries[0]['area']:.1f}", "%"]
    assert lines[-1].startswith("wrote ")


def test_the_same_photograph_gives_the_same_files(project: Project) -> None:
    for name in ("first", "second"):
        predict(project, name=name)
    for suffix in (".png", ".labels.png", ".json"):
        first, second = ((project.root / "out" / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second


def test_the_order_of_classes_renames_labels_alone(project: Project) -> None:
    forwards = predict(project, name="forwards").labels
    backwards = predict(project, classes=CLASSES[::-1], name="backwards").labels
    assert (len(CLASSES) - 1 - backwards == forwards).mean() > 0.99


def test_one_class_covers_the_photograph(project: Project) -> None:
    predicted = predict(project, classes=["wall"])
    assert not predicted.labels.any()
    assert [entry["area"] for entry in predicted.areas["classes"]] == [1.0]


def test_class_names_may_be_any_words(project: Project) -> None:
    names = ["a striped awning over the door", "Straße", "небо", "naïve café", "x"]
    predicted = predict(project, classes=names)
    assert [entry["name"] for entry in predicted.areas["classes"]] == names


def test_more_classes_than_the_model_propagates_at_once(project: Project) -> None:
    names = [f"thing {i}" for i in range(60)]
    predicted = predict(project, classes=names)
    assert len(predicted.areas["classes"]) == 60
    assert predicted.labels.max() < 60


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (20, 20), (1200, 900)], ids=["panorama", "tower", "tiny", "large"])
def test_a_photograph_of_any_size(size: tuple[int, int], project: Project) -> None:
    scene(project).resize(size).save(project.root / "photo.png")
    predicted = predict(project, "photo.png")
    assert predicted.labels.shape == size[::-1]
    assert min(predicted.overlay.size) >= 420


def test_exif_orientation_is_honoured(project: Project) -> None:
    upright = scene(project).resize((160, 120))
    upright.save(project.root / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = MIRRORED_AND_TURNED
    stored = upright.transpose(Image.Transpose.TRANSVERSE)
    stored.save(project.root / "turned.png", exif=exif)
    assert Image.open(project.root / "turned.png").size == (120, 160)
    expected, found = (predict(project, f"{name}.png", name=name).labels for name in ("upright", "turned"))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("CMYK", "jpg"), ("P", "png"), ("RGB", "webp")])
def test_a_photograph_of_any_mode_is_segmented_as_its_colours(mode: str, suffix: str, project: Project) -> None:
    options = {"quality": 100} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    scene(project).convert(mode).save(project.root / f"photo.{suffix}", **options)
    assert Image.open(project.root / f"photo.{suffix}").mode == mode
    expected = predict(project, name="plain").labels
    found = predict(project, f"photo.{suffix}", name="other").labels
    assert (found == expected).mean() > 0.8


def test_grey_photographs_of_8_and_16_bits_are_alike(project: Project) -> None:
    grey = scene(project).convert("L")
    grey.save(project.root / "grey8.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 7).save(project.root / "grey16.png")
    assert Image.open(project.root / "grey16.png").mode == "I;16"
    eight, sixteen = (predict(project, f"{name}.png", name=name).labels for name in ("grey8", "grey16"))
    np.testing.assert_array_equal(eight, sixteen)


def test_what_is_transparent_is_white(project: Project) -> None:
    pixels = np.array(scene(project).convert("RGBA"))
    pixels[:40, :, 3] = 0
    Image.fromarray(pixels).save(project.root / "hole.png")
    pixels[:40] = 255
    Image.fromarray(pixels[..., :3]).save(project.root / "white.png")
    hole, white = (predict(project, f"{name}.png", name=name).labels for name in ("hole", "white"))
    np.testing.assert_array_equal(hole, white)
