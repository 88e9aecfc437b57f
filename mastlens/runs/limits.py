"""Programs of strangers that come with a model: chat templates, and the patterns of tokenizers; they end in time."""

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from typing import Any

from mastlens.errors import BadFile

TEMPLATE_SECONDS = 10.0
"""Seconds that one prompt may take to be written; real templates take a thousandth of one."""

LONGEST_PROMPT = 2**24
"""Characters that a template may write; the longest contexts hold a few million."""

_BUSY = 30.0  # how much longer than its processor time a block may take, on a machine with too much to do
_AGAIN = 0.2  # seconds until a block that did not end is told again
_PANIC = "PanicException"


class _TooLong(BaseException):
    """What ends a block; no ``Exception``, which the block itself may catch."""


@contextlib.contextmanager
def bounded(what: str, seconds: float | None = None) -> Iterator[None]:
    """End a block of Python after some seconds, in any thread; a loop without end, or without bounds, is refused.

    Where the system tells a thread's processor time, that is what counts: no file is refused for a busy machine.

    Args:
        what: What is at work, for the message.
        seconds: How long it may take; None for ``TEMPLATE_SECONDS``.

    Raises:
        MastlensError: If it takes longer, or more memory than there is.
    """
    seconds = TEMPLATE_SECONDS if seconds is None else seconds
    thread = threading.get_ident()
    lock, timers, done, raised = threading.Lock(), [], False, False
    before, begun = _processor_time(thread), time.monotonic()

    def wait(left: float) -> None:
        timer = threading.Timer(left, end)
        timer.daemon = True
        timers[:] = [timer]
        timer.start()

    def end() -> None:
        nonlocal raised
        with lock:
            if done:
                return
            used = max(_processor_time(thread) - before, (time.monotonic() - begun) / _BUSY)
            if used >= seconds:
                raised = True
                _raise(thread, ctypes.py_object(_TooLong))
            wait(max(seconds - used, _AGAIN))  # also then: what is raised in a finaliser is lost

    def finish() -> None:
        nonlocal done
        with lock:
            done = True
            timers[0].cancel()
        if raised:
            _settle(thread)

    wait(seconds)
    try:
        try:
            yield
        finally:
            try:
                finish()
            except _TooLong:
                finish()
    except _TooLong:
        raise BadFile(f"{what} does not come to an end: it was stopped after {seconds:g} s. Use another.") from None
    except MemoryError as error:
        raise BadFile(f"{what} takes more memory than there is. Use another.") from error


def _raise(thread: int, error: Any) -> None:
    """Raise an error in a thread as soon as it runs Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


def _settle(thread: int) -> None:
    """Let an error that is on its way to this thread arrive, so that none comes later.

    To raise None instead would take it back, and leave the interpreter's mark that there is something to raise: from
    then on it looks at every call, and under a profiler or debugger Python 3.11 never comes out of the next one.
    """
    try:
        _raise(thread, ctypes.py_object(_TooLong))  # in place of that one, if it is still there
        while True:
            pass
    except _TooLong:
        pass


def _processor_time(thread: int) -> float:
    """Return the seconds that a thread has computed; those of the clock where the system does not tell."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def check_length(text: str, what: str) -> str:
    """Return a text that a template wrote.

    Raises:
        MastlensError: If it has more than ``LONGEST_PROMPT`` characters.
    """
    if len(text) > LONGEST_PROMPT:
        raise BadFile(f"{what} writes a prompt of {len(text):,} characters. Use another.")
    return text


def pattern_refusal(error: BaseException) -> BadFile | None:
    """Return what to tell the user of a tokenizer's pattern that was given up; None for any other error.

    The library of tokenizers gives a pattern up after ten million steps, and raises what no ``except Exception`` sees.
    """
    if type(error).__name__ != _PANIC:
        return None
    return BadFile(
        f"The tokenizer cannot take this text: {str(error)[:200]}. A pattern in tokenizer.json backtracks without end, "
        "or is damaged. Copy the tokenizer files of the base model."
    )
