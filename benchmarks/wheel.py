"""Does what a user installs work? Builds the wheel, installs it into an empty environment, and runs the demo there.

    python benchmarks/wheel.py [--out docs/results/wheel.md] [--before DEMO]

The environment finds this one's libraries, not this one's mastlens: nothing is downloaded, and what runs is the wheel.
With ``--before``, the demo's tables are compared with those of a folder that ``mastlens demo`` wrote.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_wheel(out: Path) -> Path:
    """Build the wheel into a folder and return it."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)], cwd=ROOT, check=True)
    (wheel,) = out.glob("mastlens-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment, and return its folder of scripts."""
    venv.create(folder, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(folder), "platbase": str(folder)})
    place, scripts = Path(paths["purelib"]), Path(paths["scripts"])
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--disable-pip-version-check", str(wheel)], check=True)
    # A path file of its own: libraries are found there, but path files there are not followed, so that an editable
    # install of mastlens among them is not.
    (place / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return scripts


def environment() -> dict[str, str]:
    """Return this environment without what would lead back to the sources."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in left_out} | {"HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Build, install, run, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file for what came out")
    parser.add_argument("--before", type=Path, help="a folder that mastlens demo wrote")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = build_wheel(folder)
        scripts = install(wheel, folder / "env")
        start = time.perf_counter()
        demo = [str(scripts / "mastlens"), "demo", "--out", str(folder / "demo"), "--json"]
        done = subprocess.run(demo, cwd=folder, env=environment(), check=False)
        seconds = time.perf_counter() - start
        lines = [
            f"- `{wheel.name}`, {wheel.stat().st_size / 2**20:.1f} MiB, in an environment without mastlens's sources",
            f"- `mastlens demo` exits with {done.returncode} after {seconds:.0f} s and writes "
            f"{sum(1 for file in (folder / 'demo').rglob('*') if file.is_file())} files",
        ]
        same = 0
        if given.before is not None and done.returncode == 0:
            compare = [sys.executable, str(ROOT / "benchmarks" / "unchanged.py"), str(given.before)]
            told = subprocess.run([*compare, str(folder / "demo")], capture_output=True, text=True, check=False)
            same = told.returncode
            lines += [f"- against a demo from the sources ({told.returncode} = differs):", "", told.stdout.strip()]
    text = "\n".join(
        ["# The demo from a wheel", "", f"`python benchmarks/wheel.py`, {date.today().isoformat()}.", "", *lines, ""]
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    return done.returncode or same


if __name__ == "__main__":
    sys.exit(main())
