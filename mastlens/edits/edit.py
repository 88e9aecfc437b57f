"""The edit: selected tensors changed in place, undone bit for bit, and kept as a patch file."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.digests import fingerprint_of, tensor_digest
from mastlens.errors import BadFile, BadSetting, NotFound, NotTogether
from mastlens.models.weights import same_bits
from mastlens.plots.cards.carded import Carded
from mastlens.runs.files import sha256_json, sha256_tensor, write_tensors
from mastlens.runs.reading import parse_json

if TYPE_CHECKING:
    from mastlens.plots.cards.card import Card

FILE = "edit.safetensors"
FORMAT = 1
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHOWN = 5  # names in a message


@dataclass(frozen=True, repr=False)
class Edit(Carded):
    """Whole tensors before and after, in the source's dtype, with where they belong.

    Attributes:
        before: Name to tensor in the source checkpoint.
        after: Name to tensor in the edited one; same names.
        source: Fingerprint of the checkpoint that the edit belongs to.
        settings: How it was made: selection, objective, seed, ...
        digests: Name to digest of every tensor of the source (``tensor_digests``): then a checkpoint that the edit
            does not belong to is told what differs, tensor by tensor. Empty where it was not kept.
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    source: str
    settings: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import edit_card

        return edit_card(self.table, self.source, self.settings)

    @classmethod
    def of_changed(
        cls,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        source: str,
        settings: Mapping[str, Any],
        digests: Mapping[str, str] | None = None,
    ) -> "Edit":
        """Return the edit of those tensors that differ in any bit.

        Raises:
            MastlensError: If none does.
        """
        names = [name for name in after if not same_bits(before[name], after[name])]
        if not names:
            raise BadSetting(
                f"The edit is empty: all {len(after)} tensors come out as the source has them, bit for bit. There is "
                "nothing to apply."
            )
        old, new = ({name: side[name] for name in names} for side in (before, after))
        return cls(old, new, source, settings, digests or {})

    @property
    def names(self) -> list[str]:
        """Names of the edited tensors."""
        return list(self.after)

    @property
    def table(self) -> pd.DataFrame:
        """One row an edited tensor: shape, dtype, norms of tensor and change, share of entries changed."""
        rows = []
        for name in self.names:
            a, b = self.before[name].double(), self.after[name].double()
            norm = float(torch.linalg.vector_norm(a))
            change = float(torch.linalg.vector_norm(b - a))
            rows.append(
                {
                    "name": name,
                    "shape": " x ".join(map(str, a.shape)),
                    "dtype": str(self.before[name].dtype).removeprefix("torch."),
                    "change_norm": change,
                    "relative_norm": change / norm if norm else float("inf"),
                    "changed_fraction": float((a != b).double().mean()),
                }
            )
        return pd.DataFrame(rows)

    @property
    def sha256(self) -> str:
        """SHA-256 of the metadata that its file holds, and with it of every tensor, the source and the settings."""
        return sha256_json(self._metadata())

    def _sides(self) -> dict[str, Tensor]:
        tensors = {f"before/{name}": tensor for name, tensor in self.before.items()}
        return tensors | {f"after/{name}": tensor for name, tensor in self.after.items()}

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "source": self.source,
            "settings": dict(self.settings),
            "sha256": {name: sha256_tensor(tensor) for name, tensor in self._sides().items()},
            **({"tensors": dict(self.digests)} if self.digests else {}),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the patch file; equal edits give equal bytes."""
        path = Path(path)
        write_tensors(path, self._sides(), self._metadata())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Edit":
        """Read a patch file and check every tensor against its hash.

        Args:
            path: A file, a folder that holds one, or ``OWNER/NAME[@REVISION]`` of the hub.

        Raises:
            MastlensError: If the file is missing, truncated, not an edit, or was tampered with.
        """
        path = _from_hub(os.fspath(path)) or Path(path)
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            raise NotFound(f"There is no edit file {path}. mastlens unlearn writes one.")
        try:
            with safe_open(path, framework="pt", backend="pread") as stream:
                metadata = parse_json((stream.metadata() or {})["mastlens"], str(path), "an edit")
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            hashes, source, settings = metadata["sha256"], metadata["source"], metadata["settings"]
            digests = metadata.get("tensors", {})
            if not (isinstance(source, str) and all(isinstance(part, dict) for part in (hashes, settings, digests))):
                raise TypeError("its metadata have another form")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadFile(f"{path} is not an edit, or it is truncated ({error!r}).") from error
        if set(hashes) != set(tensors):
            raise BadFile(f"{path} was tampered with: its tensors are not those that it lists.")
        for name, tensor in tensors.items():
            if sha256_tensor(tensor) != hashes[name]:
                raise BadFile(f"{path} was tampered with: {name} does not match its SHA-256.")
        sides = {
            side: {n.removeprefix(f"{side}/"): t for n, t in tensors.items() if n.startswith(f"{side}/")}
            for side in ("before", "after")
        }
        if set(sides["before"]) != set(sides["after"]):
            raise BadFile(f"{path} is damaged: before and after do not hold the same tensors.")
        if digests and not _agree(digests, source, sides["before"]):
            raise BadFile(f"{path} was tampered with: its list of the source's tensors is not the source's.")
        return cls(sides["before"], sides["after"], source, settings, digests)

    def scale(self, by: float) -> "Edit":
        """Return the edit that goes ``by`` times as far: before + by * (after - before), entry by entry.

        Computed in float64 and rounded once to the stored dtype. At 1 it is this edit bit for bit, and entries that
        it leaves as they are stay so at any scale; below 0 it goes the other way.

        Raises:
            MastlensError: If nothing is left, as at 0, or the result does not fit the dtype.
        """
        from mastlens.edits.composition import scale

        return scale(self, by)

    def compose(self, following: "Edit") -> "Edit":
        """Return one edit of this edit's source that does what this one and then ``following`` do.

        ``following`` was made on the checkpoint that this edit gives, or it is another edit of the same source that
        changes other tensors.

        Raises:
            MastlensError: If they do not fit, with the tensors where they do not, or undo each other.
        """
        from mastlens.edits.composition import compose

        return compose(self, following)

    def check_source(self, checkpoint: Checkpoint) -> None:
        """Raise unless ``checkpoint`` is, bit for bit, the one that the edit was made for."""
        edited = self._differences(checkpoint, self.before)
        if not edited and checkpoint.fingerprint == self.source:
            return
        raise NotTogether(
            f"Cannot apply it to {checkpoint.spec}: the edit was made for another checkpoint, with fingerprint "
            f"{self.source[:12]}. {edited or f'All {len(self.before)} edited tensors agree.'} "
            f"{self._other_differences(checkpoint)}"
        )

    def check_edited(self, checkpoint: Checkpoint) -> None:
        """Raise unless the edited tensors of ``checkpoint`` are, bit for bit, those that the edit left.

        Only these are looked at: of two edits of different tensors, either can be taken out first.
        """
        if edited := self._differences(checkpoint, self.after):
            raise NotTogether(
                f"Cannot revert it from {checkpoint.spec}: it does not hold this edit. {edited} The edit belongs to "
                f"the checkpoint with fingerprint {self.source[:12]}."
            )

    def _differences(self, checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> str:
        there = [name for name in expected if name in checkpoint.tensors]
        differing = [name for name in there if not same_bits(checkpoint.tensor(name), expected[name])]
        absent = [name for name in expected if name not in checkpoint.tensors]
        said = []
        if absent:
            said.append(f"It lacks {len(absent)} of {len(expected)} edited tensors: {listed(absent)}.")
        if differing:
            said.append(
                f"Of {len(expected)} edited tensors {len(differing)} are not what the edit expects: "
                f"{listed(differing)}."
            )
        return " ".join(said)

    def _other_differences(self, checkpoint: Checkpoint) -> str:
        """Say which of the tensors that the edit leaves alone are not the source's, as far as it knows them."""
        if not self.digests:
            return "Which of the others differ, this edit does not know: it keeps no digests of them."
        others = {name: line for name, line in checkpoint.digests.items() if name not in self.before}
        expected = {name: line for name, line in self.digests.items() if name not in self.before}
        differing = [name for name in sorted({*others, *expected}) if others.get(name) != expected.get(name)]
        if not differing:
            return f"The {len(expected)} others agree."
        return f"Of the {len(expected)} others {len(differing)} differ: {listed(differing)}."


def _from_hub(spec: str) -> Path | None:
    """Return the file of an edit that is named as one of the hub and is nothing here; None for any other.

    Raises:
        MastlensError: If the hub does not give it.
    """
    repository, _, revision = spec.partition("@")
    if Path(spec).exists() or not _REPOSITORY.fullmatch(repository) or repository.endswith(".safetensors"):
        return None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, FILE, revision=revision or None))
    except Exception as error:  # the hub client raises a dozen classes; to the user they are one thing
        said = str(error).splitlines()[0] if str(error) else "no reason given"
        raise NotFound(
            f"There is no edit file {spec} here, and the hub did not give {FILE} of {repository}: "
            f"{type(error).__name__}: {said}. Check the spelling and the network, or give a local file; mastlens "
            "unlearn writes one."
        ) from error


def listed(names: Iterable[str]) -> str:
    """Return the first names of several, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _agree(digests: Mapping[str, str], source: str, before: Mapping[str, Tensor]) -> bool:
    return fingerprint_of(digests) == source and all(digests.get(n) == tensor_digest(t) for n, t in before.items())
