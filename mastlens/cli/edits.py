"""What commands tell that make and move edits without a gradient."""

from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.cli.outcome import Outcome
from mastlens.cli.tables import show

if TYPE_CHECKING:
    from mastlens.edits.edit import Edit
    from mastlens.edits.factors import LoraEdit
    from mastlens.edits.settings import (
        ApplyEditSettings,
        ComposeEditSettings,
        LoraEditSettings,
        NegateSettings,
        PushEditSettings,
        RevertEditSettings,
        ScaleEditSettings,
        ShowEditSettings,
        SteerEditSettings,
    )
    from mastlens.edits.sharing import PushedEdit
    from mastlens.edits.steering import WrittenBias


def edit_show(result: "Edit", settings: "ShowEditSettings") -> Outcome:
    """Tell what an edit changes."""
    from mastlens.edits.model_card import shortened

    made = shortened(dict(result.settings))
    lines = ["", *(f"{key:>16}  {value}" for key, value in made.items())] if made else []
    return Outcome(
        _described(result) + "\n".join(lines) + "\n\n" + show(result.table, rows=200),
        {**_summary(result), "settings": dict(result.settings), "tensors": result.table.to_dict("records")},
    )


def edit_folder(result: Path, settings: "ApplyEditSettings | RevertEditSettings") -> Outcome:
    """Tell which folder was written."""
    return Outcome(f"Wrote {result}", {"out": str(result)})


def edit_file(result: "Edit", settings: "ScaleEditSettings | ComposeEditSettings") -> Outcome:
    """Tell what the new edit is."""
    out = str(settings.out)
    return Outcome(f"{_described(result)}\nWrote {out}", {**_summary(result), "out": out})


def edit_lora(result: "LoraEdit", settings: "LoraEditSettings") -> Outcome:
    """Tell how far the adapter is from the edit."""
    largest = float(result.table["error"].max())
    said = f"Wrote {result.folder}; the largest error is {largest:.2%} of a tensor's change"
    summary = {"out": str(result.folder), "largest_error": largest, "tensors": result.table.to_dict("records")}
    return Outcome(f"{show(result.table, rows=200)}\n\n{said}", summary)


def edit_steer(result: "WrittenBias", settings: "SteerEditSettings") -> Outcome:
    """Tell which bias holds the direction, and how exactly."""
    beside = (
        f" ({result.switch} switched on; {len(result.added) - 1} biases beside it are zero)" if result.switch else ""
    )
    said = f"Wrote {result.out}: {result.tensor}{beside}; logits off by {result.error:.1g} of the largest"
    return Outcome(said, {"out": str(result.out), "tensor": result.tensor, "switch": result.switch,
                          "added": list(result.added), "error": result.error})  # fmt: skip


def edit_push(result: "PushedEdit", settings: "PushEditSettings") -> Outcome:
    """Tell where the edit is."""
    return Outcome(f"Pushed: --edit {result.spec}", {"edit": result.spec, "sha256": result.sha256})


def negate(result: "Edit", settings: "NegateSettings") -> Outcome:
    """Tell what the edit takes back."""
    return Outcome(_described(result), {**_summary(result), "out": str(settings.out)})


def _described(edit: "Edit") -> str:
    return "\n".join(f"{key:>16}  {value}" for key, value in _summary(edit).items() if value != "")


def _summary(edit: "Edit") -> dict:
    from mastlens.edits.model_card import describe

    return describe(edit)
