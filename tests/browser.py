"""Open a page in a real headless Chromium, and tell what it shows, says and requests.

Chromium is driven by its DevTools protocol over two pipes: messages are JSON objects, each ended by a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE = 60.0  # seconds that an answer, or the page's load, may take

_LOADED = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', () => done()))"


@dataclass(frozen=True)
class Visit:
    """What a page was like: `console` holds its errors and warnings, `requests` each URL that it asked for, its own first."""

    dom: str
    console: list[str]
    requests: list[str]
    value: Any
    screenshot: bytes


class _DevTools:
    """Commands to one page, and the events that came meanwhile."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number = b"", 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Open a page; later commands are for it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    def _message(self, until: float) -> dict[str, Any] | None:
        """The next message, or None when none has come until then (monotonic seconds)."""
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            block = os.read(self._answers, 1 << 20)
            if not block:
                raise RuntimeError("chromium ended")
            self._buffer += block
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        until = time.monotonic() + _PATIENCE
        while (message := self._message(until)) is not None:
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)
        raise TimeoutError(f"{method}: chromium has not answered")

    def listen(self, seconds: float, until_event: str | None = None) -> None:
        """Collect events for some time, or until one of a name comes, which must then come in time."""
        until = time.monotonic() + seconds
        while not any(event["method"] == until_event for event in self.events):
            message = self._message(until)
            if message is None:
                if until_event:
                    raise TimeoutError(f"{until_event}: has not come in {seconds:g} s")
                return
            self.events.append(message)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")


@contextmanager
def _chromium(tmp_path: Path) -> Iterator[_DevTools]:
    assert CHROMIUM, "chromium is not installed"
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    profile = tempfile.mkdtemp(prefix="chromium-", dir=tmp_path)
    move = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where it reads commands and writes answers
    process = subprocess.Popen(
        ["bash", "-c", move, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(theirs_in, theirs_out),
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield _DevTools(ours_out, ours_in)
    finally:
        with suppress(OSError):
            os.write(ours_out, b'{"id": 0, "method": "Browser.close"}\0')
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)
        shutil.rmtree(profile, ignore_errors=True)


def _said(event: dict[str, Any]) -> str | None:
    """The error or warning that an event tells of."""
    params = event.get("params", {})
    match event["method"]:
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
        case "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            return str(details.get("exception", {}).get("description", details["text"]))
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return f"{params['entry']['text']} {params['entry'].get('url', '')}".strip()
    return None


def browse(url: str, tmp_path: Path, wait_ms: int = 0, script: str = "null", size: tuple[int, int] = (1400, 900)) -> Visit:
    """Load a page in a window of `size` pixels, wait, and run `script`, a JavaScript expression whose value is handed back.

    `tmp_path` holds the browser's profile meanwhile. The screenshot, a PNG, shows what the window shows after the script.
    """
    with _chromium(tmp_path) as page:
        page.attach()
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        problem = page.call("Page.navigate", url=url).get("errorText")
        if problem:
            raise RuntimeError(f"{url}: {problem}")
        page.listen(_PATIENCE, "Page.loadEventFired")
        page.evaluate(_LOADED)  # that event may have been of the empty page before
        page.listen(wait_ms / 1000)
        value = page.evaluate(script)
        dom = page.evaluate("document.documentElement.outerHTML")
        screenshot = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
        requests = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
        return Visit(dom, [text for event in page.events if (text := _said(event))], requests, value, screenshot)
