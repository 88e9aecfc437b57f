"""What a long computation has finished so far, kept on disk, so that the same call goes on where it stopped."""

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from mastlens.errors import BadFile
from mastlens.runs.reading import parse_json


class Ledger:
    """Finished items by name, one JSON line each, appended as they are done.

    A file that belongs to another computation is started anew; a line that was torn by a kill is left out. It stays
    when the block ends well, too: what was computed is not yet written then. The stage that owns it removes it
    (``stages.stage``). Safe to use from several threads.

    Args:
        path: The file; None keeps nothing.
        key: What the items depend on: a hash of inputs and settings.
    """

    def __init__(self, path: Path | None, key: str):
        self.path = path
        self.key = key
        self._done: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Ledger":
        if self.path is None:
            return self
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.is_file() else []
        entries = [entry for line in lines if isinstance(entry := _parsed(line), list) and len(entry) == 2]
        if entries and entries[0] == ["key", self.key]:
            self._done = dict(entries[1:])
        whole = b"".join(_line(entry) for entry in (["key", self.key], *([n, v] for n, v in self._done.items())))
        self.path.write_bytes(whole)
        self._stream = self.path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self.path is None:
            return
        self._stream.close()
        if not self._done:
            self.path.unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def __getitem__(self, name: str) -> Any:
        return self._done[name]

    def add(self, name: str, value: Any) -> None:
        """Keep a finished item: anything JSON can hold; floats come back bit for bit."""
        with self._lock:
            self._done[name] = value
            if self.path is not None:
                self._stream.write(_line([name, value]))
                self._stream.flush()


def _line(entry: Any) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line.decode(), "")
    except (BadFile, UnicodeDecodeError):
        return None
