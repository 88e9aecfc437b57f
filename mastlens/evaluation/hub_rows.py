"""Rows of a dataset on the Hugging Face hub."""

from typing import Any

from mastlens.errors import BadFile, MissingPackage


def hub_rows(
    source: str, name: str, *, config: str | None, split: str, revision: str, check: str, instead: str
) -> list[dict[str, Any]]:
    """Return the rows of a split, in their order.

    Args:
        source: What was typed, for the message.
        name: The dataset's id.
        config: Its configuration; None for the only one.
        split: Which split.
        revision: Which revision; empty for the newest.
        check: What to look at where it cannot be read.
        instead: What to give in its place where the package is missing.

    Raises:
        MastlensError: If ``datasets`` is not installed, or the dataset cannot be read.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingPackage(
            f"Reading {source} from the hub needs the package 'datasets': pip install 'mastlens[train]'. {instead}"
        ) from error
    try:
        return [dict(row) for row in load_dataset(name, config, split=split, revision=revision or None)]
    except Exception as error:  # whatever the hub, the network or the builder says
        raise BadFile(f"The dataset {source} cannot be read: {error} {check}") from error
