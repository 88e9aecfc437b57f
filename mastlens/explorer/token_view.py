"""One text under two models, token by token: a response before and after an edit, or anything that is typed in."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.tokens import token_texts
from mastlens.errors import BadSetting
from mastlens.explorer.chatting import SIDES, Chat, chat
from mastlens.models.distributions import solution_tokens
from mastlens.models.gradients import gradient_shares
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem, context_length

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit
    from mastlens.plots.cards.card import Card
    from mastlens.plots.figure import TextFigure

TYPED = "text"
"""What the side of a typed text is called."""


@dataclass(frozen=True, repr=False)
class TokenView(Carded):
    """What an edit did to every token of one text, or of both models' responses to one prompt.

    Attributes:
        table: One row a token: ``side`` (``source`` or ``edited``: whose response it is; ``text`` for a typed one),
            ``position`` (from 0), ``token`` (its text), ``logprob_before`` (under the source) and ``logprob_after``
            (under the edited model), teacher-forced, natural; ``difference``; ``entropy_before`` (nats, of the
            source's distribution there); ``shared`` (whether the other side has the token, too; True for a typed text);
            where it was asked for ``gradient_share``: what the token has of the gradient of its text's loss under the
            source, in the edited tensors (of another checkpoint in all weight matrices); a side's add up to one.
        said: The prompt.
        settings: What made it.
    """

    table: pd.DataFrame
    said: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def totals(self) -> pd.DataFrame:
        """One row a side: ``side``, ``tokens``, ``shared``, ``logprob_before``, ``logprob_after``, ``difference``."""
        of = {"tokens": ("position", "size"), "shared": ("shared", "sum")}
        of |= {column: (column, "sum") for column in ("logprob_before", "logprob_after", "difference")}
        return self.table.groupby("side", sort=False).agg(**of).reset_index()

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.answers import token_view_card

        return token_view_card(self.table, self.totals)

    def plot(self, by: str = "difference") -> "go.Figure":
        """Draw every token's difference, or its ``gradient_share``, a panel a side."""
        from mastlens.plots.token_sides import plot_token_sides

        return plot_token_sides(self.table, by=by)

    def html(self, by: str = "difference") -> "TextFigure":
        """Return the texts side by side, coloured by difference or ``gradient_share``, tokens of one side marked."""
        from mastlens.plots.token_sides import token_sides_html

        return token_sides_html(self.table, said=self.said, by=by)


def view_tokens(
    source: "str | os.PathLike[str] | Checkpoint",
    edited: "str | os.PathLike[str] | Checkpoint | Edit",
    said: str,
    text: str | None = None,
    *,
    gradient: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    chat_template: bool = True,
    device: str = "auto",
) -> TokenView:
    """Ask a source and an edited model the same, and compare what both make of every token of both responses.

    For looking at one text: it has no interval and no null, and counts for nothing beyond itself. What holds over many
    texts is what ``token_differences`` measures. ``chat(source, edited).view(...)`` does the same with models that are
    loaded already.

    Args:
        source: The checkpoint before the edit.
        edited: The edit, its file, or another checkpoint of the same tokenizer.
        said: The prompt.
        text: A text to read after the prompt in place of both responses.
        gradient: Also measure what each token has of the gradient, for ``html("gradient_share")``: one more pass there
            and back, with all logits in memory.
        max_new_tokens: Where a response is cut off.
        temperature: 0 for greedy.
        seed: Decides the draws.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.

    Raises:
        MastlensError: If the edit does not belong to the source, a checkpoint is not there, or the text does not fit
            the model's context.
    """
    talk = chat(
        source,
        edited,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat_template=chat_template,
        device=device,
    )
    return talk.view(said, text, gradient=gradient)


def token_view(talk: Chat, said: str, text: str | None = None, *, gradient: bool = False) -> TokenView:
    """Return both responses, or a typed text, under both models; see ``view_tokens``."""
    prompt = talk.encoded(said)
    tokenizer = talk.tokenizer
    if text is None:
        ids = {side: talk.respond(side, prompt).ids for side in SIDES}
    else:
        ids = {TYPED: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])}
    if not all(ids.values()):
        raise BadSetting("There is no token to look at: give a text that has some.")
    problems = [EncodedProblem(prompt, each) for each in ids.values()]
    logprobs, entropies, shares = {}, [], []
    for model_side in SIDES:
        with talk.speaking(model_side) as model:
            context, longest = context_length(model.config), max(problem.length for problem in problems)
            if context is not None and longest > context:
                raise BadSetting(
                    f"Prompt and text have {longest} tokens, the model reads {context}. Give a shorter text, or fewer "
                    "max_new_tokens."
                )
            logprobs[model_side], found = solution_tokens(model, problems, batch_size=1)
            if gradient and not shares:
                shares = [gradient_shares(model, problem, talk.changed) for problem in problems]
        entropies = entropies or found  # of the source, which comes first
    parts = []
    for i, (side, own) in enumerate(ids.items()):
        before, after = (logprobs[each][i].astype(np.float64) for each in SIDES)
        columns = {"position": range(len(own)), "token": token_texts(own, tokenizer)}
        columns |= {"logprob_before": before, "logprob_after": after, "difference": after - before}
        columns |= {"entropy_before": entropies[i].astype(np.float64), "shared": _shared(ids, side)}
        columns |= {"gradient_share": shares[i]} if gradient else {}
        parts.append(pd.DataFrame({"side": side, **columns}))
    return TokenView(pd.concat(parts, ignore_index=True), said, {**talk.record(), "text": text})


def _shared(ids: Mapping[str, tuple[int, ...]], side: str) -> np.ndarray:
    """Return which tokens of a side the other one has, in order, too."""
    if side == TYPED:
        return np.ones(len(ids[side]), dtype=bool)
    shared = np.zeros(len(ids[side]), dtype=bool)
    for block in difflib.SequenceMatcher(None, *(ids[each] for each in SIDES), autojunk=False).get_matching_blocks():
        start = block.a if side == SIDES[0] else block.b
        shared[start : start + block.size] = True
    return shared
