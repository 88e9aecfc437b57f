"""Token view: what each increment did to the log-probability of every token of fixed texts, teacher-forced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mastlens.analysis.settings import TokenDifferencesSettings
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import BadSetting
from mastlens.models.distributions import solution_tokens
from mastlens.models.sharding import load_sharded
from mastlens.plots.cards.carded import Carded
from mastlens.problems.encoding import EncodedProblem, check_tokenizer, context_length, encode_problems
from mastlens.problems.reading import read_problems
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.ranks import Ranks, ahead, ranks_for, remembered
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs
from mastlens.statistics import FEWEST, NONE, mean_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedTokenizerBase

    from mastlens.plots.cards.card import Card

FILE = "tokens.parquet"
SUMMARY = "token_summary.parquet"
TOLERANCE = 1e-6
"""Differences up to this size count as none: bfloat16 logits make exact zeros, float32 sums of this size."""


@dataclass(frozen=True, repr=False)
class TokenDifferences(Carded):
    """Log-probability differences of solution tokens, token by token.

    Attributes:
        table: One row an increment and solution token; the columns are described at ``token_differences``.
        summary: One row an increment, split and entropy quantile (0: all tokens).
        settings: What made them.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import tokens_card

        return tokens_card(self.summary, self.settings)

    def plot(self) -> "go.Figure":
        """Draw the distribution of the differences, one line a split, increments side by side."""
        from mastlens.plots.tokens import plot_token_differences

        return plot_token_differences(self.table)

    def plot_entropy(self) -> "go.Figure":
        """Draw the mean difference by entropy quantile, with its interval."""
        from mastlens.plots.tokens import plot_token_entropy

        return plot_token_entropy(self.summary)

    def html(self, *, increment: str = "rlvr", split: str | None = None, items: Sequence[int] = (0,)) -> str:
        """Return solutions as an HTML fragment, each token coloured by its difference; the text is escaped."""
        from mastlens.plots.tokens import token_text_html

        return token_text_html(self.table, increment=increment, split=split, items=items)


@takes(TokenDifferencesSettings)
def token_differences(settings: TokenDifferencesSettings) -> TokenDifferences:
    """Measure log p_after(token) - log p_before(token) on every solution token (MAST; signs as arXiv:2603.22117).

    All checkpoints read the same token ids, made with the RLVR checkpoint's tokenizer; natural logarithms, softmax in
    float32. The table: ``increment`` (``sft`` = SFT - base, ``rlvr`` = RLVR - SFT, or RLVR - base without ``sft``),
    ``split``, ``item`` (from 0), ``position`` (in the solution, from 0), ``token`` (its text; the pieces of an item
    join to the solution), ``logprob_before``, ``logprob_after``, ``difference``, ``entropy_before`` (nats, of the
    distribution the token is drawn from, before the increment), ``entropy_quantile`` (from 1, low to high; edges over
    all tokens of an increment, arXiv:2506.01939).

    The summary, by increment, split and ``entropy_quantile`` (0: all): ``entropy_low`` and ``entropy_high`` (the least
    and the largest there), ``items``, ``tokens``, ``mean`` with ``ci_low`` and ``ci_high`` (95%, over
    items, whose tokens are not independent; NaN for one item), ``median``, ``fraction_above``, ``fraction_zero``
    (|difference| <= 1e-6), ``fraction_below``.

    Raises:
        MastlensError: If the checkpoints are not one lineage, there is nothing before RLVR, or a file does not fit.
    """
    if settings.quantiles < 1:
        raise BadSetting(f"{settings.quantiles} quantiles make no sense; at least 1 does.")
    if not settings.splits:
        raise BadSetting("There are no texts to look at. Give at least one split, e.g. forget=forget-train.jsonl.")
    ranks = ranks_for(settings.device)
    lineage = Lineage.open(settings.rlvr, sft=settings.sft, base=settings.base)
    if not lineage.increments:
        raise BadSetting("There is nothing before RLVR to compare with. Give sft, base, or both.")
    computing = settings.computing(*lineage.stages.values())
    asking = settings.asking
    recorded = {
        "dtype": computing.dtype,
        "limit": settings.limit,
        "quantiles": settings.quantiles,
        "seed": settings.seed,
        **asking.record(),
    }

    def compute() -> TokenDifferences:
        tokenizer = lineage.rlvr.load_tokenizer()
        encoded = {}
        for split, path in settings.splits.items():
            problems = read_problems(path, settings.limit)
            check_tokenizer(tokenizer, problems, lineage.rlvr.spec)
            encoded[split] = encode_problems(problems, tokenizer, chat_template=asking, source=str(path))
        scores = {
            role: _score(
                checkpoint,
                role,
                encoded,
                batch_size=settings.batch_size,
                computing=computing,
                progress=settings.progress,
                ranks=ranks,
            )
            for role, checkpoint in lineage.stages.items()
        }
        table = _table(lineage, encoded, scores, tokenizer, settings.quantiles)
        return TokenDifferences(table, _summary(table), recorded)

    def write(result: TokenDifferences, folder: Path) -> None:
        write_table(folder / FILE, result.table)
        write_table(folder / SUMMARY, result.summary)

    with ahead(ranks):
        fingerprints = lineage.fingerprints
    return remembered(
        ranks,
        settings.out,
        "tokens",
        outputs=[FILE, SUMMARY],
        lineage=fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs(settings.splits),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=write,
        read=lambda folder: TokenDifferences(read_table(folder / FILE), read_table(folder / SUMMARY), recorded),
    )


_Scores = dict[str, tuple[np.ndarray, np.ndarray]]


def _score(
    checkpoint: Checkpoint,
    role: str,
    encoded: Mapping[str, Sequence[EncodedProblem]],
    *,
    batch_size: int | str,
    computing: Computing,
    progress: bool,
    ranks: Ranks | None,
) -> _Scores:
    """Return split to log-probabilities and entropies of all its solution tokens, item after item."""
    model = computing.load(checkpoint) if ranks is None else load_sharded(checkpoint, computing, ranks, ())
    vocabulary, context = len(next(model.get_input_embeddings().parameters())), context_length(model.config)
    scores = {}
    for split, problems in encoded.items():
        for item, ids in enumerate(problems):
            tokens = ids.prompt + ids.solution
            if max(tokens) >= vocabulary or (context is not None and len(tokens) > context):
                raise BadSetting(
                    f"Item {item} of split {split} has {len(tokens)} tokens, the largest id {max(tokens)}; the {role} "
                    f"checkpoint {checkpoint.spec} has a context of {context} and {vocabulary} ids. All checkpoints "
                    "must be able to read the same text: remove the item, or use the lineage's own tokenizer."
                )
        label = f"{role} on {split}" if progress else None
        logprobs, entropies = solution_tokens(model, problems, batch_size=batch_size, progress=label)
        scores[split] = np.concatenate(logprobs), np.concatenate(entropies)
    return scores


def _table(
    lineage: Lineage,
    encoded: Mapping[str, Sequence[EncodedProblem]],
    scores: Mapping[str, _Scores],
    tokenizer: "PreTrainedTokenizerBase",
    quantiles: int,
) -> pd.DataFrame:
    roles = {id(checkpoint): role for role, checkpoint in lineage.stages.items()}
    places = pd.concat([_places(split, problems, tokenizer) for split, problems in encoded.items()], ignore_index=True)
    tables = []
    for increment, (before, after) in lineage.increments.items():
        old, new = scores[roles[id(before)]], scores[roles[id(after)]]
        table = places.copy()
        table.insert(0, "increment", increment)
        table["logprob_before"] = np.concatenate([old[split][0] for split in encoded]).astype(np.float64)
        table["logprob_after"] = np.concatenate([new[split][0] for split in encoded]).astype(np.float64)
        table["difference"] = table["logprob_after"] - table["logprob_before"]
        entropy = np.concatenate([old[split][1] for split in encoded]).astype(np.float64)
        table["entropy_before"] = entropy
        edges = np.quantile(entropy, np.arange(1, quantiles) / quantiles)
        table["entropy_quantile"] = 1 + np.searchsorted(edges, entropy, side="left")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _places(split: str, problems: Sequence[EncodedProblem], tokenizer: "PreTrainedTokenizerBase") -> pd.DataFrame:
    rows = [
        (split, item, position, text)
        for item, ids in enumerate(problems)
        for position, text in enumerate(token_texts(ids.solution, tokenizer))
    ]
    return pd.DataFrame(rows, columns=["split", "item", "position", "token"])


def token_texts(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return the text that each token adds; together they are the decoded text.

    Some tokenizers drop the space before the first token they decode, and a character can take several tokens: each
    token is decoded behind the one before it, and a character stands at the token that completes it.
    """

    def decode(start: int, stop: int) -> str:
        return str(tokenizer.decode(list(ids[start:stop]), clean_up_tokenization_spaces=False))

    texts, start, done = [], 0, 0
    for stop in range(1, len(ids) + 1):
        known, text = decode(start, done), decode(start, stop)
        if text.endswith("\ufffd") and stop < len(ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        start, done = done, stop
    return texts


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (increment, split), part in table.groupby(["increment", "split"], sort=False):
        classes = [0, *sorted(part["entropy_quantile"].unique())]
        for quantile in classes:
            chosen = part if quantile == 0 else part[part["entropy_quantile"] == quantile]
            difference = chosen["difference"].to_numpy()
            items = int(chosen["item"].nunique())
            interval = mean_interval(difference, clusters=chosen["item"]) if items >= FEWEST else NONE
            rows.append(
                {
                    "increment": increment,
                    "split": split,
                    "entropy_quantile": int(quantile),
                    "entropy_low": float(chosen["entropy_before"].min()),
                    "entropy_high": float(chosen["entropy_before"].max()),
                    "items": items,
                    "tokens": len(chosen),
                    "mean": float(difference.mean()),
                    "ci_low": interval.low,
                    "ci_high": interval.high,
                    "median": float(np.median(difference)),
                    "fraction_above": float((difference > TOLERANCE).mean()),
                    "fraction_zero": float((np.abs(difference) <= TOLERANCE).mean()),
                    "fraction_below": float((difference < -TOLERANCE).mean()),
                }
            )
    return pd.DataFrame(rows)
