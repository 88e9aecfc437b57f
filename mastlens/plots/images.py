"""Images of figures: SVG, PNG and PDF, drawn by the browser that the machine has, many in one run of it.

The figure is drawn by the same plotly.js as in its page; nothing is fetched and nothing beyond a browser is needed.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mastlens.errors import CannotWrite, UnknownName
from mastlens.plots.tables import layout_of

IMAGES = ("svg", "png", "pdf")
"""The kinds of image that a figure is saved as, where a browser is found to make them."""

_WIDTH = 900
_DOTS = 300  # of a PNG on paper, an inch
_PNG_SCALE = 2  # pixels a point, for slides and for screens of high density
_SECONDS = 120  # a browser that takes longer than this for one figure hangs; a start counts as one more
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
_RANDOM = re.compile(r'(?:id="|url\(#?[^)]*?#)?(?:defs|topdefs|legend|clip|cb|bg)[_-]?([0-9a-f]{6})')

_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><script src="plotly.min.js"></script></head><body>
<script type="application/json" id="asked">%s</script>
<script>
(async function () {
  const asked = JSON.parse(document.getElementById("asked").textContent);
  for (const one of asked) {
    const found = document.createElement("script");
    found.type = "text/plain";
    found.id = "image-" + one.key;
    try {
      found.textContent = await Plotly.toImage(one.figure, one.options);
    } catch (error) {
      found.textContent = "error: " + error;
    }
    document.body.appendChild(found);
  }
})();
</script></body></html>
"""
_FOUND = re.compile(r'<script type="text/plain" id="image-([^"]+)">(.*?)</script>', re.DOTALL)
_PRINTED = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><style>
@page {{ size: {width} {height}; margin: 0; }}
html, body {{ margin: 0; }} svg {{ display: block; }}
</style></head><body>{svg}</body></html>
"""


def check_images(images: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of image asked for.

    Raises:
        MastlensError: If there is one that cannot be made.
    """
    images = (images,) if isinstance(images, str) else tuple(images)
    if wrong := [kind for kind in images if kind not in IMAGES]:
        raise UnknownName(f"There is no image of the kind {wrong[0]!r}; there are {', '.join(IMAGES)}.")
    return images


def find_browser() -> str | None:
    """Return a Chrome, Chromium or Edge: what $BROWSER_PATH names, else what is installed, else None."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return shutil.which(named)
    found = (shutil.which(name) for name in _NAMES)
    return next(filter(None, (*found, *(place for place in _PLACES if Path(place).is_file()))), None)


def _browser() -> str:
    if found := find_browser():
        return found
    where = os.environ.get("BROWSER_PATH")
    said = f"$BROWSER_PATH is {where!r}, which is no program" if where else "no Chrome, Chromium or Edge was found"
    raise CannotWrite(f"{said}. Install one of them, or let BROWSER_PATH point to it.")


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def draw_images(
    figures: Mapping[str, go.Figure],
    kinds: Sequence[str] = IMAGES,
    *,
    width: int | None = None,
    inches: float | None = None,
) -> tuple[dict[str, dict[str, bytes]], str]:
    """Return every figure's images by their kind, and one line that says why some are missing, if any are.

    Args:
        figures: Name to figure of this package.
        kinds: Of svg, png and pdf.
        width: In pixels; by default 900, or what the figure needs to be read.
        inches: What that width is on paper; None for a screen, where an inch has 96 pixels.

    Raises:
        MastlensError: If a kind is not one of these.
    """
    kinds = check_images(kinds)
    images: dict[str, dict[str, bytes]] = {name: {} for name in figures}
    if not kinds or not figures:
        return images, ""
    missing = f"No {', '.join(kind.upper() for kind in kinds)}"
    try:
        browser = _browser()
    except CannotWrite as error:
        return images, f"{missing}: {error}"
    sizes = {name: (width or _wide(fig), _tall(fig)) for name, fig in figures.items()}
    with tempfile.TemporaryDirectory(prefix="mastlens-images-") as scratch:
        folder = Path(scratch)
        try:
            drawn, failed = _drawn(browser, folder, figures, sizes, kinds, inches)
            for number, (name, svg) in enumerate((n, svg) for n, svg in drawn["svg"].items() if "pdf" in kinds):
                drawn.setdefault("pdf", {})[name] = _printed(browser, folder, number, svg, sizes[name], inches)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return images, f"{missing}: {browser} failed ({_in_a_line(error)}). The other files are complete."
    for kind in kinds:
        for name, content in drawn.get(kind, {}).items():
            images[name][kind] = content
    if failed:
        said = "; ".join(f"{name}: {text}" for name, text in failed.items())
        return images, f"{missing} of {len(failed)} of {len(figures)} figures, which {browser} could not draw ({said})."
    return images, ""


def _wide(fig: go.Figure) -> int:
    meta = layout_of(fig).meta
    return max(_WIDTH, int(meta["min_width"]) if isinstance(meta, dict) and "min_width" in meta else 0)


def _tall(fig: go.Figure) -> int:
    return int(layout_of(fig).height or 450)


def _drawn(
    browser: str,
    folder: Path,
    figures: Mapping[str, go.Figure],
    sizes: Mapping[str, tuple[int, int]],
    kinds: Sequence[str],
    inches: float | None,
) -> tuple[dict[str, dict[str, bytes]], dict[str, str]]:
    """Return kind to name to SVG or PNG, all drawn in one run of the browser, and why others could not be."""
    names = list(figures)
    asked = []
    raster = [kind for kind in kinds if kind == "png"]
    for number, name in enumerate(names):
        spec = json.loads(figures[name].to_json() or "{}")
        wide, tall = sizes[name]
        for kind in ("svg", *raster):  # the SVG is what a PDF is printed from, too
            scale = 1 if kind == "svg" else _PNG_SCALE if inches is None else _DOTS * inches / wide
            options = {"format": kind, "width": wide, "height": tall, "scale": scale}
            asked.append({"key": f"{kind}-{number}", "figure": spec, "options": options})
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    page = folder / "figures.html"
    page.write_text(_PAGE % json.dumps(asked).replace("</", "<\\/"), encoding="utf-8")
    told = _run(browser, folder, len(asked), "--virtual-time-budget=60000", "--dump-dom", page.as_uri())
    found: dict[str, dict[str, bytes]] = {"svg": {}, **{kind: {} for kind in raster}}
    failed: dict[str, str] = {}
    answers = _FOUND.findall(told)
    if len(answers) < len(asked):
        raise ValueError(f"it drew {len(answers)} of {len(asked)} images")
    for key, text in answers:
        kind, _, number = key.partition("-")
        head, comma, body = text.partition(",")
        if not comma or not head.startswith("data:"):
            failed[names[int(number)]] = " ".join(text.split())[:200]
            continue
        name = names[int(number)]
        if head.endswith("base64"):
            found[kind][name] = base64.b64decode(body)
        else:
            found[kind][name] = _sized(_settled(unquote(body)), sizes[name], inches).encode("utf-8")
    return found, failed


def print_page(page: Path) -> bytes:
    """Return a page of this package as a PDF on A4, printed by the browser once its figures are drawn.

    Raises:
        MastlensError: If there is no browser, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="mastlens-print-") as scratch:
        folder = Path(scratch)
        target = folder / "page.pdf"
        told = ["--no-pdf-header-footer", "--virtual-time-budget=60000", f"--print-to-pdf={target}"]
        try:
            browser = _browser()
            _run(browser, folder, 2, *told, page.resolve().as_uri())
            return _undated(target.read_bytes())
        except (OSError, subprocess.SubprocessError) as error:
            raise CannotWrite(
                f"{page.name} cannot be printed: {_in_a_line(error)}. The page itself is complete."
            ) from error


def _sized(svg: str, size: tuple[int, int], inches: float | None) -> str:
    """Return an SVG that has its size on paper; what it shows is unchanged."""
    if inches is None:
        return svg
    wide, tall = size
    head = f'width="{inches:g}in" height="{inches * tall / wide:.4f}in"'
    sized, found = re.subn(rf'width="{wide}" height="{tall}"', head, svg, count=1)
    if not found:
        raise ValueError("the SVG does not say its size")
    return sized


def _printed(browser: str, folder: Path, number: int, svg: bytes, size: tuple[int, int], inches: float | None) -> bytes:
    """Return an SVG as a PDF of one page of its size; its text stays text."""
    page, target = folder / f"print-{number}.html", folder / f"{number}.pdf"
    wide, tall = (f"{pixels}px" if inches is None else f"{inches * pixels / size[0]:.4f}in" for pixels in size)
    page.write_text(_PRINTED.format(width=wide, height=tall, svg=svg.decode("utf-8")), encoding="utf-8")
    _run(browser, folder, 1, "--no-pdf-header-footer", f"--print-to-pdf={target}", page.as_uri())
    return _undated(target.read_bytes())


def _undated(pdf: bytes) -> bytes:
    """Return a PDF without the time at which it was made, so that equal pages are equal files."""
    return re.sub(rb"\(D:\d{14}", b"(D:20000101000000", pdf)


def _run(browser: str, folder: Path, figures: int, *arguments: str) -> str:
    command = [browser, "--headless", "--disable-gpu", "--disable-extensions", "--hide-scrollbars", "--no-first-run"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # the superuser's browser does not start without; it sees our own page only
    done = subprocess.run(
        [*command, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True,
        timeout=_SECONDS * (1 + figures),
        check=True,
    )
    return done.stdout.decode("utf-8")


def _settled(svg: str) -> str:
    """Number the random names that plotly gives clips and definitions, so that equal figures are equal files."""
    for number, name in enumerate(dict.fromkeys(_RANDOM.findall(svg))):
        svg = svg.replace(name, f"{number:06d}")
    return svg
