"""``python -m tests.injection``: a failure at every k, in every command that writes, and what became of it."""

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import Case

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def _import_all() -> None:
    """Import once what every child needs."""
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import mastlens

    for name in mastlens.__all__:
        getattr(mastlens, name)


@dataclass(frozen=True)
class Tried:
    """What became of a row.

    Attributes:
        name: The command.
        changes: How many changes of the file system it makes.
        every: Every so-many-th of them was failed, each once by a kill and once by a full disk.
        failures: How many that is together.
        moments: How many kills from outside there were besides.
        wrong: What went wrong, a line each.
        seconds: Of the processor, children included.
    """

    name: str
    changes: int = 0
    every: int = 1
    failures: int = 0
    moments: int = 0
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        which = "every k" if self.every == 1 else f"every {self.every}th k"
        moments = f", {self.moments} kills from outside" if self.moments else ""
        told = f"{self.changes} changes, {which}: {self.failures} failures{moments}, {len(self.wrong)} wrong"
        return "\n".join([f"{self.name}: {told}, {self.seconds:.0f} s of the processor", *self.wrong])


def attempt(
    case: "Case",
    name: str,
    kept: Path,
    *,
    most: int,
    part: tuple[int, int],
    only: Collection[int],
    moments: int,
    rng: random.Random,
) -> Tried:
    """Fail a command at its changes, and at moments that have nothing to do with them.

    Args:
        case: The command.
        name: What to call it.
        kept: Where to keep what kills leave.
        most: How many of its changes, evenly spread from a drawn one; 0 for all.
        part: Of these, every n-th from the i-th, as (i, n), counted from 0.
        only: These changes and no others; all where it is empty.
        moments: How many kills from outside.
        rng: Draws.
    """
    begun = sum(os.times()[:4])
    try:
        changes = case.whole(kept)
    except AssertionError as error:
        shutil.rmtree(kept, ignore_errors=True)
        return Tried(name, wrong=(f"  without a failure: {error}",))
    every = math.ceil(changes / most) if most else 1
    count, wrong = 0, []
    for what, fails in (("kill", case.killed), ("full disk", case.full)):
        for k in range(rng.randrange(every), changes, every)[part[0] :: part[1]]:
            if only and k not in only:
                continue
            count += 1
            if told := fails(k):
                wrong.append(f"  {what} at {k}: {told}")
    shutil.rmtree(kept)
    for _ in range(moments):
        if told := case.killed_after(rng.uniform(0, case.seconds)):
            wrong.append(f"  kill from outside {told}")
    return Tried(name, changes, every, count, moments, tuple(wrong), sum(os.times()[:4]) - begun)


def main() -> int:
    """Run; return 0 where every failure left what it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.injection", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="commands whose line begins with these")
    parser.add_argument("--most", type=int, default=0, metavar="K", help="so many k a command at most; 0 for all")
    parser.add_argument("--cheap", action="store_true", help="every k of the cheap commands all the same")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="of these every N-th, from the I-th: N processes")
    parser.add_argument("--at", type=int, nargs="*", default=[], metavar="K", help="only these, to try one again")
    parser.add_argument("--moments", type=int, default=50, metavar="M", help="kills from outside, commands in turn")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="rows that it holds are not tried again (JSON lines)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"--part is I/N with I from 1 to N, not {arguments.part}")

    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="injection-")))
    os.environ["MASTLENS_CACHE"] = str(root / "work" / "cache")
    from .commands import ROWS, make_inputs, write_inputs
    from .driver import Case, run

    _import_all()
    inputs = root / "inputs"
    inputs.mkdir()

    def made(action: Callable[[], int]) -> None:
        ended = run(action, root / "work")
        if ended.code:
            raise SystemExit(f"an input could not be made: {ended.said}")

    rows = [row for row in ROWS if not arguments.only or row.line.startswith(tuple(arguments.only))]
    known: dict[str, Tried] = {}
    if arguments.kept and arguments.kept.is_file():
        known = {line: Tried(**told) for line, told in map(json.loads, arguments.kept.read_text().splitlines())}
    try:
        write_inputs(inputs)
        make_inputs(inputs, [row for row in rows if row.line not in known], made)
        for place, row in enumerate(rows):
            if row.line not in known:
                start = inputs / row.start if row.start else None
                out = root / "work" / "out"
                known[row.line] = attempt(
                    Case(row.line, row.action(inputs, out), start, inputs, root / "work"),
                    row.line.split(" -")[0],
                    root / "kept",
                    most=0 if arguments.cheap and row.cheap else arguments.most,
                    part=(part - 1, parts),
                    only=arguments.at,
                    moments=len(range(place, arguments.moments, len(rows))),
                    rng=random.Random(f"{arguments.seed} {row.line}"),
                )
                if arguments.kept:
                    with arguments.kept.open("a") as stream:
                        stream.write(json.dumps([row.line, asdict(known[row.line])]) + "\n")
            sys.stdout.write(f"{known[row.line]}\n")
            sys.stdout.flush()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    done = [known[row.line] for row in rows]
    failures, moments = sum(one.failures for one in done), sum(one.moments for one in done)
    wrong, seconds = sum(len(one.wrong) for one in done), sum(one.seconds for one in done)
    sys.stdout.write(f"{failures} failures and {moments} kills from outside, {wrong} wrong, {seconds:.0f} s\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
