"""`load_segmenter`: a trained run as a function of a picture and words, from Python."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from project import Project

from fgaseg import load_segmenter
from fgaseg.errors import UserError
from fgaseg.evaluation.benchmark import segment
from fgaseg.model.threads import one_thread
from fgaseg.using.best import best_names, segment_classes
from fgaseg.using.limits import REQUEST
from fgaseg.using.segmenter import PhotoSegmenter
from fgaseg.using.vocabulary import Vocabulary

SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
CLASSES = ["sky", "tree", "car", "person", "grass", "dog", "wall"]


@pytest.fixture(scope="module")
def seg(finished: Project) -> PhotoSegmenter:
    return load_segmenter("main", root=finished.root, threads=1)


@pytest.fixture(scope="module")
def photo(finished: Project) -> Path:
    return finished.root / SCENE


def test_three_lines_give_labels_confidence_and_names(seg: PhotoSegmenter, photo: Path) -> None:
    result = seg(photo, CLASSES)
    width, height = Image.open(photo).size
    assert result.labels.shape == result.confidence.shape == (height, width)
    assert result.names == CLASSES
    assert set(np.unique(result.labels)) <= set(range(len(CLASSES)))
    assert 1 / len(CLASSES) - 1e-3 <= result.confidence.min() <= result.confidence.max() <= 1
    assert sum(result.shares) == pytest.approx(1)
    assert result.overlay().size > (width, height)


def test_labels_are_those_of_the_benchmarks(seg: PhotoSegmenter, photo: Path) -> None:
    """More names than the model propagates at once: some have been dropped, and labels are still the whole list's."""
    names = [f"thing {i}" for i in range(60)] + CLASSES
    vocabulary = Vocabulary(tuple((name,) for name in names))
    expected = segment(seg.prepare(vocabulary), Image.open(photo).convert("RGB"), seg.params.evaluation)
    np.testing.assert_array_equal(seg(photo, names).labels, expected)


def test_confidence_is_the_score_of_the_class_that_won(seg: PhotoSegmenter, photo: Path) -> None:
    import torch

    scores = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0))
    names, best = best_names(scores, 12, 9, at_once=12 * 9 * 2)
    full = torch.nn.functional.interpolate(scores[None], size=(12, 9), mode="bilinear", align_corners=False)[0]
    assert torch.equal(names, full.argmax(0))
    assert torch.equal(best, full.amax(0))


def test_a_class_scores_as_its_best_synonym_does(seg: PhotoSegmenter, photo: Path) -> None:
    """Labels with synonyms are labels of all names, each counted for its class; confidence is the same."""
    image = Image.open(photo).convert("RGB")
    flat = Vocabulary((("sky",), ("cloud",), ("tree",), ("bush",), ("grass",)))
    grouped = Vocabulary((("sky", "cloud"), ("tree", "bush", "grass")))
    labels, confidence = segment_classes(seg.prepare(flat), image, seg.params.evaluation, flat.owners)
    result = seg(image, "sky|cloud, tree|bush|grass")
    assert result.names == grouped.names == ["sky", "tree"]
    np.testing.assert_array_equal(result.labels, np.array([0, 0, 1, 1, 1])[labels])
    np.testing.assert_array_equal(result.confidence, confidence)


def test_pixels_below_the_threshold_become_background(seg: PhotoSegmenter, photo: Path) -> None:
    plain = seg(photo, CLASSES)
    threshold = float(np.median(plain.confidence))
    cut = seg(photo, CLASSES, background=threshold)
    assert cut.names == [*CLASSES, "background"]
    below = plain.confidence < threshold
    assert 0.3 < below.mean() < 0.7
    np.testing.assert_array_equal(cut.labels, np.where(below, len(CLASSES), plain.labels))


def test_own_prompts_change_the_scores_and_leave_no_trace(seg: PhotoSegmenter, photo: Path) -> None:
    plain = seg(photo, CLASSES)
    drawn = seg(photo, CLASSES, prompts=["a drawing of a {}", "{} from afar"])
    assert not np.array_equal(plain.confidence, drawn.confidence)
    np.testing.assert_array_equal(seg(photo, CLASSES).confidence, plain.confidence)


def test_every_kind_of_picture_gives_the_same_result(seg: PhotoSegmenter, photo: Path) -> None:
    image = Image.open(photo).convert("RGB")
    expected = seg(photo, CLASSES).labels
    for picture in (str(photo), photo.read_bytes(), image, np.asarray(image)):
        np.testing.assert_array_equal(seg(picture, CLASSES).labels, expected)


def test_a_thread_that_begins_in_the_middle_of_a_call_has_all_cores_in_its_own(finished: Project, photo: Path) -> None:
    before = torch.get_num_threads()
    segmenter = load_segmenter("main", root=finished.root, threads=2)
    counts = []

    def call() -> None:
        counts.append(torch.get_num_threads())
        segmenter(photo, CLASSES)
        counts.append(torch.get_num_threads())

    try:
        with one_thread():  # as another call in its middle
            later = threading.Thread(target=call)
            later.start()
            later.join()
    finally:
        torch.set_num_threads(before)
    assert counts == [1, 2]


@pytest.mark.parametrize(
    ("picture", "classes", "options", "words"),
    [
        ("nowhere.jpg", ["sky"], {}, "nowhere.jpg: no such photograph"),
        (b"", ["sky"], {}, "image: empty"),
        (b"no picture", ["sky"], {}, "cannot be read as an image"),
        (np.zeros((4, 4)), ["sky"], {}, "an array of float64"),
        (np.zeros((4, 4, 2), np.uint8), ["sky"], {}, r"shape \(4, 4, 2\)"),
        (7, ["sky"], {}, "int is no picture"),
        (np.zeros((4, 4), np.uint8), [], {}, "classes: the list is empty"),
        (np.zeros((4, 4), np.uint8), ["sky", 3], {}, "a list of names is expected"),
        (np.zeros((4, 4), np.uint8), ["sky", "sky"], {}, "'sky' is named twice"),
        (np.zeros((4, 4), np.uint8), ["sky", "|"], {}, "a class name is empty"),
        (np.zeros((4, 4), np.uint8), ["sky\x07"], {}, "cannot be shown"),
        (np.zeros((4, 4), np.uint8), ["s" * 201], {"limits": REQUEST}, "201 letters; at most 200"),
        (np.zeros((4, 4), np.uint8), [f"c{i}" for i in range(1001)], {}, "1001 classes; at most 1000"),
        (np.zeros((4, 4), np.uint8), ["word " * 39], {}, "makes a prompt of"),
        (np.zeros((4, 4), np.uint8), ["sky"], {"background": float("nan")}, "a number from 0 to 1"),
        (np.zeros((4, 4), np.uint8), ["sky"], {"background": 2}, "2 is no score"),
        (np.zeros((4, 4), np.uint8), ["background"], {"background": 0.5}, "called background already"),
        (np.zeros((4, 4), np.uint8), ["sky"], {"prompts": []}, "0 templates"),
        (np.zeros((4, 4), np.uint8), ["sky"], {"prompts": ["{0}"]}, "exactly one {}"),
        (np.zeros((4001, 4000), np.uint8), ["sky"], {"limits": REQUEST}, "4000 x 4001 pixels; at most 16 million"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    picture: object, classes: list[str], options: dict[str, object], words: str, seg: PhotoSegmenter
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        seg(picture, classes, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_refused_call_leaves_the_segmenter_as_it_was(seg: PhotoSegmenter, photo: Path) -> None:
    expected = seg(photo, CLASSES).labels
    with pytest.raises(UserError):
        seg(photo, ["word " * 39])
    np.testing.assert_array_equal(seg(photo, CLASSES).labels, expected)


@pytest.mark.parametrize(
    ("run", "root", "words"),
    [("ffff", None, "run 'ffff'"), ("main", "/nonexistent", "/nonexistent/params/base.yaml: not found")],
)
def test_an_unknown_run_or_project_is_refused(run: str, root: str | None, words: str, finished: Project) -> None:
    with pytest.raises(UserError, match=words):
        load_segmenter(run, root=root or finished.root)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, fgaseg; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
