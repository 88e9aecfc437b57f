"""Commands over ranks without a launcher: processes forked from one that has imported everything already.

    ended = run_ranks([["couple", ...], ["unlearn", ...]])
    assert [one.codes for one in ended] == [[0, 0], [0, 0]]

They find what torchrun leaves in the environment, and the store that its agent would keep is this process's.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

_CONTEXT = get_context("forkserver")
_PATIENCE = 150.0


@dataclass(frozen=True)
class Ended:
    """How a rank ended.

    Attributes:
        codes: Of each command that it came to the end of.
        exitcode: Of the process; negative for a signal.
        out: What it wrote.
        err: What it wrote to stderr.
    """

    codes: list[int]
    exitcode: int | None
    out: str
    err: str


def run_ranks(
    commands: Sequence[Sequence[object]],
    size: int = 2,
    before: Callable[[int], None] | None = None,
    kill: tuple[int, float] | None = None,
) -> list[Ended]:
    """Run commands one after another on every rank, until one fails; return how each rank ended.

    Args:
        commands: Command lines without ``mastlens``.
        size: Number of ranks.
        before: Called on each rank with its number, first: a function of a module.
        kill: A rank, and after how many seconds it is killed.
    """
    from torch.distributed import TCPStore

    _CONTEXT.set_forkserver_preload(["tests.ranks_preload"])
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    words = [[str(word) for word in command] for command in commands]
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            _CONTEXT.Process(target=_rank, args=(rank, size, store.port, words, Path(folder), before, dict(os.environ)))
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        if kill is not None:
            time.sleep(kill[1])
            if ranks[kill[0]].is_alive():
                os.kill(ranks[kill[0]].pid or 0, signal.SIGKILL)
        for process in ranks:
            process.join(_PATIENCE)
        left = [process for process in ranks if process.is_alive()]
        for process in left:
            process.kill()
        assert not left, "a rank was left hanging"
        del store
        return [
            Ended(
                [int(line) for line in _read(Path(folder) / f"{rank}.codes").split()],
                ranks[rank].exitcode,
                _read(Path(folder) / f"{rank}.out"),
                _read(Path(folder) / f"{rank}.err"),
            )
            for rank in range(size)
        ]


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _rank(rank, size, port, commands, folder, before, environment) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"},
        **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"},
    }
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    codes = folder / f"{rank}.codes"
    codes.touch()
    code = 1
    try:
        import torch

        from mastlens.cli import main

        torch.set_num_threads(1)
        if before is not None:
            before(rank)
        for words in commands:
            try:
                code = main(words)
            except SystemExit as ended:  # words that are no command
                code = int(ended.code or 0)
            with codes.open("a") as stream:
                stream.write(f"{code}\n")
            if code:
                break
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
