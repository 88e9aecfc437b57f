"""Settings that commands share which read problems."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mastlens.errors import BadSetting
from mastlens.problems.asking import FORMATS, PLAIN, Asking, asking_of
from mastlens.runs.settings import FilePath, Writing, number, setting

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.checkpoints.computing import Computing

_ASKING = "how problems are asked"
AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
"""Types of a model in memory."""


def batch_size(text: str) -> int | str:
    """Return a batch size that was typed: a number, or ``auto``."""
    return text if text == AUTO else int(text)


@dataclass(frozen=True, kw_only=True)
class Reading(Writing):
    """Settings of a command that lets a model read problems."""

    dtype: str = setting(
        "of the model in memory; auto: bfloat16 where the device is fast at it and the checkpoint has 16 bits, else "
        "float32",
        AUTO,
        choices=DTYPES,
        metavar="DTYPE",
    )
    batch_size: int | str = setting(
        "texts at a time; auto: as many as fit, a tenth of them padding at most. In float32 it changes results by "
        "rounding only",
        AUTO,
        parse=batch_size,
        metavar="N|auto",
    )
    limit: int | None = setting("only the first N of each file", None)
    chat_template: bool = setting("prompt with the bare problem even if there is a template", True)
    system_prompt: str | None = setting("what the model is told before every problem", None, group=_ASKING)
    few_shot: int | str | os.PathLike[str] | None = setting(
        "worked examples before every problem: a file of them, or the first N of GSM8K's that come with mastlens",
        None,
        group=_ASKING,
        parse=number,
        metavar="FILE|N",
    )
    answer_format: str = setting(
        "boxed asks for the answer in \\boxed{}; plain asks for nothing",
        PLAIN,
        choices=FORMATS,
        kind="form of an answer",
        group=_ASKING,
        metavar="|".join(FORMATS),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise BadSetting(f"A limit (--limit) of {self.limit} leaves nothing to read; it is at least 1.")

    @property
    def asking(self) -> Asking:
        """How problems are asked.

        Raises:
            MastlensError: If worked examples cannot be read.
        """
        return asking_of(
            chat_template=self.chat_template,
            system=self.system_prompt,
            few_shot=self.few_shot,
            answer_format=self.answer_format,
        )

    def computing(self, *checkpoints: "Checkpoint") -> "Computing":
        """Return where these checkpoints are computed, and in which type (see ``Computing.of``)."""
        from mastlens.checkpoints.computing import Computing  # torch takes longer than a command line

        return Computing.of(self.device, self.dtype, *checkpoints)


@dataclass(frozen=True, kw_only=True)
class ForgetRetain(Reading):
    """Settings of a command about problems to forget and to keep."""

    forget: FilePath = setting("problems to forget, JSON lines", metavar="FILE")
    retain: FilePath | None = setting("problems to keep, JSON lines", None, metavar="FILE")
