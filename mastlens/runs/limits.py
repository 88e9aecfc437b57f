"""Programs of strangers that come with a model: chat templates, and the patterns of tokenizers; they end in time."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from mastlens.errors import BadFile

TEMPLATE_SECONDS = 10.0
"""Seconds that one prompt may take to be written; real templates take a thousandth of one."""

LONGEST_PROMPT = 2**24
"""Characters that a template may write; the longest contexts hold a few million."""

_PANIC = "PanicException"


class _TooLong(BaseException):
    """What ends a block; no ``Exception``, which the block itself may catch."""


@contextlib.contextmanager
def bounded(what: str, seconds: float = TEMPLATE_SECONDS) -> Iterator[None]:
    """End a block of Python after some seconds, in any thread; a loop without end, or without bounds, is refused.

    Args:
        what: What is at work, for the message.
        seconds: How long it may take.

    Raises:
        MastlensError: If it takes longer, or more memory than there is.
    """
    thread = threading.get_ident()
    lock, done = threading.Lock(), False

    def end() -> None:
        with lock:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                done = True
    except _TooLong:
        raise BadFile(f"{what} does not come to an end: it was stopped after {seconds:g} s. Use another.") from None
    except MemoryError as error:
        raise BadFile(f"{what} takes more memory than there is. Use another.") from error


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
