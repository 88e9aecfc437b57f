"""What a user sees when something is wrong: one message that says what, why, and what to do next."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class MastlensError(Exception):
    """A user's mistake: the command line prints it alone, without a traceback, and exits with 2.

    Its kinds say what sort of mistake; each has a page in the documentation.

    Attributes:
        page: The page about its kind, in the documentation's folder.
    """

    page: ClassVar[str] = "docs/errors/index.md"


class UnknownName(MastlensError):
    """A name that does not exist; the message has the nearest ones that do."""

    page = "docs/errors/unknown-name.md"


class NotFound(MastlensError):
    """A file, folder, checkpoint or table that is not where it was looked for."""

    page = "docs/errors/not-found.md"


class BadFile(MastlensError):
    """A file that is there and does not hold what it should: damaged, truncated, or of another form."""

    page = "docs/errors/bad-file.md"


class BadSetting(MastlensError):
    """A setting that makes no sense, one that is missing, or settings that do not go together."""

    page = "docs/errors/bad-setting.md"


class NotTogether(MastlensError):
    """Things that do not belong together: another model's table, edit or traces, other items, two lineages."""

    page = "docs/errors/not-together.md"


class StageRefused(MastlensError):
    """A folder that holds something else already, which is not replaced without being asked."""

    page = "docs/errors/stage-refused.md"


class CannotWrite(MastlensError):
    """A place that cannot be written to: read-only, full, not permitted, or a name that is too long."""

    page = "docs/errors/cannot-write.md"


class NotSupported(MastlensError):
    """Something that mastlens, or what it stands on, cannot do."""

    page = "docs/errors/not-supported.md"


class MissingPackage(MastlensError):
    """A package that this needs and that is not installed."""

    page = "docs/errors/missing-package.md"


class NoReply(MastlensError):
    """A server or a helping process that gives no reply that could be used, or refuses."""

    page = "docs/errors/no-reply.md"


class MastlensWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


def unknown(kind: str, given: str, valid: Iterable[str], *, of: str = "") -> UnknownName:
    """Return the error for a name that does not exist, with the nearest valid ones first.

    Args:
        kind: What was named, e.g. ``"objective"``.
        given: The name that was given.
        valid: All names that exist.
        of: What it would belong to.
    """
    names = list(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    shown = ", ".join(names[:24]) + (f", ... ({len(names)} in all)" if len(names) > 24 else "")
    whose = f" of {of}" if of else ""
    return UnknownName(f"There is no {kind} {given!r}{whose}. {hint}Valid: {shown}.")
