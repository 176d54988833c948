"""An exported run behind real servers on 127.0.0.1: MLflow's own, and `fgaseg serve`, which refuses in one line."""

import base64
import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import CLASSES as OF_PHOTOGRAPHS
from photographs import each_photograph, needs_photographs
from PIL import Image
from project import Project, assert_says
from server import BIN, serving

from fgaseg import load_segmenter
from fgaseg.using.requests import read_labels

SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
CLASSES = "sky, tree, sofa|couch"


def send(address: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def row(project: Project, **changes: Any) -> dict[str, Any]:
    image = base64.b64encode((project.root / SCENE).read_bytes()).decode()
    return {"image": image, "classes": CLASSES} | changes


def records(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"dataframe_records": rows}).encode()


def check_answer(answer: dict[str, Any], project: Project, background: float | None = None) -> None:
    """It says what `load_segmenter` says."""
    expected = load_segmenter("main", root=project.root, threads=1)(project.root / SCENE, CLASSES, background=background)
    np.testing.assert_array_equal(np.asarray(read_labels(answer["labels"])), expected.labels)
    assert (answer["height"], answer["width"]) == expected.labels.shape
    assert answer["run_id"] == expected.run_id
    assert answer["classes"] == expected.areas()


@needs_photographs
@each_photograph
def test_a_real_photograph_gets_a_label_map(photo: Path, guarded: str) -> None:
    image = base64.b64encode(photo.read_bytes()).decode()
    status, answer = send(guarded, records({"image": image, "classes": OF_PHOTOGRAPHS, "background": 0.3}))
    assert status == 200, answer
    found = answer["predictions"][0]
    labels = read_labels(found["labels"])
    assert labels.size == Image.open(photo).size == (found["width"], found["height"])
    counts = np.bincount(np.asarray(labels).ravel(), minlength=len(found["classes"]))
    assert [each["pixels"] for each in found["classes"]] == counts.tolist()


def test_mlflows_own_server_answers(exported: Path, finished: Project, tmp_path: Path) -> None:
    command = (str(BIN / "mlflow"), "models", "serve", "-m", str(exported), "--env-manager", "local", "-h", "127.0.0.1", "-p")
    with serving(tmp_path, *command) as root:
        address = f"{root}/invocations"
        status, answer = send(address, records(row(finished), row(finished, background=0.6)))
        assert status == 200, answer
        check_answer(answer["predictions"][0], finished)
        check_answer(answer["predictions"][1], finished, background=0.6)
        status, answer = send(address, records(row(finished, image="no base64")))
        assert status == 400
        assert "image: not base64" in answer["message"]


def test_the_guarded_server_answers_the_same(guarded: str, finished: Project) -> None:
    status, answer = send(guarded, records(row(finished)))
    assert status == 200, answer
    check_answer(answer["predictions"][0], finished)


def encoded(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": 3}, "image: a picture's file in base64"),
        ({"image": ""}, "image: empty"),
        ({"image": "AAAA"}, "image cannot be read as an image"),
        ({"image": encoded(4001, 4000)}, "4001 x 4000 pixels; at most 16 million"),
        ({"image": encoded(20_000, 1)}, "16384 a side"),
        ({"classes": None}, "classes: text is expected"),
        ({"classes": " , "}, "classes: the list is empty"),
        ({"classes": ",".join(f"c{i}" for i in range(1001))}, "1001 classes"),
        ({"background": 2}, "background: 2 is no score"),
        ({"background": "x"}, "background: a number"),
        ({"picture": 1}, "'picture': unknown"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_bad_request(
    changes: dict[str, Any], words: str, guarded: str, finished: Project
) -> None:
    status, answer = send(guarded, records(row(finished, **changes)))
    assert status == 400
    assert_says(answer["error"], words)
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "application/json", 400, "JSON: cannot be read"),
        (b"{}", "text/csv", 400, "is expected"),
        (b"image,classes\na,b\n", "text/csv", 400, "JSON: cannot be read"),
        (b"[" * 10**6, "application/json", 400, "nested more than 32 deep"),
        (b'{"dataframe_records": []}', "application/json", 400, "0 rows; 1 to 16"),
        (b'{"dataframe_records": [' + b"{}," * 20 + b"{}]}", "application/json", 400, "21 rows; 1 to 16"),
        (b'{"dataframe_records": [{"background": Infinity}]}', "application/json", 400, "Infinity is no number"),
        (b'{"dataframe_records": [{"background": ' + b"9" * 10_000 + b"}]}", "application/json", 400, "cannot be read"),
        (b" " * 46_000_000, "application/json", 413, "send a smaller picture"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(body: bytes, kind: str, status: int, words: str, guarded: str) -> None:
    found, answer = send(guarded, body, kind)
    assert found == status, answer
    assert_says(answer["error"], words)


def test_export_refuses_a_folder_that_is_there_and_a_run_without_model(project: Project) -> None:
    assert_says(project.refusal("export", "main", "params"), "params: there already")
    assert_says(project.refusal("export", project.ids("table_2", 1)[0], "out"), "no trained model")
    assert_says(project.refusal("serve", "params"), "params: no MLflow model")
