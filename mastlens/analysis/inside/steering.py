"""What a steered model says, dose by dose, beside random directions of the same length: a rival to unlearning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mastlens.analysis.causal.patching import ProblemSet, greedy_correct
from mastlens.analysis.inside.looking import Texts, looked_inside
from mastlens.analysis.inside.nulls import beside_null, chance_ends
from mastlens.analysis.inside.pair import Pair
from mastlens.analysis.inside.settings import InsideSteerSettings
from mastlens.analysis.inside.steers import Direction, Steer, random_directions, read_direction, steered
from mastlens.analysis.inside.tally import ALL
from mastlens.decoding.engines import Decoding
from mastlens.decoding.graders import find_grader
from mastlens.decoding.graders import recorded as recorded_grader
from mastlens.models.hooked import HookedModel
from mastlens.models.likelihood import sequence_logprobs
from mastlens.plots.cards.carded import Carded
from mastlens.problems.reading import read_problems
from mastlens.runs.calls import takes
from mastlens.statistics import ratio_intervals

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card

FILE = "inside_steer.parquet"


@dataclass(frozen=True, repr=False)
class Steering(Carded):
    """What steering does.

    Attributes:
        table: One row a split and dose; the columns are described at ``inside_steer``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.inside import steering_card

        return steering_card(self.table, self.settings)

    def plot(self, measure: str = "effect") -> "go.Figure":
        """Draw what steering does by dose, a line a split, beside random directions; or ``accuracy_change``."""
        from mastlens.plots.steering import plot_steering

        return plot_steering(self.table, measure)


@takes(InsideSteerSettings)
def inside_steer(settings: InsideSteerSettings) -> Steering:
    """Add a direction to the RLVR model's states, or take it out, and measure what that does to each split.

    At every token that the model reads or writes, dose by dose (``inside.steers``); the line of the problems to forget
    is the dose-response curve, that of the problems to keep the collateral one. Columns: ``split``, ``layer``,
    ``site``, ``head`` (-1: the whole activation), ``position`` (-1), ``tokens``, ``items``, ``direction``, ``how``
    (``add`` or ``project``), ``dose``;

    - ``effect``: log-probability of the solutions, in nats a token, steered minus as it is, with its paired 95 %
      interval over problems (``_low``, ``_high``); ``unsteered``, that as it is; ``total``, that of the SFT model minus
      it: what taking back all of RLVR would do;
    - with ``max_new_tokens``, ``accuracy`` of greedy responses, ``accuracy_before`` and ``accuracy_change``, likewise.

    Both changes stand beside random directions of the same length that lie as the states do: ``X_null`` ...,
    ``X_chance_low`` and ``X_chance_high``, between which they lie 95 times in 100.

    Raises:
        MastlensError: If the checkpoints are not one lineage, cannot read the same texts, or lack the direction's
            activation; if there is no such direction, or it is of another model.
    """
    direction = read_direction(settings.directions, settings.direction)
    graded = settings.max_new_tokens > 0
    grader = find_grader(settings.grader) if graded else None

    def look(pair: Pair, texts: Texts) -> tuple[pd.DataFrame]:
        steering = _Steering(pair, direction, settings)
        controls = random_directions(
            steering.hooked,
            texts.values(),
            direction,
            draws=settings.draws,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        tokenizer = pair.rlvr.load_tokenizer() if graded else None
        rows = []
        for split, encoded in texts.items():
            side = ProblemSet(read_problems(settings.splits[split], settings.limit), encoded)
            rows += steering.rows(split, side, controls, tokenizer, grader)
        return (pd.DataFrame(rows),)

    deciding = {"direction": direction.name, "doses": list(map(float, settings.doses)), "project": settings.project}
    deciding |= {} if grader is None else {"max_new_tokens": settings.max_new_tokens, **recorded_grader(grader)}
    return looked_inside(settings, Steering, {"table": FILE}, look, **deciding)


class _Steering:
    """The RLVR model, steered one way after another."""

    def __init__(self, pair: Pair, direction: Direction, settings: InsideSteerSettings):
        self.pair, self.direction, self.settings = pair, direction, settings
        self.hooked = HookedModel(pair.changed)

    def rows(
        self, split: str, side: ProblemSet, controls: Sequence[Direction], tokenizer: Any, grader: Any
    ) -> list[dict[str, Any]]:
        size, decoding = self.settings.batch_size, None
        if grader is not None:
            decoding = Decoding(max_new_tokens=self.settings.max_new_tokens, batch_size=size)

        def said(steer: Steer | None) -> dict[str, np.ndarray]:
            if steer is not None:
                with steered(self.hooked, steer):
                    return said(None)
            found = {"effect": sequence_logprobs(self.pair.changed, side.encoded, batch_size=size)[0]}
            if decoding is not None and grader is not None:
                found["accuracy_change"] = greedy_correct(self.pair.changed, tokenizer, side, decoding, grader)
            return found

        sums, counts = sequence_logprobs(self.pair.source, side.encoded, batch_size=size)
        before, tokens = said(None), counts.astype(float)
        units = {"effect": tokens, "accuracy_change": np.ones(len(tokens))}
        place = {"split": split, "layer": self.direction.layer, "site": self.direction.site}
        place |= {"head": self.direction.head, "position": ALL, "tokens": int(tokens.sum()), "items": len(tokens)}
        place |= {"direction": self.direction.name, "how": "project" if self.settings.project else "add"}
        rows = []
        doses = [float(dose) for dose in self.settings.doses]
        for dose in tqdm(doses, desc=f"inside steer: {split}", disable=not self.settings.progress, unit="dose"):
            own = said(Steer(self.direction, dose, self.settings.project))
            drawn = [said(Steer(control, dose, self.settings.project)) for control in controls]
            row: dict[str, Any] = {**place, "dose": dose}
            for measure, base in before.items():
                row |= _told(measure, own[measure] - base, [one[measure] - base for one in drawn], units[measure])
            row |= {"unsteered": before["effect"].sum() / tokens.sum()}
            row |= {"total": (sums - before["effect"]).sum() / tokens.sum()}
            if decoding is not None:
                row |= {"accuracy_before": before["accuracy_change"].mean(), "accuracy": own["accuracy_change"].mean()}
            rows.append(row)
        return rows


def _told(measure: str, change: np.ndarray, drawn: Sequence[np.ndarray], counts: np.ndarray) -> Mapping[str, Any]:
    value, by_chance = change.sum() / counts.sum(), [float(one.sum() / counts.sum()) for one in drawn]
    low, high = ratio_intervals(change[None], counts)
    told = beside_null(measure, float(value), by_chance) | {f"{measure}_low": low[0], f"{measure}_high": high[0]}
    ends = (f"{measure}_chance_low", f"{measure}_chance_high")
    return told | dict(zip(ends, chance_ends(float(value), by_chance), strict=True))
