"""What an edit did, in words: for the model card of an exported folder and for the terminal."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.runs.reading import is_there

if TYPE_CHECKING:
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.edits.edit import Edit

_KEPT = ("license", "license_name", "license_link", "language")  # what an edit takes over from its source
_LONG = 16  # numbers in a list that are worth showing
_APART = ("selection", "inputs")  # long settings that have a place of their own


def describe(edit: "Edit") -> dict[str, Any]:
    """Return what an edit says about itself: what was done, to what, and its hashes."""
    names = selected_names(edit)
    heads = sum(bool(re.search(r"[#.]h\d+$", name)) for name in names)
    changed = sum(int((edit.before[n] != edit.after[n]).sum()) for n in edit.names)
    seeds = sorted({str(seed) for seed in found(edit.settings, "seed")})
    done = [str(kind) for kind in found(edit.settings, "kind") if kind != "composed"]
    objectives = [given for given in found(edit.settings, "objective") if isinstance(given, dict)]
    done += [str(objective.get("name")) for objective in objectives]
    return {
        "done": ", then ".join(done) or "not said",
        "source": edit.source,
        "sha256": edit.sha256,
        "selected": f"{len(names)} tensors or parts of tensors, {heads} of them single heads" if names else "",
        "tensors": len(edit.names),
        "parameters": sum(tensor.numel() for tensor in edit.after.values()),
        "entries_changed": changed,
        "seed": ", ".join(seeds),
    }


def selected_names(edit: "Edit") -> list[str]:
    """Return what was selected, also by the edits that this one was made from; nothing where that was not kept."""
    lists = [names for names in found(edit.settings, "selection") if isinstance(names, list)]
    return list(dict.fromkeys(str(name) for names in lists for name in names))


def found(settings: Any, key: str) -> Iterator[Any]:
    """Yield what stands under ``key``, in these settings or in those of the edits that they were made from."""
    if isinstance(settings, dict):
        if key in settings:
            yield settings[key]
        for edit in settings.get("edits", []):
            yield from found(edit, key)


def shortened(settings: Any) -> Any:
    """Return the settings without what is long."""
    if isinstance(settings, dict):
        return {key: shortened(value) for key, value in settings.items() if key not in _APART}
    if not isinstance(settings, list):
        return settings
    if len(settings) > _LONG and all(isinstance(value, float) for value in settings):
        return f"{len(settings)} numbers, norm {math.hypot(*settings):.6g}"
    return [shortened(value) for value in settings]


def write_card(edit: "Edit", checkpoint: "Checkpoint") -> str:
    """Return the model card of ``checkpoint`` with ``edit`` in it, as Markdown with the hub's front matter.

    The same edit of the same checkpoint gives the same text. A local source is named by its folder alone.
    """
    about = describe(edit)
    selected = selected_names(edit)
    inputs = [given for given in found(edit.settings, "inputs") if given]
    rows = {
        "source": _code(_public_name(checkpoint.spec)),
        "fingerprint of the source": _code(about["source"]),
        "SHA-256 of the edit": _code(about["sha256"]),
        "what was done": _code(about["done"]),
        "selected": about["selected"] or "see the tensors below",
        "tensors changed": f"{about['tensors']} of {len(checkpoint.tensors)}",
        "entries changed": f"{about['entries_changed']:,} of {about['parameters']:,} in these tensors",
        **({"seed": about["seed"]} if about["seed"] else {}),
    }
    changes = [
        f"| {_code(row['name'])} | {row['shape']} | {row['dtype']} | {row['changed_fraction']:.4f} "
        f"| {row['relative_norm']:.3g} |"
        for row in edit.table.to_dict("records")
    ]
    lines = [
        "---",
        _front_matter(checkpoint),
        "---",
        "",
        "# An edited model",
        "",
        f"This is {_code(_public_name(checkpoint.spec))} with {about['tensors']} tensors changed by mastlens. All "
        "others are the source's, bit for bit.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
        "## Settings",
        "",
        *_block(shortened(dict(edit.settings))),
        *(["", "SHA-256 of the problems:", "", *_block(inputs)] if inputs else []),
        "",
        "## Tensors",
        "",
        "| tensor | shape | dtype | entries changed | change / norm |",
        "|---|---|---|---|---|",
        *changes,
        *(["", "Selected:", "", *(f"- {_code(name)}" for name in selected)] if selected else []),
        "",
        "## Undo",
        "",
        "With the edit's file, and this folder as FOLDER; the result is the source, bit for bit:",
        "",
        "    mastlens edit revert edit.safetensors --from FOLDER --out SOURCE",
        "",
    ]
    return "\n".join(lines)


def write_steered_card(checkpoint: "Checkpoint", rows: Mapping[str, str]) -> str:
    """Return the model card of ``checkpoint`` with a direction in one of its biases, as Markdown with front matter.

    Args:
        checkpoint: The source.
        rows: What was done: a word to what is said of it.
    """
    lines = [
        "---",
        _front_matter(checkpoint),
        "---",
        "",
        "# A steered model",
        "",
        f"This is {_code(_public_name(checkpoint.spec))} with a direction added to its states by mastlens, as a bias. "
        "All weights are the source's, bit for bit.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_code(value)} |" for key, value in rows.items()),
        "",
    ]
    return "\n".join(lines)


def _front_matter(checkpoint: "Checkpoint") -> str:
    from huggingface_hub import ModelCardData

    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    on_hub = [name.partition("@")[0] for name in _parts(checkpoint.spec) if _is_hub_id(name)]
    if on_hub:
        data["base_model"] = on_hub[0] if len(on_hub) == 1 else on_hub
    data |= _taken_over(checkpoint.companions.get("README.md"))
    return ModelCardData(tags=["mastlens", "unlearning", "edited"], **data).to_yaml()


def _taken_over(card: Path | None) -> dict[str, Any]:
    from huggingface_hub import metadata_load

    try:
        theirs = metadata_load(card) if card is not None else None
    except Exception:  # whatever stands in a stranger's card, it does not keep an edit from being written
        return {}
    return {key: theirs[key] for key in _KEPT if key in theirs} if isinstance(theirs, dict) else {}


def _parts(spec: str) -> list[str]:
    return [spec] if is_there(spec) else spec.split("+")


def _is_hub_id(name: str) -> bool:
    return not name.startswith("organism:") and not is_there(name)


def _public_name(spec: str) -> str:
    """Return a checkpoint's name without the folders that lead to it, which are nobody's business."""
    return "+".join(Path(part).resolve().name if is_there(part) else part for part in _parts(spec))


def _block(value: Any) -> list[str]:
    return ["```json", json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False), "```"]


def _code(text: str) -> str:
    """Return text from a file as code: nothing in it is read as Markdown, HTML or the end of a cell."""
    harmless = re.sub(r"[`|\s]+", " ", text)
    return f"`{harmless}`"
