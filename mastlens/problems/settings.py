"""Settings that commands share which read problems."""

from dataclasses import dataclass

from mastlens.runs.settings import FilePath, Writing, setting


@dataclass(frozen=True, kw_only=True)
class Reading(Writing):
    """Settings of a command that lets a model read problems."""

    batch_size: int = setting("problems a forward pass; it changes nothing beyond rounding", 32)
    chat_template: bool = setting("prompt with the bare problem even if there is a template", True)


@dataclass(frozen=True, kw_only=True)
class ForgetRetain(Reading):
    """Settings of a command about problems to forget and to keep."""

    forget: FilePath = setting("problems to forget, JSON lines", metavar="FILE")
    retain: FilePath | None = setting("problems to keep, JSON lines", None, metavar="FILE")
