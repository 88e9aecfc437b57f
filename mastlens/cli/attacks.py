"""What the attack command tells."""

from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.attacks.running import Attack
    from mastlens.attacks.settings import AttackSettings


def attack(result: "Attack", settings: "AttackSettings") -> Outcome:
    """Tell what an attack brought back."""
    columns = ["variant", "model", "step", "split", "n", "accuracy", "ci_low", "ci_high", "logprob_solution"]
    columns += ["recovered", "recovered_low", "recovered_high"]
    there = set(result.table["model"])
    columns += [f"recovered_beyond_{null}" for null in ("control", "reference") if null in there]
    text = show(result.table, columns, rows=120)
    summary = {
        "attack": result.settings["attack"],
        "rows": result.table.to_dict("records"),
        "out": None if settings.out is None else str(settings.out),
    }
    if len(result.halves):
        text += "\n\nsteps until half of the gap is back\n" + show(result.halves)
        summary["halves"] = result.halves.to_dict("records")
    if "layer" in result.tensors:
        total = result.tensors[result.tensors["layer"] == -1].drop(columns=["layer", "projection"])
        text += "\n\nquantised codes that the edit changes\n" + show(total)
        summary["codes"] = total.to_dict("records")
    return Outcome(text, summary)
