"""Objectives that steer activations: what they have in common, and how they read their texts.

The total loss of the family, with R2MU's terms (arXiv:2506.12963):

    gamma * forget + retain_weight * retain + unthink_weight * traces + cot_weight * chains of thought
    + reflection_weight * probability of reflection words

R2MU's paper has other letters: its gamma, the weight of the retain term, is our ``retain_weight``; its alpha, of the
trace term, is ``unthink_weight``; its beta is ``cot_weight``.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import BadSetting
from mastlens.unlearning.coefficient import Known, coefficient, coefficients_of
from mastlens.unlearning.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.unlearning.passes import States

TRIGGER = "Let's reason this step by step."
"""What makes a model reason about a text (R2MU's released code)."""


@dataclass(frozen=True)
class SteeringTexts:
    """How objectives that steer activations read their texts.

    Attributes:
        text_tokens: Forget and retain texts are cut to so many tokens; None for no cut.
        traces: Of each forget document, only the first so many traces; None for all.
        trace_tokens: Traces are cut to so many tokens; None for no cut.
        trigger: Put in front of every trace and read as part of it; empty for nothing.
        cot_tokens: Chains of thought are cut to so many tokens; None for no cut.
        close_cot: End a chain of thought in ``</think>`` before it is cut.
        in_context: Read traces and chains of thought behind the prompt that they answer, only their own tokens
            counting: the states that the model has when it writes them. Otherwise each is a text of its own, as in the
            paper's formulas and the released code.
    """

    text_tokens: int | None = coefficient("cut forget and retain texts", None, unit="tokens")
    traces: int | None = None
    trace_tokens: int | None = coefficient("cut traces", None, unit="tokens")
    trigger: str = ""
    cot_tokens: int | None = coefficient("cut chains of thought", None, unit="tokens")
    close_cot: bool = False
    in_context: bool = coefficient("read traces and chains of thought behind their prompts (not in the presets)", True)

    NEEDED: ClassVar[Mapping[str, str]] = {"trace_tokens": "traces", "in_context": "traces", "cot_tokens": "cot"}
    """Field to the need without which it says nothing."""

    def __post_init__(self) -> None:
        for key in ("text_tokens", "traces", "trace_tokens", "cot_tokens"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise BadSetting(f"{key} (--{key.replace('_', '-')}) is at least 1, it is {value}.")
        if self.in_context and self.trigger:
            raise BadSetting("Behind its prompt a trace has no trigger in front: the prompt holds it already.")


PAPER = SteeringTexts(in_context=False)
"""As the formulas of R2MU's paper have it."""
RELEASED = SteeringTexts(
    text_tokens=512,
    traces=1,
    trace_tokens=100,
    trigger=f"{TRIGGER}\n<think>",
    cot_tokens=150,
    close_cot=True,
    in_context=False,
)
"""As R2MU's released code reads texts."""


@dataclass(frozen=True, kw_only=True)
class SteeringObjective(Objective):
    """An objective on the activations that one decoder layer gives.

    Every text counts alike: a term is the mean over texts of the mean over a text's tokens.

    Attributes:
        layer: See ``coefficients``.
        texts: How its texts are read.
    """

    over: ClassVar[str] = "sequences"

    layer: int = coefficient("decoder layer to steer, from 0", -1, shown_default="")
    texts: SteeringTexts = field(default=SteeringTexts())

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise BadSetting(f"{self.name} steers the output of one decoder layer: say which (--layer, from 0).")
        super().__post_init__()

    @classmethod
    def coefficients(cls) -> dict[str, Known]:
        """Return its own, and what can be said of the texts that it reads."""
        of_texts = {key: known for key, known in coefficients_of(SteeringTexts).items() if cls._reads(key)}
        return super().coefficients() | of_texts

    @classmethod
    def _reads(cls, key: str) -> bool:
        """Return whether it has the texts that a field of ``SteeringTexts`` is about."""
        need = SteeringTexts.NEEDED.get(key)
        return need is None or getattr(cls.needs, need)

    @classmethod
    def make(cls, fixed: Mapping[str, Any], given: Mapping[str, Any]) -> Objective:
        """Return the objective with what a preset fixes, then what is given, of its texts too."""
        of_texts = {each.name for each in fields(SteeringTexts)} & given.keys()
        read = {key: given[key] for key in of_texts}
        if read.get("in_context"):
            read["trigger"] = ""  # behind its prompt a trace has none in front: there is one in the prompt
        texts = replace(fixed.get("texts", SteeringTexts()), **read)
        rest = {key: value for key, value in given.items() if key not in of_texts}
        return super().make({**fixed, "texts": texts}, rest)

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms beside forget and retain: ``trace``, ``cot``, ``reflection``; 0 for no such term."""
        return {"trace": 0.0, "cot": 0.0, "reflection": 0.0}

    @property
    def reflection_words(self) -> str:
        """Whose list of reflection words is penalised; empty for none."""
        return ""

    @abstractmethod
    def control(self, states: "Tensor", seed: int) -> "Tensor":
        """Return the vector (hidden,) that activations are steered to.

        Args:
            states: Activations (tokens, hidden) of retain texts at the layer, before unlearning.
            seed: Of what is drawn.
        """

    @abstractmethod
    def steer(
        self, states: "States", control: "Tensor", shares: "Tensor | None" = None, weights: "Tensor | None" = None
    ) -> "Tensor":
        """Return the unweighted loss that takes activations away: of forget texts, and of traces.

        Args:
            states: Activations now, at the tokens that count.
            control: What ``control`` gave.
            shares: What each text counts; None for all alike.
            weights: What each token counts within its text; None for all alike.
        """

    @abstractmethod
    def keep(self, states: "States", reference: "Tensor") -> "Tensor":
        """Return the unweighted loss that keeps activations where they were: of retain texts and chains of thought.

        Args:
            states: Activations now.
            reference: The same tokens' activations before unlearning.
        """
