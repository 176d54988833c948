"""What every HTTP request passes before a framework looks at it: limits of size and time, and well-formed JSON."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import accumulate
from typing import Any

from fgaseg.errors import UserError, one_line
from fgaseg.using.limits import REQUEST

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

DEPTH = 32
"""How deep JSON may be nested: requests need 5."""
PATIENCE = 30.0
"""Seconds within which a request's body has to arrive."""
_ENVELOPE = 64 * 1024
_READ_ON = 4


class RefusedError(Exception):
    """A request that is not passed on: its HTTP status, and one line for the sender."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def body_limit() -> int:
    """The most bytes that a body may have: a picture's in base64, a third more than itself, and some for what is around it."""
    return REQUEST.body * 4 // 3 + REQUEST.names * REQUEST.letters + _ENVELOPE


_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NOT_BRACKETS = re.compile(r"[^\[\]{}]+")


def _depth(text: str) -> int:
    """How deep brackets are nested outside strings."""
    brackets = _NOT_BRACKETS.sub("", _STRINGS.sub("", text))
    steps = (1 if letter in "[{" else -1 for letter in brackets)
    return max(accumulate(steps), default=0)


def _no_constant(name: str) -> None:
    raise UserError(f"JSON: {name} is no number; send finite numbers")


def read_json(body: bytes) -> Any:
    """The content of a body. Raises `UserError` unless it is JSON in UTF-8, finite and not nested too deep."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("JSON: not UTF-8; send text in UTF-8") from None
    if _depth(text) > DEPTH:
        raise UserError(f"JSON: nested more than {DEPTH} deep; send a flat request")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # integers of thousands of digits are a ValueError too
        raise UserError(f"JSON: cannot be read ({str(error)[:100]}); send JSON") from None


class Guard:
    """ASGI middleware: 413 for bodies that are too large, 408 for those that do not come, 400 for JSON that is none.

    Bodies with `Content-Type: application/json`, and all those to `always_json`, are read as JSON, and only passed on whole.
    `check` sees the content and may raise `UserError`, whose line is sent with status 400.
    """

    def __init__(
        self, app: App, always_json: tuple[str, ...] = (), check: Callable[[str, Any], None] = lambda path, content: None
    ) -> None:
        self._app, self._always_json, self._check = app, always_json, check

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(receive)
            headers = dict(scope["headers"])
            if scope["path"] in self._always_json or headers.get(b"content-type", b"").startswith(b"application/json"):
                self._check(scope["path"], read_json(body))
        except UserError as error:
            await _refuse(send, 400, one_line(error))
        except RefusedError as refusal:
            await _refuse(send, refusal.status, refusal.text)
        else:
            await self._app(scope, _replay(body, receive), send)

    @staticmethod
    async def _body(receive: Receive) -> bytes:
        limit, count = body_limit(), 0
        body = bytearray()
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "body: the connection ended before it; send it again")
                    part = message.get("body", b"")
                    count += len(part)
                    if count <= limit:
                        body += part
                    else:  # read on for a while and forget: a sender looks at the answer only when all is sent
                        body.clear()
                    if count > _READ_ON * limit or (count > limit and not message.get("more_body")):
                        raise RefusedError(413, f"body: more than {limit} bytes; send a smaller picture")
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise RefusedError(408, f"body: has not come in {PATIENCE:g} s; send it again") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the whole body first, then what the connection gives."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": " ".join(text.split())}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
