"""From a scorer to its table."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.analysis.causal.patching import read_sides
from mastlens.analysis.scores.catalogue import SCORERS
from mastlens.analysis.scores.scorer import Scoring
from mastlens.analysis.scores.settings import ScoreSettings
from mastlens.checkpoints.lineage import Lineage, paired
from mastlens.decoding.graders import find_grader
from mastlens.decoding.graders import recorded as recorded_grader
from mastlens.errors import BadSetting, unknown
from mastlens.plots.cards.carded import Carded
from mastlens.registry import code_digest
from mastlens.runs.calls import takes
from mastlens.runs.files import write_table
from mastlens.runs.reading import read_table
from mastlens.runs.stages import hash_inputs, remembered

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mastlens.plots.cards.card import Card


@dataclass(frozen=True, repr=False)
class Scores(Carded):
    """What every matrix did, by one measure.

    Attributes:
        table: ``layer``, ``projection``, ``name``, ``rows``, ``cols``, ``delta_norm`` (Frobenius norm of the
            increment), ``score``, ``standard_error``, and what the scorer has besides.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.weights import scores_card

        return scores_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw the scores with their intervals, the largest first."""
        from mastlens.plots.scores import plot_scores

        return plot_scores(self.table)


def scores_file(rule: str) -> str:
    """Return the name of the table of a scorer's scores."""
    return f"score_{rule}.parquet"


@takes(ScoreSettings)
def score(settings: ScoreSettings) -> Scores:
    """Score every matrix by a measurement of its own, for ``rank`` with the rule of the same name.

    Raises:
        MastlensError: If there is no such scorer, the checkpoints are not one lineage, or a file or setting does not
            fit.
    """
    scorer = SCORERS.find(settings.rule)
    lineage = Lineage.open(settings.rlvr, sft=settings.sft)
    chosen = lineage.rlvr.projections if settings.where is None else lineage.rlvr.matrices(settings.where)
    computing = settings.computing(lineage.rlvr)
    digest = code_digest(scorer.compute)
    for name in settings.parameters or {}:
        if name not in scorer.parameters:
            raise unknown("parameter", name, scorer.parameters or ["none"], of=f"the score '{scorer.name}'")
    grader = find_grader(settings.grader)
    if grader != find_grader() and not scorer.grades:
        graded = [name for name, one in SCORERS.items() if one.grades]
        raise BadSetting(f"The score {scorer.name} judges no responses, {', '.join(graded)} does: leave --grader out.")
    parameters = {**scorer.parameters, **(settings.parameters or {})}
    asking = settings.asking
    recorded = {
        "rule": scorer.name,
        "dtype": computing.dtype,
        "where": settings.where,
        "retain_weight": settings.retain_weight,
        "parameters": parameters,
        "limit": settings.limit,
        "seed": settings.seed,
        **asking.record(),
        **recorded_grader(grader),
        **({"code": digest} if digest else {}),
    }
    file = scores_file(scorer.name)

    def compute() -> Scores:
        model, tokenizer = computing.load(lineage.rlvr), lineage.rlvr.load_tokenizer()
        sides = read_sides(
            lineage.rlvr,
            model,
            tokenizer,
            {"forget": settings.forget, "retain": settings.retain},
            limit=settings.limit,
            chat_template=asking,
        )
        rows = []
        for matrix in chosen:
            before, after = (stored.double() for stored in paired(*lineage.increments["rlvr"], matrix))
            place = {key: getattr(matrix, key) for key in ("layer", "projection", "name", "rows", "cols")}
            rows.append({**place, "delta_norm": float((after - before).norm())})
        found = scorer.compute(Scoring(lineage, tuple(chosen), model, tokenizer, sides, settings, parameters))
        return Scores(pd.concat([pd.DataFrame(rows), found], axis=1), recorded)

    return remembered(
        settings.out,
        f"score-{scorer.name}",
        outputs=[file],
        lineage=lineage.fingerprints,
        behaviour=lineage.behaviour(),
        inputs=hash_inputs({"forget": settings.forget, "retain": settings.retain}),
        settings=recorded,
        command=settings,
        device=computing.device,
        overwrite=settings.overwrite,
        compute=compute,
        write=lambda result, folder: write_table(Path(folder) / file, result.table),
        read=lambda folder: Scores(read_table(folder / file), recorded),
    )
