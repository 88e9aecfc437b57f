"""What commands that unlearn tell."""

from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome, some_rows
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.unlearning import Traces, Unlearning
    from mastlens.unlearning.settings import TracesSettings, UnlearnSettings


def unlearn(result: "Unlearning", settings: "UnlearnSettings") -> Outcome:
    """Tell what the edit changed, and some of its steps."""
    probed = result.table.dropna(subset=["retain_probe_kl"]) if "retain_probe_kl" in result.table else result.table
    shown = some_rows(probed if len(probed) else result.table).dropna(axis="columns", how="all")
    last = result.table.iloc[-1].to_dict() if len(result.table) else {}
    parameters = sum(t.numel() for t in result.edit.after.values())
    text = (
        f"{show(shown) if len(result.table) else 'no step was finite'}\n"
        f"the edit holds step {result.chosen}: {len(result.edit.names)} tensors changed, {parameters:,} parameters\n"
        f"{result.swallowed:.2%} of the changed entries were returned by rounding to the checkpoint's dtype"
    )
    return Outcome(
        text,
        {
            "tensors": len(result.edit.names),
            "parameters": parameters,
            "steps": len(result.table),
            "chosen": result.chosen,
            "last": last,
            "swallowed": result.swallowed,
            "out": str(settings.out),
        },
    )


def traces(result: "Traces", settings: "TracesSettings") -> Outcome:
    """Tell how many traces there are, and how long they are."""
    about = result.summary
    text = (
        f"{about['traces']} traces of {about['documents']} documents, {about['mean_tokens']:.1f} tokens on average; "
        f"{about['truncated']:.1%} cut off, {about['empty']:.1%} empty"
    )
    return Outcome(text, {**about, "out": str(settings.out)})
