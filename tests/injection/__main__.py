"""``python -m tests.injection``: a failure at every k, in every command that writes, and what became of it."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def _import_all() -> None:
    """Import once what every child needs."""
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import mastlens

    for name in mastlens.__all__:
        getattr(mastlens, name)


def main() -> int:
    """Run; return 0 where every failure left what it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.injection", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="commands whose line begins with these")
    parser.add_argument("--drawn", type=int, default=0, metavar="K", help="so many drawn k a command; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cheap", action="store_true", help="every k of the cheap commands, though others are drawn")
    arguments = parser.parse_args()

    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="injection-")))
    os.environ["MASTLENS_CACHE"] = str(root / "work" / "cache")
    from .commands import ROWS, make_inputs, write_inputs
    from .driver import Case, run

    _import_all()
    inputs, wrong, counted = root / "inputs", 0, 0
    inputs.mkdir()

    def made(action: Callable[[], int]) -> None:
        ended = run(action, root / "work")
        if ended.code:
            raise SystemExit(f"an input could not be made: {ended.said}")

    rng = random.Random(arguments.seed)
    try:
        write_inputs(inputs)
        rows = [row for row in ROWS if not arguments.only or row.line.startswith(tuple(arguments.only))]
        make_inputs(inputs, rows, made)
        for row in rows:
            case = Case(
                row.line,
                row.action(inputs, root / "work" / "out"),
                inputs / row.start if row.start else None,
                inputs,
                root / "work",
            )
            try:
                changes = case.whole(root / "kept")
            except AssertionError as error:  # the others are tried all the same
                wrong += 1
                sys.stdout.write(f"{row.line.split(' -')[0]}: wrong without a failure: {error}\n")
                shutil.rmtree(root / "kept", ignore_errors=True)
                continue
            every = not arguments.drawn or (arguments.cheap and row.cheap)
            failures = []
            for what, fails in (("kill", case.killed), ("full disk", case.full)):
                ks = range(changes) if every else sorted(rng.sample(range(changes), min(arguments.drawn, changes)))
                counted += len(ks)
                failures += [f"  {what} at {k}: {told}" for k in ks if (told := fails(k))]
            shutil.rmtree(root / "kept")
            wrong += len(failures)
            tried = "every k" if every else f"{arguments.drawn} k"
            sys.stdout.write(f"{row.line.split(' -')[0]}: {changes} changes, {tried}: {len(failures)} wrong\n")
            sys.stdout.write("".join(f"{line}\n" for line in failures))
            sys.stdout.flush()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.stdout.write(f"{counted} failures, {wrong} wrong, {sum(os.times()[:4]):.0f} s of the processor\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
