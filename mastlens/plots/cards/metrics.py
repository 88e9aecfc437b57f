"""Cards of the field's metrics: of one model, and before and after."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card


def metrics_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a model's metrics: how many are told from chance, and what could not be had."""
    known = table[table["failed"] == ""]
    tested = known[known["null"].notna() & known["ci_low"].notna()]
    apart = tested[tested["beyond_null"]]
    lost = list(dict.fromkeys(table.loc[table["failed"] != "", "metric"]))
    verdict = (
        f"{len(apart)} of {len(tested)} aggregates that have a null are beyond it, each at 5 %; "
        f"{known['metric'].nunique()} metrics on {known['split'].nunique()} splits."
    )
    verdict += f" No number of {', '.join(lost)}: the column failed says why." if lost else ""
    columns = ["metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "null", "beyond_null", "note"]
    return Card("Metrics", verdict, known[columns], next=("result.plot()", "mastlens.compare_metrics(before, after)"))


def metric_changes_card(table: pd.DataFrame) -> Card:
    """Return the card of metrics before and after: which changed, at a level held over all of them."""
    tested = table[table["holm_p"].notna()]
    changed = tested[tested["holm_p"] < 0.05]
    parts = [
        f"{row['metric']} {row['aggregate']} on {row['split']} {row['difference']:+.3g} "
        f"[{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]"
        for row in changed.head(4).to_dict("records")
    ]
    more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
    verdict = f"{len(changed)} of {len(tested)} aggregates changed at the 5 % level (Holm's correction)"
    verdict += f": {'; '.join(parts)}{more}." if parts else "."
    columns = ["metric", "split", "aggregate", "n", "before", "after", "difference", "ci_low", "ci_high", "holm_p"]
    columns += ["reference", "to_reference", "to_reference_low", "to_reference_high"]
    return Card("Metrics compared", verdict, table[columns], next=("result.plot()",))


def protocol_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a published protocol on one's own model: what its objectives changed, beyond chance."""
    arms = [arm for arm in table["arm"].unique() if arm not in ("before", "reference")]
    tested = table[table["p"].notna()]
    level = 0.05 / max(1, len(tested))
    counts = ", ".join(f"{arm} {int((tested.loc[tested['arm'] == arm, 'p'] < level).sum())}" for arm in arms)
    verdict = (
        f"{settings['title']} on {settings['model']}: of {len(tested)} differences to before, those told from none at "
        f"the 5 % level over all of them (Bonferroni): {counts or 'none'}."
    )
    columns = ["arm", "metric", "split", "aggregate", "n", "value", "difference", "p"]
    return Card("Protocol", verdict, table[columns], next=("result.published", "result.plot(arm)"))
