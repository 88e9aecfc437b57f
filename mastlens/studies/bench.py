"""What all arms share: the model in memory, the encoded problems, and the calibration that judges it."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.answering import Answered, answer
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.graders import find_grader
from mastlens.decoding.prompts import Prompt, problem_prompts
from mastlens.errors import BadSetting
from mastlens.evaluation import neutral_perplexity
from mastlens.evaluation.perplexity import read_texts
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import Problem, read_problems
from mastlens.runs.stages import hash_inputs
from mastlens.studies.settings import FORGET, RETAIN, DecodingSettings
from mastlens.unlearning.editing import check_disjoint
from mastlens.unlearning.matching import Calibration, Tally
from mastlens.unlearning.refusals import REFUSALS, read_refusals, with_refusals
from mastlens.unlearning.rewinding import before_rlvr

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ORDER = 0  # seed of the order in which calibration items are looked at


class Bench:
    """A checkpoint in memory with the problems of a study; arms change its model, and it has its weights back after.

    Args:
        rlvr: The checkpoint to edit.
        train: ``forget`` and ``retain`` to file.
        calibration: Split to file.
        decoding: How responses are generated.
        neutral: File of neutral texts.
        refusals: File of refusals, for objectives that prefer one.
        sft: The checkpoint before RLVR.
        forget_items: Look at so many calibration forget problems at most.
        retain_items: At so many of each retain split.
        device: Where to compute.
    """

    def __init__(
        self,
        rlvr: "str | os.PathLike[str] | Checkpoint",
        *,
        train: Mapping[str, str | os.PathLike[str]],
        calibration: Mapping[str, str | os.PathLike[str]],
        decoding: DecodingSettings,
        neutral: str | os.PathLike[str] | None = None,
        refusals: str | os.PathLike[str] | None = None,
        sft: "str | os.PathLike[str] | Checkpoint | None" = None,
        forget_items: int | None = None,
        retain_items: int | None = None,
        device: str = "cpu",
    ):
        self.checkpoint, self.decoding, self.device = Checkpoint(rlvr), decoding, device
        self._sft = sft
        files = {f"{split}-train": path for split, path in train.items()}
        files |= {f"{split}-calibration": path for split, path in calibration.items()}
        self.inputs = hash_inputs({**files, "refusals": refusals})
        """Hashes of what an edit is made from."""
        self.problems = {split: read_problems(path) for split, path in train.items()}
        check_disjoint({FORGET: self.problems[FORGET], RETAIN: self.problems[RETAIN]})
        limits = {split: forget_items if split == FORGET else retain_items for split in calibration}
        self._calibration = {
            split: _in_some_order(read_problems(path))[: limits[split]] for split, path in calibration.items()
        }
        self._train_files, self._neutral = train, neutral
        self._grader = find_grader(decoding.grader, code=False)
        self._refusals = REFUSALS if refusals is None else read_refusals(refusals)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The checkpoint's tokenizer, checked against the training problems."""
        tokenizer = self.checkpoint.load_tokenizer()
        for problems in self.problems.values():
            check_tokenizer(tokenizer, problems, self.checkpoint.spec)
        return tokenizer

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model, loaded when it is first needed."""
        return self.checkpoint.load_model(device=self.device)

    @cached_property
    def forget(self) -> list[EncodedProblem]:
        """Training problems to forget."""
        return self.encode(self.problems[FORGET], str(self._train_files[FORGET]))

    @cached_property
    def retain(self) -> list[EncodedProblem]:
        """Training problems to keep."""
        return self.encode(self.problems[RETAIN], str(self._train_files[RETAIN]))

    @cached_property
    def sft(self) -> Checkpoint:
        """The checkpoint before RLVR."""
        if self._sft is None:
            raise BadSetting("There is no checkpoint before RLVR to begin at or to learn from: name it as sft.")
        return Checkpoint(self._sft)

    def before(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return name to stored tensor of the model before RLVR, of a selection."""
        return before_rlvr(self.checkpoint, self.sft, names)

    def alternatives(self, seed: int) -> list[EncodedProblem]:
        """Return the problems to forget with a refusal each, drawn by the seed, in place of the solution."""
        refused = with_refusals(self.problems[FORGET], self._refusals, seed=seed)
        return self.encode(refused, str(self._train_files[FORGET]))

    @cached_property
    def _texts(self) -> list[str]:
        return [] if self._neutral is None else read_texts(self._neutral)

    def encode(self, problems: Sequence[Problem], source: str) -> list[EncodedProblem]:
        """Return problems as token ids; ``source`` names them in messages."""
        return encode_problems(
            problems,
            self.tokenizer,
            context=context_length(self.model.config),
            chat_template=self.decoding.chat_template,
            source=source,
        )

    def correct(self, model: "PreTrainedModel", problems: Sequence[Problem]) -> int:
        """Return how many problems a model's greedy responses get right."""
        prompts = problem_prompts(problems, self.tokenizer, chat_template=self.decoding.chat_template)
        return sum(one.correct for one in self.answer(model, prompts))

    def answer(self, model: "PreTrainedModel", prompts: Sequence[Prompt]) -> list[Answered]:
        """Return a model's greedy answers, decoded as the study says."""
        decoding = Decoding(self.decoding.max_new_tokens, self.decoding.batch_size)
        return answer(HuggingFaceEngine(model, self.tokenizer), prompts, decoding, grader=self._grader)

    def tally(self, most: int) -> Tally:
        """Count right answers on the calibration forget problems, as far as it takes to see more than ``most``.

        Each look is as large as should do at the rate seen so far: a model far above is told by a few items, one far
        below is given all the rest at once.
        """
        problems = self._calibration[FORGET]
        correct = seen = 0
        while seen < len(problems) and correct <= most:
            rate = (correct + 0.75) / (seen + 1)
            look = max(16, math.ceil(1.2 * (most + 1 - correct) / rate))
            correct += self.correct(self.model, problems[seen : seen + look])
            seen = min(seen + look, len(problems))
        return Tally(correct, seen)

    def forget_accuracy(self, model: "PreTrainedModel") -> float:
        """Return another model's accuracy on the calibration forget problems."""
        problems = self._calibration[FORGET]
        return self.correct(model, problems) / len(problems)

    def retain_accuracy(self) -> float:
        """Return the accuracy on the calibration retain problems."""
        problems = [p for split, ps in self._calibration.items() if split != FORGET for p in ps]
        return self.correct(self.model, problems) / len(problems)

    def calibrated(self, target: float) -> Calibration:
        """Return the judge of a search for ``target``."""
        return Calibration(self.tally, len(self._calibration[FORGET]), self.retain_accuracy, target)

    def perplexity(self, model: "PreTrainedModel") -> float:
        """Return perplexity on the neutral texts; NaN without any."""
        return neutral_perplexity(model, self.tokenizer, self._texts) if self._texts else math.nan


def _in_some_order(problems: list[Problem]) -> list[Problem]:
    """Return the problems in an order that no subject stands first in: the first few should be like all."""
    return [problems[i] for i in np.random.default_rng(_ORDER).permutation(len(problems))]
