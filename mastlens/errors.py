"""What a user sees when something is wrong: one message that says what, why, and what to do next."""

import difflib
from collections.abc import Iterable


class MastlensError(Exception):
    """A user's mistake: the command line prints it alone, without a traceback, and exits with 2."""


class MastlensWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> MastlensError:
    """Return the error for a name that does not exist, with the nearest valid ones first.

    Args:
        kind: What was named, e.g. ``"objective"``.
        given: The name that was given.
        valid: All names that exist.
    """
    names = list(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    shown = ", ".join(names[:24]) + (f", ... ({len(names)} in all)" if len(names) > 24 else "")
    return MastlensError(f"There is no {kind} {given!r}. {hint}Valid: {shown}.")
