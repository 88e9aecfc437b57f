"""``prompts``: what is asked for otherwise may still be answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mastlens.attacks.method import AttackMethod
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial

PREFILLS = (0.25, 0.5)
"""Shares of the reference solution that are given as the beginning of the response."""


@dataclass(frozen=True, kw_only=True)
class Prompts(AttackMethod):
    """Asks in every way that the tokenizer and the context allow: prefilled, few-shot, reworded, thinking or not.

    Attributes:
        shots: Numbers of examples to show.
        prefills: Shares of the reference solution that the response begins with.
    """

    name: ClassVar = "prompts"
    summary: ClassVar = "ask otherwise: begin the response, show examples, reword, open or close the thinking"
    source: ClassVar = "prefix injection, few-shot prompts, rewording; forced and empty thinking (ZeroThink)"
    uses: ClassVar = {"train": "problems to show as examples", "retain": "harmless problems to show as examples"}
    columns: ClassVar = {"variant": "how it is asked; plain, prefill-PERCENT, few-shot-FILE-EXAMPLES, paraphrase-..."}

    shots: Sequence[int] = setting("numbers of examples", (1, 4), metavar="K", shown_default="1 and 4")
    prefills: Sequence[float] = setting(
        "shares of the solution given", PREFILLS, flag="--prefill", metavar="SHARE", shown_default="0.25 and 0.5"
    )

    def run(self, trial: "Trial") -> None:
        """Test the model under every prompt."""
        from mastlens.attacks.prompting import PLAIN, prompt_variants

        variants = prompt_variants(
            trial.tokenizer,
            [problem for problems in trial.tested.values() for problem in problems],
            examples=trial.shown,
            shots=self.shots,
            prefills=self.prefills,
            context=trial.context,
            max_new_tokens=trial.max_new_tokens,
            chat_template=trial.chat_template,
        )
        for variant, prompt in variants.items():
            trial.test(variant, baseline=variant == PLAIN, prompt=prompt)
