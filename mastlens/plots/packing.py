"""Data in a page: deflated JSON in base64, so that it takes little room and no text in it is markup at any time."""

import base64
import json
import zlib
from typing import Any

UNPACK = """
function unpacked(id) {
  "use strict";
  var bytes = Uint8Array.from(atob(document.getElementById(id).textContent), function (c) { return c.charCodeAt(0); });
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}
"""
"""A script's function that gives what ``packed`` wrote, as a promise; browsers have what it takes since 2023."""


def packed(name: str, value: Any) -> str:
    """Return a value for a page's scripts to read with ``unpacked(name)``.

    Args:
        name: An identifier, unique in the page.
        value: What JSON can hold; characters that no encoding holds become question marks.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return f'<script type="text/plain" id="{name}">{base64.b64encode(zlib.compress(text, 9)).decode()}</script>'
