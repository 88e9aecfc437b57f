"""Cards of what models answer: accuracy, comparisons with their tests, traces, refusals, attacks."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mastlens.plots.cards.card import Card


def evaluation_card(accuracy: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of a model's accuracy by split."""
    if not len(accuracy):  # tasks of the harness alone
        return Card("Evaluation", "There are no responses of its own: the harness has tables of their own.")
    columns = ["split", "n", "correct", "accuracy", "ci_low", "ci_high", "truncated", "chance"]
    return Card(
        "Evaluation",
        _shares(accuracy, "accuracy", "ci_low", "ci_high", "right"),
        accuracy[[column for column in columns if column in accuracy]],
        next=("result.plot()", "mastlens.compare(before, after)"),
    )


def token_view_card(table: pd.DataFrame, totals: pd.DataFrame) -> Card:
    """Return the card of one text under two models: what it became as a whole, and the tokens that changed most."""
    parts = [
        f"{row['side']} {row['difference']:+.3g} nats over {row['tokens']} tokens" for row in totals.to_dict("records")
    ]
    order = table.reindex(table["difference"].abs().sort_values(ascending=False, kind="stable").index)
    return Card(
        "One text under both models",
        f"Edited minus source: {'; '.join(parts)}. One text: no interval, no null.",
        order[["side", "position", "token", "logprob_before", "logprob_after", "difference", "shared"]],
        next=("result.html()", "result.plot()", "mastlens.token_differences(rlvr=..., sft=..., splits={...})"),
    )


def comparison_card(table: pd.DataFrame, what: str = "Accuracy") -> Card:
    """Return the card of a paired comparison: which splits changed, at a level held over all of them."""
    changed = table[table["holm_p"] < 0.05] if "holm_p" in table else table.iloc[:0]
    parts = [
        f"{row['split']}: {100 * row['difference']:+.1f} points "
        f"[{100 * row['ci_low']:+.1f}, {100 * row['ci_high']:+.1f}]"
        for row in changed.to_dict("records")
    ]
    verdict = (
        f"{what} changed in {len(changed)} of {len(table)} splits at the 5 % level (Holm's correction): "
        + "; ".join(parts)
        + "."
        if parts
        else f"No split of {len(table)} changed at the 5 % level (Holm's correction). "
        "The column detectable says how large a change would have been found."
    )
    columns = ["split", "n", "before", "after", "b", "c", "difference", "ci_low", "ci_high", "holm_p", "detectable"]
    rows = table[[column for column in columns if column in table]]
    return Card("Comparison", verdict, rows, next=("result.changed", "result.plot()"))


def edits_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of several edits of one source."""
    forgot = table[table["forget_holm_p"] < 0.05] if "forget_holm_p" in table else table.iloc[:0]
    cost = forgot[forgot["retain_holm_p"] < 0.05] if "retain_holm_p" in table else table.iloc[:0]
    verdict = (
        f"Of {len(table)} edits, {len(forgot)} changed what was to be forgotten at the 5 % level (Holm's correction), "
        f"and {len(cost)} of those changed what was to be kept, too."
    )
    if "verdict" in table and "after_attack" in table:
        verdict += "".join(f" {row['arm']}: {row['verdict']}." for row in table.to_dict("records"))
    columns = ["arm", "forget_before", "forget_after", "forget_holm_p", "retain_before", "retain_after"]
    columns += ["retain_holm_p", "kl", "after_attack_accuracy"]
    shown = table[[c for c in columns if c in table]]
    return Card("Edits", verdict, shown, next=("result.plot()", "result.plot_lasting()", "result.contrasts"))


def collateral_card(table: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of what an edit did beside what it was made for."""
    parts = [
        f"{row.measure} {row.split}: {row.value:.3g} [{row.ci_low:.3g}, {row.ci_high:.3g}] {row.unit}".rstrip()
        for row in table[table["measure"].isin(["kl", "perplexity"])].itertuples()
    ]
    columns = ["measure", "split", "items", "before", "after", "value", "ci_low", "ci_high", "unit"]
    verdict = ("; ".join(parts) or "Nothing was measured") + "."
    return Card("Collateral", verdict, table[columns], next=("result.plot()",))


def attack_card(table: pd.DataFrame, settings: Mapping[str, Any], told: Sequence[str] = ()) -> Card:
    """Return the card of an attack: what came back at its end, beside a reference or a control where there is one.

    Args:
        table: The attack's table.
        settings: What made it.
        told: What else is to be said; all there is to say of an attack that is not measured by answers.
    """
    edited = table[(table["model"] == "edited") & ~table["baseline"].astype(bool)]
    edited = edited if len(edited) else table[table["model"] == "edited"]
    ordered = ("recovered_beyond_reference", "recovered_beyond_control", "recovered")
    column = next((c for c in ordered if c in table and table[c].notna().any()), "")
    beyond = f" beyond the {column.rpartition('_')[2]}" if "beyond" in column else ""
    last = edited[edited["step"] == edited["step"].max()] if len(edited) else edited
    known = last[last[column].notna() & last[f"{column}_low"].notna()] if column else last.iloc[:0]
    back = known[known[f"{column}_low"] > 0] if column else known
    parts = [
        f"{row['split']}, {row['variant']}: {100 * row[column]:.0f} % of what was forgotten{beyond} "
        f"[{100 * row[f'{column}_low']:.0f}, {100 * row[f'{column}_high']:.0f}]"
        for row in back.to_dict("records")
    ]
    if parts:
        verdict = "Came back: " + "; ".join(parts[:4]) + "."
    elif len(known):
        verdict = f"Nothing came back{beyond} that can be told from chance, in {len(known)} readings at the last step."
    else:
        verdict = "How much came back cannot be told: there is no source to measure it by, or too few items."
    if told and not table["baseline"].astype(bool).any():
        verdict = ""
    verdict = " ".join([verdict, *told]).strip()
    columns = ["variant", "model", "step", "split", "n", "accuracy", "ci_low", "ci_high", column]
    rows = pd.concat([last, table.drop(last.index)])
    name = str(settings.get("attack", "attack"))
    return Card(f"Attack {name}", verdict, rows[[c for c in columns if c in rows]], next=("result.plot()",))


def trace_card(summary: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of judged reasoning traces."""
    columns = ["split", "n", "unjudged", "rt_ua", "rt_low", "rt_high", "fa_ua", "avg_ua", "accuracy", "truncated"]
    rows = summary[[column for column in columns if column in summary]]
    return Card(
        "Reasoning traces", _shares(summary, "rt_ua", "rt_low", "rt_high", "leak"), rows, next=("result.plot()",)
    )


def safety_card(summary: pd.DataFrame, settings: Mapping[str, Any]) -> Card:
    """Return the card of refusals."""
    named = summary.assign(split=summary["data"].astype(str) + " " + summary["kind"].astype(str))
    columns = ["data", "kind", "harmful", "n", "refused", "rate", "ci_low", "ci_high"]
    return Card(
        "Safety", _shares(named, "rate", "ci_low", "ci_high", "refused"), summary[columns], next=("result.plot()",)
    )


def traces_card(summary: Mapping[str, Any], table: pd.DataFrame) -> Card:
    """Return the card of reasoning traces about the forget texts."""
    verdict = (
        f"{summary['traces']:,} traces about {summary['documents']:,} documents, {summary['mean_tokens']:.0f} tokens "
        f"on average; {summary['empty']:.1%} are empty, {summary['truncated']:.1%} were cut off."
    )
    rows = table[["item", "segment", "trace", "tokens"]]
    return Card("Traces", verdict, rows, next=("mastlens.unlearn(objective='r2mu', traces=..., ...)",))


def _shares(table: pd.DataFrame, value: str, low: str, high: str, what: str) -> str:
    parts = [
        f"{row['split']}: {100 * row[value]:.1f} % {what} [{100 * row[low]:.1f}, {100 * row[high]:.1f}], "
        f"n = {row['n']:,}"
        for row in table[table[value].notna()].to_dict("records")
    ]
    if not parts:
        return "There is no response."
    more = f"; and {len(parts) - 4} more" if len(parts) > 4 else ""
    return f"{'; '.join(parts[:4])}{more}."
