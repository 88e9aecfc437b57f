"""What a command will need, told before it is run."""

from typing import TYPE_CHECKING

from mastlens.lazy import attach

if TYPE_CHECKING:
    from mastlens.estimating.needs import Estimate, estimate

__all__ = ["Estimate", "estimate"]

_PUBLIC = {"Estimate": "needs", "estimate": "needs"}

__getattr__, __dir__ = attach("mastlens.estimating", _PUBLIC)
