"""One request to an endpoint and its whole reply: bounded in time and size, whatever the server does."""

import contextlib
import email.message
import functools
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST_REPLY = 4 * 2**20
"""Bytes of a reply; one of 100,000 tokens has a tenth of that."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHUNK = 2**16


@dataclass(frozen=True)
class Response:
    """What a server answered.

    Attributes:
        status: The HTTP status.
        text: The body.
        headers: By name, whatever its case.
    """

    status: int
    text: str
    headers: email.message.Message


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str], *, timeout: float) -> Response:
    """Send a JSON object and return the answer, an error's too; no redirect is followed, which would take a key along.

    Args:
        url: Where to.
        body: What to send.
        headers: With the key, if there is one.
        timeout: Seconds for all of it together, however often the server sends a byte.

    Raises:
        OSError: If the server cannot be reached, or took longer.
        ValueError: If its answer is larger than ``LARGEST_REPLY``.
        http.client.HTTPException: If it speaks no HTTP.
    """
    told = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(body).encode(), told, method="POST")
    with _deadline(timeout) as deadline:
        handlers: list[Any] = [_NoRedirect, _Plain(deadline), _Secure(deadline)]
        if urllib.parse.urlsplit(url).hostname in _LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's own server
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
                return Response(answer.status, _whole(answer), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.code, _whole(error) or str(error.reason), error.headers)
        except (OSError, http.client.HTTPException, ValueError):
            deadline.check()
            raise


class _Deadline:
    """Cuts the connections that it watches when the time is up: a timeout of a socket counts from its last byte."""

    def __init__(self, seconds: float):
        self.seconds, self.until = seconds, time.monotonic() + seconds
        self._sockets: list[socket.socket] = []

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)

    def cut(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS or not: whoever reads gets the end

    def check(self) -> None:
        if time.monotonic() >= self.until:
            raise TimeoutError(f"no whole reply within {self.seconds:g} s")


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[_Deadline]:
    deadline = _Deadline(seconds)
    timer = threading.Timer(seconds, deadline.cut)
    timer.daemon = True
    timer.start()
    try:
        yield deadline
        deadline.check()  # what was cut may look like a short reply
    finally:
        timer.cancel()


class _Watched:
    """A connection that a deadline can cut."""

    def __init__(self, *arguments: Any, deadline: _Deadline, **named: Any):
        super().__init__(*arguments, **named)
        self._deadline = deadline

    def connect(self) -> None:
        super().connect()  # pyright: ignore[reportAttributeAccessIssue] - of the connection it is mixed into
        self._deadline.watch(self.sock)  # pyright: ignore[reportAttributeAccessIssue]


class _PlainConnection(_Watched, http.client.HTTPConnection):
    pass


class _SecureConnection(_Watched, http.client.HTTPSConnection):
    pass


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline):
        super().__init__()
        self._connection = functools.partial(_PlainConnection, deadline=deadline)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # pyright: ignore[reportArgumentType] - a callable will do


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline):
        super().__init__()
        self._connection = functools.partial(_SecureConnection, deadline=deadline)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # pyright: ignore[reportArgumentType]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _whole(stream: Any) -> str:
    parts, size = [], 0
    while part := stream.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > LARGEST_REPLY:
            raise ValueError(f"the reply has more than {LARGEST_REPLY:,} bytes")
    return b"".join(parts).decode("utf-8", "replace")
