"""What a long computation has finished so far, kept on disk, so that the same call goes on where it stopped."""

import hashlib
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from mastlens.errors import BadFile
from mastlens.runs.files import atomic_path
from mastlens.runs.reading import parse_json


class Ledger:
    """Finished items by name, one JSON line each, appended as they are done.

    A file that belongs to another computation is started anew. Every line carries a checksum over itself and the key:
    one that was torn by a kill, damaged or changed is left out, and its item done again. It stays when the block ends
    well, too: what was computed is not yet written then. The stage that owns it removes it (``stages.stage``). Safe to
    use from several threads.

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
        found = self.path.read_bytes() if self.path.is_file() else b""
        self._done = dict(entry for line in found.split(b"\n")[:-1] if (entry := self._parsed(line)) is not None)
        kept = b"".join(self._line(name, value) for name, value in self._done.items())
        if kept != found:
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(kept)
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
                self._stream.write(self._line(name, value))
                self._stream.flush()

    def _line(self, name: str, value: Any) -> bytes:
        return json.dumps([name, value, self._checksum(name, value)]).encode() + b"\n"

    def _checksum(self, name: str, value: Any) -> str:
        return hashlib.sha256(json.dumps([self.key, name, value]).encode()).hexdigest()[:32]

    def _parsed(self, line: bytes) -> tuple[str, Any] | None:
        """Return the name and value of a line that this computation wrote and nobody changed; None for any other."""
        try:
            name, value, checksum = parse_json(line.decode(), "")
            return (name, value) if isinstance(name, str) and checksum == self._checksum(name, value) else None
        except (BadFile, ValueError, TypeError):
            return None
