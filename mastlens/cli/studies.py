"""What the commands that run whole studies tell."""

from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.studies.commands import ReasoningTableSettings, RunSettings
    from mastlens.studies.protocol import ProtocolRun
    from mastlens.studies.reasoning import ReasoningTable
    from mastlens.studies.runner import Study


def reasoning_table(result: "ReasoningTable", settings: "ReasoningTableSettings") -> Outcome:
    """Tell R2MU's table."""
    columns = ["label", "seeds", "fa_ua", "rt_ua", "avg_ua", "forget_accuracy", "maths", "utility", "utility_accuracy"]
    return Outcome(
        f"{show(result.table, columns)}\n\nThe tables are in {settings.out}",
        {"table": result.table.to_dict("records"), "out": str(settings.out)},
    )


def run(result: "Study | ProtocolRun", settings: "RunSettings") -> Outcome:
    """Tell what a study or a protocol found."""
    from mastlens.studies.protocol import ProtocolRun

    if isinstance(result, ProtocolRun):
        return _protocol(result)
    retain = result.summary[result.summary["measure"] == "retain_accuracy"]
    columns = [
        "objective",
        "selection",
        "arms",
        "reached",
        "mean",
        "ci_low",
        "ci_high",
        "draws",
        "draw_min",
        "draw_max",
    ]
    contrasts = result.contrasts[result.contrasts["measure"] == "retain_accuracy"]
    text = f"retain accuracy at matched forgetting\n{show(retain, columns, rows=200)}"
    if len(contrasts):
        text += f"\n\nselections minus random draws\n{show(contrasts, rows=200)}"
    return Outcome(
        f"{text}\n\nThe tables are in {result.out}",
        {
            "arms": len(result.table),
            "reached": int(result.table["reached"].sum()),
            "summary": result.summary.to_dict("records"),
            "contrasts": result.contrasts.to_dict("records"),
            "out": str(result.out),
        },
    )


def _protocol(result: "ProtocolRun") -> Outcome:
    columns = ["arm", "metric", "split", "aggregate", "n", "value", "ci_low", "ci_high", "difference", "p"]
    text = f"{result.settings['title']}, on {result.settings['model']}\n{show(result.table, columns, rows=120)}"
    if len(result.published):
        text += f"\n\npublished, on other models\n{show(result.published, rows=60)}"
    notes = f"\n\n{result.settings['note']}" if result.settings["note"] else ""
    return Outcome(
        f"{text}{notes}\n\nThe tables are in {result.out}",
        {
            "protocol": result.settings["protocol"],
            "table": result.table.to_dict("records"),
            "published": result.published.to_dict("records"),
            "out": str(result.out),
        },
    )
