"""The web page in a real browser: picture and words in, masks with legend and confidence out, nothing from elsewhere."""

import base64
import io
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Visit, browse, needs_browser
from photographs import CLASSES, each_photograph, needs_photographs
from PIL import Image
from project import Project
from server import serving

REPOSITORY = Path(__file__).parents[1]
SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
PYTHON = Path(sys.executable) if find_spec("gradio") else REPOSITORY / ".venv-app" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="Gradio is not installed: make app")

DRIVE = """(async () => {
  const until = async f => {
    for (let i = 0; i < 600; i++) { const v = f(); if (v) return v; await new Promise(r => setTimeout(r, 100)); }
    throw Error('never: ' + f);
  };
  const drop = new DataTransfer();
  drop.items.add(new File([Uint8Array.from(atob(PHOTO), c => c.charCodeAt(0))], '../../scene.jpg', {type: 'image/jpeg'}));
  const input = await until(() => document.querySelector('#picture input[type=file]'));
  input.files = drop.files;
  input.dispatchEvent(new Event('change', {bubbles: true}));
  await until(() => document.querySelector('#picture img'));
  const text = document.querySelector('#classes textarea, #classes input');
  text.value = CLASSES;
  text.dispatchEvent(new Event('input', {bubbles: true}));
  if (COMPARE) {
    document.querySelector('#second input').focus();
    const option = await until(() => document.querySelectorAll('#second [role=option]')[1]);
    option.dispatchEvent(new MouseEvent('mousedown', {bubbles: true}));
    await until(() => document.querySelector('#two'));
  }
  await new Promise(r => setTimeout(r, 300));
  document.querySelector('#segment').click();
  const said = await until(() => document.querySelector('#said .refusal') ||
    (document.querySelector('#legend-one table') && (!COMPARE || document.querySelector('#legend-two table'))));
  if (document.querySelector('#said .refusal')) return {said: document.querySelector('#said').innerText};
  const images = await until(() => {
    const found = [...document.querySelectorAll('#one img, #two img')];
    return found.length > COMPARE && found.every(i => i.complete && i.naturalWidth) && found;
  });
  const rows = where => [...document.querySelectorAll(`#legend-${where} tr`)].slice(1).map(r =>
    ({name: r.cells[1].innerText, area: r.cells[2].innerText, confidence: r.cells[3].innerText,
      colour: getComputedStyle(r.querySelector('i')).backgroundColor}));
  return {one: rows('one'), two: rows('two'), width: images[0].naturalWidth,
    fonts: [...new Set([...document.querySelectorAll('*')].map(e => getComputedStyle(e).fontFamily))]};
})()"""


@pytest.fixture(scope="module")
def address(finished: Project) -> Iterator[str]:
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = (str(PYTHON), "-m", "fgaseg.cli", "app", "--port")
    with serving(finished.root, *command, ready="", environment=environment) as there:
        yield there


def drive(address: str, photo: Path, tmp_path: Path, classes: str, compare: bool = False) -> Visit:
    content = base64.b64encode(photo.read_bytes()).decode()
    script = DRIVE.replace("PHOTO", json.dumps(content)).replace("CLASSES", json.dumps(classes))
    return browse(address, tmp_path, 1000, script.replace("COMPARE", "1" if compare else "0"), (1280, 1250))


@needs_browser
def test_masks_legend_and_confidence_of_two_runs(address: str, finished: Project, tmp_path: Path) -> None:
    visit = drive(address, finished.root / SCENE, tmp_path, "sky, tree, sofa|couch", compare=True)
    shown: dict[str, Any] = visit.value
    assert {row["name"] for row in shown["one"]} == {"sky", "tree", "sofa"}
    assert shown["one"] == shown["two"]
    assert sum(float(row["area"].split()[-2]) for row in shown["one"]) == pytest.approx(100, abs=0.3)
    largest = shown["one"][0]
    assert 1 / 4 <= float(largest["confidence"]) <= 1  # four names share the softmax
    assert len({row["colour"] for row in shown["one"]}) == 3
    elsewhere = [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
    assert not any("http" in font for font in shown["fonts"])
    pixels = np.asarray(Image.open(io.BytesIO(visit.screenshot)).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


@needs_browser
@needs_photographs
@each_photograph
def test_a_real_photograph_is_segmented(photo: Path, address: str, tmp_path: Path) -> None:
    visit = drive(address, photo, tmp_path, CLASSES)
    shown: dict[str, Any] = visit.value
    assert {row["name"] for row in shown["one"]} <= set(CLASSES.split(", "))
    assert sum(float(row["area"].split()[-2]) for row in shown["one"]) == pytest.approx(100, abs=0.5)
    if keep := os.environ.get("FGASEG_KEEP_PICTURES"):  # to be looked at
        Path(keep, f"{photo.stem}.png").write_bytes(visit.screenshot)


@needs_browser
def test_a_mistake_is_said_on_the_page(address: str, finished: Project, tmp_path: Path) -> None:
    shown = drive(address, finished.root / SCENE, tmp_path, "sky, sky").value
    assert shown == {"said": "classes: 'sky' is named twice; name it once"}


def send(address: str, body: bytes, kind: str = "application/json", route: str = "call/segment") -> tuple[int, str]:
    request = urllib.request.Request(f"{address}/gradio_api/{route}", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "JSON: cannot be read"),
        (b'{"data": [NaN]}', 400, "NaN is no number"),
        (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "nested more than 32 deep"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b"[]", 422, "dictionary"),
        (b'{"data": [{"path": "http://127.0.0.1:1/a.jpg"}, "sky"]}', 400, "nothing is downloaded"),
        (b" " * 46_000_000, 413, "send a smaller picture"),
    ],
)
def test_bad_requests_are_refused(body: bytes, status: int, words: str, address: str) -> None:
    found, said = send(address, body)
    assert (found, words in said, said.count("\n")) == (status, True, 0), said


def test_a_file_of_the_server_is_no_upload(address: str) -> None:
    picture = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    status, said = send(address, json.dumps({"data": [picture, "sky", 0, "x", "(none)"]}).encode())
    assert status == 200
    event = json.loads(said)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/segment/{event}", timeout=30) as response:
        told = response.read().decode()
    assert "event: error" in told
    assert "root:" not in told


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "params/base.yaml"])
def test_no_file_of_the_server_is_shown(path: str, address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=30)
    assert caught.value.code in (403, 404)
