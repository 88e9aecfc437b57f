"""``python -m tests.fuzz --inputs 10000``: damaged inputs for every reader, and what became of them."""

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
CORPUS = Path(__file__).parent / "corpus"


def drawn(inputs: int, seed: int, only: list[str]) -> list[tuple[str, int]]:
    """Return targets and seeds, in the shares that the targets have."""
    from .targets import TARGETS

    rng = random.Random(seed)
    names = only or list(TARGETS)
    return [(rng.choices(names, [TARGETS[n].share for n in names])[0], seed * 10**6 + i) for i in range(inputs)]


def typed(only: list[str]) -> list[str]:
    """Return the targets that a command reads without running a model."""
    from .targets import TARGETS

    return [name for name in only or TARGETS if TARGETS[name].lines]


def corpus() -> Iterator[tuple[str, Path]]:
    """Yield target and folder of every input that once failed."""
    for folder in sorted(CORPUS.glob("*/*")):
        if folder.is_dir():
            yield folder.parent.name, folder


def main() -> int:
    """Run; return 0 where every input was read or refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--command-line", type=int, default=0, metavar="N", help="so many besides, read by commands")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no input is begun after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="TARGET")
    parser.add_argument("--keep", action="store_true", help="put one input of each failure into the corpus")
    arguments = parser.parse_args()
    from .working import Worker

    begun, worker, outcomes, done = time.monotonic(), Worker(), Counter(), Counter()
    failures: set[tuple[str, str, str]] = set()
    most, longest = (0, ""), (0.0, "")
    asked = [(name, 0, folder, False) for name, folder in corpus() if not arguments.only or name in arguments.only]
    asked += [(name, seed, None, False) for name, seed in drawn(arguments.inputs, arguments.seed, arguments.only)]
    asked += [(*one, None, True) for one in drawn(arguments.command_line, arguments.seed, typed(arguments.only))]
    try:
        for name, seed, given, by_command in asked:
            if time.monotonic() - begun > arguments.seconds:
                break
            started = time.monotonic()
            found = worker.read(name, seed, given, typed=by_command)
            told = f"{name} {given.name if given else f'seed {seed}'}{' through the command line' * by_command}"
            longest = max(longest, (time.monotonic() - started, told))
            most = max(most, (found.memory, told))
            done[by_command, given is not None] += 1
            outcomes[found.outcome if found.good else "failed"] += 1
            key = (name, found.outcome.partition(":")[0], found.where)
            if not found.good and key not in failures:
                failures.add(key)
                if arguments.keep and given is None and found.files is not None and found.files.is_dir():
                    shutil.copytree(found.files, CORPUS / name / f"seed-{seed}", dirs_exist_ok=True)
                sys.stdout.write(f"{told}: {found.outcome} ({found.where})\n")
                sys.stdout.flush()
    finally:
        worker.close()
    took = time.monotonic() - begun
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    many = (
        f"{done[False, False]} inputs, {done[True, False]} through the command line, {done[False, True]} of the corpus"
    )
    sys.stdout.write(f"longest {longest[0]:.1f} s ({longest[1]}), most memory {most[0] / 2**20:.0f} MiB ({most[1]})\n")
    sys.stdout.write(f"{many} in {took:.0f} s: {told}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
