"""Chapters on edits beside each other: collateral, any number of edits in one table, attacks."""

import pandas as pd

from mastlens import plots
from mastlens.attacks import ATTACKS
from mastlens.attacks.catalogue import is_curve
from mastlens.plots.page import Section
from mastlens.reporting.folder import Findings, RunFolder
from mastlens.reporting.wording import interval, listed, plain, points, share

_CODES_OF_ALL = -1  # the layer of the rows that count all edited tensors together


def collateral(run: RunFolder) -> Findings | None:
    """Tell what an edit did to texts it was not meant to touch."""
    table = run.table("collateral.parquet")
    if table is None:
        return None
    statements = []
    for row in table.to_dict("records"):
        if row["measure"] == "kl":
            ends = interval(row["ci_low"], row["ci_high"], 3).replace("+", "")
            statements.append(
                f"it moves {row['split']} by {plain(row['value'], 3)} {ends} nats a token (KL to the source)"
            )
        if row["measure"] == "perplexity":
            none = ", not distinguishable from no change" if row["ci_low"] <= 1 <= row["ci_high"] else ""
            ends = interval(row["ci_low"], row["ci_high"], 3).replace("+", "")
            statements.append(f"perplexity on neutral text is {plain(row['value'], 3)} {ends} times the source's{none}")
    text = (
        "Divergence of the edited model's next-token distribution from the source's, on problems that were to stay; "
        "perplexity on neutral text; and how many responses repeat themselves, give no answer, or do not end. "
        "Intervals are over items."
    )
    section = Section(
        "What the edit did beside its purpose",
        text,
        (plots.plot_collateral(table, subtitle=run.subtitle),),
        (("Every measure", table),),
    )
    finding = listed(statements)
    return Findings(section, f"{finding[:1].upper()}{finding[1:]}." if finding else "")


def compared(run: RunFolder) -> Findings | None:
    """Tell what each of several edits forgot, and what it cost."""
    table, contrasts = run.table("edits.parquet"), run.table("edit_contrasts.parquet")
    if table is None:
        return None
    tables = [("Every edit against the source, on the same items", _edit_table(table))]
    if contrasts is not None and len(contrasts.columns) > 3:
        tables.append(("Every edit against the first", contrasts))
    statements = []
    for row in table.to_dict("records"):
        kept = "" if row["retain_holm_p"] <= 0.05 else ", not distinguishable from no change"
        statements.append(
            f"{row['arm']} changes forget by {points(row['forget_difference'], row['forget_low'], row['forget_high'])} "
            f"and retain by {points(row['retain_difference'], row['retain_low'], row['retain_high'])}{kept}"
        )
        if isinstance(row.get("after_attack"), str):
            right = share(row["after_attack_accuracy"])
            statements[-1] += f"; after the strongest attack ({row['after_attack']}) {right} are right"
    text = (
        "Each edit against the source on the same items: what it forgot, and what that cost in accuracy, divergence "
        "and perplexity, with paired intervals; p-values are Holm's over the edits. An open mark shows how much stays "
        "forgotten after the strongest attack that was tried: the largest of several, so a bound and no estimate."
    )
    figure = plots.plot_edits(table, subtitle=run.subtitle)
    return Findings(Section("Edits beside each other", text, (figure,), tuple(tables)), f"{'; '.join(statements)}.")


def _edit_table(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["arm"]
    for side in ("forget", "retain"):
        parts = ("n", "before", "after", "b", "c", "holm_p", "difference", "low", "high", "detectable")
        columns += [f"{side}_{part}" for part in parts]
    columns += ["kl", "kl_low", "kl_high", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high"]
    columns += ["after_attack", "after_attack_accuracy", "after_attack_control"]
    return table[[column for column in columns if column in table]]


def attacks(run: RunFolder) -> Findings | None:
    """Tell what attacks brought back: of this folder, and of the folders in it."""
    figures, tables, statements, about = [], [], [], {}
    for one in (run, *run.within):
        table = one.table("attack.parquet")
        if table is None:
            continue
        name = str(table["attack"].iloc[0])
        draw = plots.plot_relearning if is_curve(name, table) else plots.plot_attack_variants
        if name in ATTACKS:
            about[name] = f"{name}: {ATTACKS[name].summary}"
        figures.append(draw(table, subtitle=one.subtitle))
        shown = ["variant", "model", "step", "split", "n", "accuracy", "ci_low", "ci_high", "recovered"]
        shown += ["recovered_low", "recovered_high", "recovered_beyond_control"]
        shown += ["recovered_beyond_control_low", "recovered_beyond_control_high", "truncated"]
        tables.append((f"Attack {name}", table[[column for column in shown if column in table]]))
        statements.append(_attack_finding(name, table))
        tensors = one.table("attack_tensors.parquet")
        if tensors is not None:
            if bool((tensors["layer"] != _CODES_OF_ALL).any()):
                figures.append(plots.plot_code_changes(tensors, subtitle=one.subtitle))
            whole = tensors[tensors["layer"] == _CODES_OF_ALL].drop(columns=["layer", "projection"])
            if len(whole):
                tables.append(("Quantised codes that the edit changes", whole))
    if not figures:
        return None
    text = (
        "The same attack on the edited model, on the source, and on a control that never had the skill: what "
        "fine-tuning teaches anyone is no recovery. Recovered is the share of what was lost that came back, beyond "
        "control what is left of it when the control's gain is taken off; it has no value where nothing was lost."
    )
    text += "".join(f" {line}." for line in about.values())
    return Findings(
        Section("Whether it comes back", text, tuple(figures), tuple(tables)),
        " ".join(statements),
        ("An attack that brought nothing back says nothing of stronger ones.",),
    )


def _attack_finding(name: str, table: pd.DataFrame) -> str:
    edited = table[table["model"] == "edited"]
    attacked, plain_rows = edited[~edited["baseline"]], edited[edited["baseline"]]
    if attacked.empty or plain_rows.empty:
        return ""
    forget = [split for split in attacked["split"].unique() if str(split).startswith("forget")]
    split = str((forget or list(attacked["split"].unique()))[0])
    attacked, before = (rows[rows["split"] == split] for rows in (attacked, plain_rows))
    best = attacked.sort_values("accuracy", ascending=False, kind="stable").iloc[0]
    where = f"{best['variant']}" + (f", step {int(best['step'])}" if best["step"] else "")
    statement = (
        f"Under {name} ({where}) the edited model gets {share(best['accuracy'], best['ci_low'], best['ci_high'])} of "
        f"{split} right, {share(before['accuracy'].iloc[0])} before it"
    )
    if best["recovered"] == best["recovered"]:
        ends = best["recovered_low"], best["recovered_high"]
        none = ", not distinguishable from nothing" if ends[0] <= 0 <= ends[1] else ""
        statement += f": {share(best['recovered'], *ends)} of what was lost came back{none}"
        beyond = best["recovered_beyond_control"]
        if beyond == beyond:
            low, high = best["recovered_beyond_control_low"], best["recovered_beyond_control_high"]
            statement += f", {share(beyond, low, high)} beyond what it teaches the control"
    else:
        statement += ": there was nothing lost that could have come back"
    return f"{statement} (the strongest of {len(attacked)} tried)."
