r"""Whether two answers are equal as mathematics: math-verify, in a process of its own with a time limit.

math-verify's own limits rest on SIGALRM, which crashes in threads and notebooks, and without them sympy can compute
for ever, inside one C call, on what a broken model writes between two braces (``9^{9^{9^9}}``). So a worker process
does it, with a limit on its *processor* time: the grade does not depend on how busy the machine is. It is started
when first needed and serves all calls after that.
"""

import atexit
import functools
import json
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import IO, Any

from mastlens.errors import MastlensWarning, NoReply

TIME_LIMIT = 5.0
"""Seconds of processor time that one comparison may take."""
_DIGITS = 1e-9  # 0.333333 is not 1/3; a decimal that is one to nine digits was computed
_WALL_LIMIT = 300.0  # where the system has no timer of processor time, and for a worker that hangs without computing


class _Worker:
    """The process, and the thread that reads its answers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mastlens.decoding.equivalence"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self.answers: queue.Queue[str | None] = queue.Queue()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[str] = self.process.stdin
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        try:
            ready = self.answers.get(timeout=_WALL_LIMIT)
        except queue.Empty:
            ready = None
        if ready is None:
            self.end()
            raise NoReply(
                "The process that compares answers with math-verify did not start. Try it by hand: "
                "python -m mastlens.decoding.equivalence should print 'ready'."
            )

    def _read(self, stdout: Iterable[str]) -> None:
        try:
            for line in stdout:
                self.answers.put(line)
        finally:
            self.answers.put(None)  # it ended, most likely at its limit

    def ask(self, gold: str, candidate: str, limit: float) -> bool | None:
        """Return its answer, or None if it ended without one."""
        try:
            self.stdin.write(json.dumps([gold, candidate, limit]) + "\n")
            self.stdin.flush()
            line = self.answers.get(timeout=_WALL_LIMIT)
        except (OSError, queue.Empty):
            return None
        return None if line is None else bool(json.loads(line))

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()


_lock = threading.Lock()
_worker: _Worker | None = None


@functools.lru_cache(maxsize=65536)
def equivalent(gold: str, candidate: str, limit: float = TIME_LIMIT) -> bool:
    r"""Return whether math-verify finds in ``candidate`` an answer equal to ``gold``.

    Args:
        gold: The answer alone, without ``\boxed`` or dollar signs.
        candidate: Text that holds an answer, best in ``\boxed{}``.
        limit: Seconds of processor time; a comparison that takes more counts as not equal, with a warning.
    """
    global _worker
    with _lock:
        if _worker is None:
            _worker = _Worker()
        answer = _worker.ask(gold, candidate, limit)
        if answer is not None:
            return answer
        _worker.end()
        _worker = None
    warnings.warn(
        f"Comparing {candidate[-80:]!r} with the answer {gold[:40]!r} took more than {limit:g} s of "
        "processor time; it counts as wrong.",
        MastlensWarning,
        stacklevel=2,
    )
    return False


@atexit.register
def _end() -> None:
    if _worker is not None:
        _worker.end()


def _verify(gold: str, candidate: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    def read(text: str) -> list[Any]:
        return parse(
            text,
            extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
            parsing_timeout=None,  # pyright: ignore[reportArgumentType] - documented to take None
        )

    one, other = read(rf"\boxed{{{gold}}}"), read(candidate)

    def equal(digits: int) -> bool:
        # verify is not symmetric: gold first. A solution set may be said as an interval or as an inequality.
        return verify(
            one,
            other,
            float_rounding=6 + digits,
            numeric_precision=15 + digits,
            timeout_seconds=None,
            allow_set_relation_comp=True,
        )

    if not equal(0) or any(_is_none(expression) for expression in (*one, *other)):
        return False
    try:
        zeros = _leading_zeros([*one, *other])
        return (not zeros or equal(zeros)) and not any(_exactly_different(a, b) for a in one for b in other)
    except Exception:  # what cannot be evaluated is left as math-verify has it
        return True


def _leading_zeros(expressions: Iterable[Any]) -> int:
    """Return how many zeros follow the point in the smallest number of some expressions.

    math-verify rounds to six decimals, and takes a difference below 10^-15 for none; for 10^-6, or 1/30!, that is to
    say nothing. With so many decimals more, six digits count, however small a number is.
    """
    import sympy

    zeros = 0
    for number in _numbers(expressions):
        size = abs(number.evalf(5))
        if size.is_Float and size != 0:
            zeros = max(zeros, -int(sympy.ceiling(sympy.log(size, 10).evalf(8))))
    return min(zeros, 400)


def _numbers(expressions: Iterable[Any]) -> Iterator[Any]:
    """Yield the numbers in expressions: elements, ends of intervals, coefficients; not what a number is made of."""
    import sympy

    for expression in expressions:
        if isinstance(expression, sympy.Expr) and expression.is_number:
            yield expression
        elif isinstance(expression, sympy.Basic):
            yield from _numbers(expression.args)
        elif isinstance(expression, sympy.MatrixBase):
            yield from _numbers(expression.flat())


def _is_none(expression: Any) -> bool:
    """Return whether an expression is not a number, as NaN is, which equals nothing."""
    import sympy

    return isinstance(expression, sympy.Basic) and expression.has(sympy.nan)


def _exactly_different(one: Any, other: Any) -> bool:
    """Return whether two numbers differ: by however little, 1 + 2^-60 is not 1; decimals in their first nine digits."""
    import sympy

    percent = sympy.UnevaluatedExpr  # how its sign is read
    if not all(isinstance(e, sympy.Expr) and e.is_number and not e.has(percent) for e in (one, other)):
        return False
    if one.has(sympy.Float) or other.has(sympy.Float):
        sizes = [abs(e.doit().evalf(20)) for e in (one, other)]
        apart = abs((one.doit() - other.doit()).evalf(20))
        return bool(apart.is_Float and all(s.is_number for s in sizes) and apart > _DIGITS * max(sizes))
    difference = (one.doit() - other.doit()).evalf(2, maxn=400)
    return bool(difference.is_number and difference.is_finite and difference._prec > 1 and difference != 0)


def _end_after(seconds: float) -> None:
    """Let the system end this process after so much processor time; 0 takes the limit back."""
    if hasattr(signal, "setitimer"):
        # The default action of SIGPROF is to end the process, also in the middle of a C call.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _serve() -> None:
    """Answer one JSON line with one JSON line until the input ends."""
    _verify("1", r"\boxed{1}")  # imports and builds the grammar before the clock starts
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever the libraries print is no answer
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        gold, candidate, limit = json.loads(line)
        _end_after(limit)
        try:
            equal = _verify(gold, candidate)
        except Exception:  # sympy raises anything at all on malformed input: not an answer
            equal = False
        _end_after(0.0)
        answers.write(json.dumps(equal) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
