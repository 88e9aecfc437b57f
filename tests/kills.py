"""Ranks, and processes of a Ray cluster, killed at random moments: the same command gives what an unhurt run gives.

    python -m tests.kills --times 30            # a third of them against Ray, where it is installed
    python -m tests.kills --times 20 --ray 0    # ranks alone
    python -m tests.kills --times 5 --ray 5 --of gcs_server     # the head of the cluster, where it is there

After each kill nothing may be left running, what ended on its own must have said so in one message and ended with 2,
and the same command must end in the files of a run that nobody disturbed, byte for byte.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.lineages import TinyLineage, write_lineage
from tests.ranks import run_ranks

_OUTPUTS = ("edit.safetensors", "steps.parquet", "geometry.parquet")


def keep_often(rank: int) -> None:
    """Let a run keep its state after every step."""
    from mastlens.unlearning import resuming

    resuming.SECONDS = resuming._SHARE = 0


def unlearning(lineage: TinyLineage, out: Path, steps: int) -> list[object]:
    """Return the command that ranks are killed in."""
    words = ["--forget", lineage.forget, "--retain", lineage.retain, "--objective", "npo", "--where", "q_proj"]
    return ["unlearn", "--rlvr", lineage.rlvr, *words, "--steps", steps, "--lr", 1e-3, "--batch-size", 5, "--out", out]


def kill_ranks(lineage: TinyLineage, folder: Path, times: int, rng: random.Random, *, steps: int = 12) -> Iterator[str]:
    """Kill a rank so many times; yield what happened, a line each.

    Raises:
        AssertionError: If a run ended in anything else.
    """
    begun = time.monotonic()
    first = run_ranks([unlearning(lineage, folder / "whole", steps)], before=keep_often)
    length = time.monotonic() - begun
    assert [one.codes for one in first] == [[0], [0]], first
    wanted = written(folder / "whole")
    for number in range(times):
        out, victim, moment = folder / f"ranks-{number}", rng.randrange(2), rng.uniform(0.0, length)
        ended = run_ranks([unlearning(lineage, out, steps)], before=keep_often, kill=(victim, moment))
        other = ended[1 - victim]
        assert other.exitcode in (0, 2) and "Traceback" not in other.err, other
        assert other.exitcode == 0 or other.err.count("mastlens: Another rank ended") == 1, other
        again = run_ranks([unlearning(lineage, out, steps)], before=keep_often)
        assert [one.codes for one in again] == [[0], [0]], again
        assert written(out) == wanted, "another result after a kill"
        yield f"rank {victim} after {moment:.1f} s of {length:.1f} s: the other ended with {other.exitcode}"


def kill_ray(lineage: TinyLineage, folder: Path, times: int, rng: random.Random, name: str = "") -> Iterator[str]:
    """Kill a process of a local Ray, or the command itself, so many times; yield what happened, a line each.

    Args:
        name: Of the processes that one is drawn from, where there are such; empty for all.
    """
    words = ["--base", lineage.base, "--sft", lineage.sft, "--rlvr", lineage.rlvr, "--rank", "4", "--full"]

    def command(out: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "mastlens", "geometry", *map(str, words), "--out", str(out), *more]

    if not times:
        return
    subprocess.run(command(folder / "one", "--workers", "1"), check=True, capture_output=True)
    wanted, more = written(folder / "one"), ("--executor", "ray", "--workers", "2")
    begun = time.monotonic()
    subprocess.run(command(folder / "unhurt", *more), check=True, capture_output=True)
    length = time.monotonic() - begun
    assert written(folder / "unhurt") == wanted
    for number in range(times):
        out, moment = folder / f"ray-{number}", rng.uniform(0.0, length)
        running = subprocess.Popen(
            command(out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(moment)
        those = [running.pid, *children(running.pid)]
        victim = rng.choice([pid for pid in those if name in _name(pid)] or those)
        killed = "the command" if victim == running.pid else _name(victim)
        if running.poll() is None:
            os.kill(victim, signal.SIGKILL)
        _, said = running.communicate(timeout=600)
        ended = running.returncode
        assert ended in (0, 2, -signal.SIGKILL), f"{killed}, killed after {moment:.1f} s: ended with {ended}: {said}"
        assert ended != 2 or said.count("mastlens:") == 1, said
        for left in those[1:]:  # a command that was killed leaves its cluster behind
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        done = subprocess.run(command(out, *more), capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert written(out) == wanted, "another result after a kill"
        yield f"{killed} after {moment:.1f} s of {length:.1f} s: the command ended with {ended}"


def written(folder: Path) -> dict[str, bytes]:
    """Return the outputs of a run."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name in _OUTPUTS}


def children(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these did."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, parent = int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid:
            found += [number, *children(number)]
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process that was gone"


def main() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--ray", type=int, default=None, help="how many of them against Ray; a third by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", default="", metavar="NAME", help="of the processes of Ray, only those called so")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    of_ray = (asked.times // 3 if find_spec("ray") else 0) if asked.ray is None else asked.ray
    with tempfile.TemporaryDirectory() as folder:
        lineage = write_lineage(Path(folder) / "lineage")
        for line in kill_ranks(lineage, Path(folder), asked.times - of_ray, rng):
            print(line, flush=True)
        for line in kill_ray(lineage, Path(folder), of_ray, rng, asked.of):
            print(line, flush=True)
    print(f"{asked.times} kills, and each time the files of a run that nobody disturbed")


if __name__ == "__main__":
    main()
