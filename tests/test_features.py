"""`fgaseg features`: the arrays are what the model computes with, and fit together."""

from pathlib import Path

import numpy as np
import pytest
from project import Project, assert_says

from fgaseg import load_segmenter
from fgaseg.using.features import aligned_features
from fgaseg.using.segmenter import PhotoSegmenter
from fgaseg.using.vocabulary import parse_classes

SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"


@pytest.fixture(scope="module")
def seg(finished: Project) -> PhotoSegmenter:
    return load_segmenter("main", root=finished.root, threads=1)


def unit(array: np.ndarray, axis: int) -> np.ndarray:
    return array / np.linalg.norm(array, axis=axis, keepdims=True)


def test_gcs_is_the_cosine_of_image_and_aligned_text(seg: PhotoSegmenter, finished: Project) -> None:
    vocabulary = parse_classes("sky, sofa|couch, tree")
    arrays = aligned_features(seg, finished.root / SCENE, vocabulary, ("a photo of a {}", "a drawing of a {}"))
    channels, h, w = arrays["image"].shape
    assert arrays["text"].shape == (4, 2, channels)
    assert arrays["gcs"].shape == arrays["lcs"].shape == (4, h, w)
    assert arrays["fused"].shape == (4, seg.params.model.hidden_dim, h, w)
    expected = np.einsum("chw,kpc->kphw", unit(arrays["image"], 0), unit(arrays["text"], 2)).mean(1)
    np.testing.assert_allclose(arrays["gcs"], expected, atol=1e-5)
    assert arrays["names"].tolist() == ["sky", "sofa", "couch", "tree"]
    assert arrays["classes"].tolist() == [0, 1, 1, 2]


def test_the_command_writes_one_file_that_needs_no_pickle(project: Project) -> None:
    told = project.succeed("features", SCENE, "--classes", "sky, tree", "--out", "out/x.npz").out
    with np.load(project.root / "out/x.npz", allow_pickle=False) as arrays:
        for name in arrays.files:
            assert f"{arrays[name].shape}" in next(line for line in told.splitlines() if line.split()[0] == name)
        assert set(arrays.files) == {"image", "text", "gcs", "lcs", "fused", "names", "classes"}


@pytest.mark.parametrize(
    ("photo", "out", "words"),
    [
        (SCENE, "x.npy", "end its name in .npz"),
        ("gone.jpg", "x.npz", "gone.jpg: no such photograph"),
        (Path(SCENE).parent.as_posix(), "x.npz", "cannot be read as an image"),
        ("http://localhost/a.jpg", "x.npz", "nothing is downloaded"),
    ],
)
def test_a_mistake_is_one_line(photo: str, out: str, words: str, project: Project) -> None:
    assert_says(project.refusal("features", photo, "--classes", "sky", "--out", out), words)
