"""Settings of the ranking."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mastlens.runs.settings import RANK, CheckpointPath, FilePath, Settings, Writing, path_to, setting


def rule_lines() -> list[str]:
    """Return every rule and control with its summary, for the help."""
    from mastlens.selection.catalogue import describe_rules

    lines = ["auto: the one that the evidence recommends, of those whose tables are there"]
    for row in describe_rules().itertuples(index=False):
        summary = f"{row.summary} ({row.parameters})" if row.parameters else f"{row.summary}"
        lines += textwrap.wrap(f"{row.rule}: {summary} [{row.source}]", 88, subsequent_indent="    ")
    return lines


@dataclass(frozen=True, kw_only=True)
class Selecting(Settings):
    """Settings of a command that edits what is selected: exactly one way of saying it."""

    ranking: FilePath | None = setting(
        "edit the tensors that a ranking.parquet selects", None, exclusive="selection", metavar="FILE"
    )
    where: str | None = setting(
        "edit the matrices whose names match; with a #, heads too (#h3$)", None, exclusive="selection", metavar="REGEX"
    )
    all_parameters: bool = setting("edit every weight matrix", False, exclusive="selection")
    names: Sequence[str] | None = setting(
        "edit these matrices: ...#q for a slice of a fused tensor, ...#h3 for a head", None, python_only=True
    )


@dataclass(frozen=True, kw_only=True)
class RankSettings(Writing):
    """Settings of ``rank``."""

    command, group = "rank", RANK
    summary = "rank the projections from the tables in DIR and select the top N"
    example = "rank run --top 12"
    function = "mastlens.selection.ranking:rank"
    then = (
        "unlearn --rlvr RLVR --ranking {folder}/ranking.parquet --forget forget.jsonl --objective npo "
        "--preset mast --steps 50 --lr 5e-6 --out {folder}"
    )

    folder: FilePath = setting("folder with the tables that the rule needs", positional=True, metavar="DIR")
    rule: str = setting("rule or control", "mast", metavar="NAME", listing=rule_lines)
    top: int | None = setting(
        "how many to select; only rules with a cut of their own (memflex, all-attention) do without", None
    )
    match: str = setting("of a matched control: the rule whose top N it is matched to", "mast", metavar="RULE")
    parameters: Mapping[str, float] | None = setting(
        "parameters of the rule, or of the one that is matched", None, flag="--parameter", metavar="NAME=NUMBER"
    )
    candidates: CheckpointPath | None = setting(
        path_to("whose matrices mlp-matched draws from, any of the lineage"), None, metavar="PATH"
    )
    anyway: bool = setting("rank also where all increments lie below the precision floor", False)
    out: FilePath | None = setting("folder for ranking.parquet (default DIR)", None, metavar="OUT")
