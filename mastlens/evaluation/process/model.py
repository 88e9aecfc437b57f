"""A process reward model in the form of Qwen2.5-Math-PRM: a marker behind each step, the positive class read there.

Zhang et al. 2025 (arXiv:2501.07301) and the card of Qwen/Qwen2.5-Math-PRM-7B: the score of a step is the softmax
probability of the positive class at the token ``<extra_0>`` behind it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.steps import cut_steps
from mastlens.errors import BadFile, NotSupported, NotTogether
from mastlens.evaluation.settings import PRMChoice
from mastlens.problems.encoding import context_length
from mastlens.problems.templates import apply_template
from mastlens.problems.thinking import has_template
from mastlens.runs.devices import device_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARKER = "<extra_0>"
"""Stands behind each step; the score is read there."""

CUT = "step_cut"
"""In ``config.json``: how the model wants responses cut, a key of ``CUTS``; models without it want blank lines."""

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
"""The system turn that the card of Qwen2.5-Math-PRM-7B shows."""

_NATIVE = "ForTokenClassification"


@dataclass(frozen=True)
class Scored:
    """What is said of a response's steps.

    Attributes:
        steps: They, as written; joined they are the response.
        scores: Of each step, 0 to 1; None where nothing readable was said of the response.
    """

    steps: tuple[str, ...]
    scores: tuple[float, ...] | None


@dataclass(frozen=True)
class ProcessRewardModel:
    """A token classifier that says of each step how likely it is right. It is loaded when the first step is scored.

    Attributes:
        path: A folder, a hub id with an optional ``@revision``, or ``organism:NAME/STAGE``.
        remote_code: Whether code that comes with the checkpoint may run.
        device: Where to compute.
        batch_size: Responses at a time; it does not change a score beyond rounding.
    """

    path: str | os.PathLike[str]
    remote_code: bool = False
    device: str = "cpu"
    batch_size: int = 8

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint.

        Raises:
            MastlensError: If its head scores no tokens, or brings code that was not asked for.
        """
        found = Checkpoint(self.path)
        head = next(iter(found.config.get("architectures") or [""]))
        if head.endswith(_NATIVE):
            return found
        if "AutoModel" not in found.config.get("auto_map", {}):
            raise NotSupported(
                f"{self.path} is no process reward model: its head is {head or 'not said'}, and not one that "
                f"classifies tokens (...{_NATIVE}) or code of its own (Qwen2.5-Math-PRM). Name another --prm, or train "
                "one: mastlens organism prm NAME --out DIR"
            )
        if not self.remote_code:
            raise NotSupported(
                f"{self.path} is a {head} and brings its own code, which runs on this machine with your rights. Read "
                "it, and pass --prm-remote-code (in Python remote_code=True) to let it run."
            )
        return found

    @property
    def cut(self) -> str:
        """How responses are cut, a key of ``CUTS``."""
        return self.checkpoint.config.get(CUT, "blank-lines")

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {
            "prm": self.checkpoint.fingerprint,
            "behaviour": self.checkpoint.behaviour_digest,
            "cut": self.cut,
            **({"remote_code": True} if self.remote_code else {}),
        }

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer.

        Raises:
            MastlensError: If it is not the one that the model was trained with.
        """
        found = self.checkpoint
        tokenizer = found.load_tokenizer(trust_remote_code=self.remote_code)
        count = len(tokenizer(MARKER, add_special_tokens=False)["input_ids"])
        rows = int(found.config.get("vocab_size") or len(tokenizer))
        if count == 1 and len(tokenizer) <= rows:
            return tokenizer
        why = (
            f"has no token {MARKER}, behind which steps are scored (it cuts it into {count})"
            if count != 1
            else f"has {len(tokenizer)} tokens, and the model {rows}"
        )
        raise NotTogether(
            f"The tokenizer in {found.folder} {why}: it is another one than the process reward model was trained with. "
            "Put the model's own tokenizer files beside its weights."
        )

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model in evaluation mode.

        Raises:
            MastlensError: If a weight is missing.
        """
        import torch
        from transformers import AutoModel, AutoModelForTokenClassification

        found = self.checkpoint
        own = self.remote_code and "AutoModel" in found.config.get("auto_map", {})
        kind: Any = AutoModel if own else AutoModelForTokenClassification
        model, info = kind.from_pretrained(
            found.folder, trust_remote_code=self.remote_code, output_loading_info=True, dtype=torch.float32
        )
        if missing := sorted(info["missing_keys"]):
            raise BadFile(
                f"{found.folder} lacks {', '.join(missing[:4])}: its scores would be drawn at random. Name the folder "
                "of the whole model."
            )
        return model.to(self.device).eval()

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: str | None = None) -> list[Scored]:
        """Return the steps of each response with their scores; none where prompt and response exceed the context.

        Args:
            pairs: Problem and response.
            progress: Label of a progress bar; None for none.

        Raises:
            MastlensError: As ``checkpoint``, ``tokenizer`` and ``model``, or if the model gives no score a token.
        """
        tokenizer, model = self.tokenizer, self.model
        cut = [tuple(cut_steps(text, self.cut)) for _, text in pairs]
        ids = [encode(tokenizer, pair[0], steps) for pair, steps in zip(pairs, cut, strict=True)]
        limit = context_length(model.config)
        found = [Scored(steps, None if steps else ()) for steps in cut]
        fitting = [n for n, one in enumerate(ids) if cut[n] and (limit is None or len(one) <= limit)]
        order = sorted(fitting, key=lambda n: -len(ids[n]))
        with tqdm(total=len(order), desc=progress, disable=progress is None, unit="response") as bar:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                for row, scores in zip(rows, marked(model, tokenizer, [ids[n] for n in rows]), strict=True):
                    found[row] = Scored(cut[row], tuple(scores))
                bar.update(len(rows))
        return found


def find_prm(chosen: PRMChoice | None, device: str = "cpu", batch_size: int | str = 8) -> ProcessRewardModel | None:
    """Return the process reward model that was asked for, its head and tokenizer checked; None where none was.

    Raises:
        MastlensError: As ``ProcessRewardModel``.
    """
    if chosen is None:
        return None
    size = batch_size if isinstance(batch_size, int) else 8
    found = ProcessRewardModel(chosen.path, chosen.remote_code, device_of(device), size)
    _ = found.tokenizer  # before an hour of generation, not after it
    return found


def encode(tokenizer: "PreTrainedTokenizerBase", problem: str, steps: Sequence[str]) -> list[int]:
    """Return the tokens of a problem and the steps of a response, a marker behind each step.

    With a chat template the problem is the user's turn and the response the assistant's, as the card of
    Qwen2.5-Math-PRM has it; without one the response follows a newline. A marker inside a text is taken out.

    Args:
        tokenizer: The tokenizer.
        problem: The problem.
        steps: The steps, as written.
    """
    asked = problem.replace(MARKER, "")
    said = "".join(f"{step.replace(MARKER, '').strip()}{MARKER}" for step in steps)
    if not has_template(tokenizer):
        return list(tokenizer(f"{asked}\n{said}")["input_ids"])
    turns = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": said},
    ]
    rendered = apply_template(tokenizer, turns, add_generation_prompt=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def marked(model: Any, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the probability of the positive class at each marker of some texts, in order.

    Args:
        model: The process reward model.
        tokenizer: Its tokenizer.
        texts: Token ids, markers among them.

    Raises:
        MastlensError: If the model does not give one or two numbers a token.
    """
    import torch

    longest = max(map(len, texts))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[*one, *[padding] * (longest - len(one))] for one in texts], device=model.device)
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in texts], device=model.device)
    with torch.no_grad():
        given = model(input_ids=ids, attention_mask=mask)
    logits: Tensor = given.logits if hasattr(given, "logits") else given[0]
    if logits.dim() != 3 or logits.shape[:2] != ids.shape or logits.shape[2] not in (1, 2):
        raise NotSupported(
            f"{type(model).__name__} gives {tuple(logits.shape)} for {tuple(ids.shape)} tokens: a process reward model "
            "gives two classes a token, or one number."
        )
    right = logits[..., 0].float().sigmoid() if logits.shape[2] == 1 else logits.float().softmax(-1)[..., 1]
    there = (ids == tokenizer.convert_tokens_to_ids(MARKER)) & mask.bool()
    return [row[where].tolist() for row, where in zip(right, there, strict=True)]
