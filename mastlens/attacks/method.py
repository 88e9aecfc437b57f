"""What an attack is: one frozen dataclass in one file, whose fields are its settings. No torch, no pandas here.

An attack changes the model, or asks it otherwise, and tests it each time; what it is given to do that with is a
``Trial``. The edited model, its source and a control go through it alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.registry import code_digest

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from mastlens.attacks.trials import Trial
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.problems.reading import Problem

Problems = Mapping[str, "Sequence[Problem]"]
"""Name to problems: of a split, or of what the attacker has."""


@dataclass(frozen=True, kw_only=True)
class AttackMethod(ABC):
    """An attack with its settings, each field one: ``setting(help, default, ...)`` says what it decides.

    Attributes:
        name: As ``mastlens attack NAME`` takes it.
        summary: What it does to a model, in one line.
        source: Where it is from.
        uses: What the attacker has, ``train`` or ``retain``, to what for.
        needs: Those of ``uses`` that it does not do without.
        trains: Whether it changes all weights: they are put back from a copy when it is through with a model.
        gradients: Whether it takes gradients, which codes of a quantised checkpoint have none of.
        needs_source: Whether it moves weights towards the source's, and so cannot do without a source.
        curve: Whether it is drawn over its steps; else variant by variant.
        columns: Column to its meaning, of those that mean something of this attack's own.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    uses: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    gradients: ClassVar[bool] = False
    needs_source: ClassVar[bool] = False
    curve: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def run(self, trial: "Trial") -> None:
        """Attack one model: change it or ask it otherwise, and call ``trial.test`` each time.

        The first test is that of the model without the attack, ``trial.test(variant, baseline=True)``.

        Args:
            trial: The model, what it is tested on, and what the attacker has.
        """

    def hold_out(self, has: Problems, seed: int) -> tuple[Problems, Problems]:
        """Return what the attacker is shown of what it has, and further splits to test: here all, and none.

        Args:
            has: A key of ``uses`` to its problems.
            seed: Of what is drawn.
        """
        return has, {}

    def describe_edit(self, checkpoint: "Checkpoint", after: "Mapping[str, Tensor]") -> "pd.DataFrame | None":
        """Return a table on the edit's tensors that needs no model, for ``attack_tensors.parquet``; None for none.

        Args:
            checkpoint: The source of the edit.
            after: Name to edited tensor.
        """
        return None

    def record(self) -> dict[str, Any]:
        """Return its settings for the run record; of one from outside the package also the digest of its code."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        code = code_digest(type(self))
        return plain if code is None else {**plain, "code": code}
