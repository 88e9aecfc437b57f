"""Representation misdirection for unlearning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mastlens.errors import BadSetting
from mastlens.unlearning.coefficient import coefficient
from mastlens.unlearning.objectives.objective import Needs, Objective, Presets
from mastlens.unlearning.objectives.steering import PAPER, RELEASED, SteeringObjective

if TYPE_CHECKING:
    from torch import Tensor

    from mastlens.unlearning.passes import States

# No numbers of the R2MU paper are known to us: ``paper`` is its objective, with weights of 1 and c in median norms.
# ``release`` is its code as it was run for DeepSeek-R1-Distill-Llama-8B. That code's optimiser decays weights by 0.01 a
# step; ours does not, for any objective: what gets no gradient must stay as it is.
LLAMA_8B: Mapping[str, Any] = {"control_norm": 6.5, "retain_weight": 1.4, "texts": RELEASED}


@dataclass(frozen=True, kw_only=True)
class RMU(SteeringObjective):
    """Activations of forget texts go to c u, u a random unit vector; those of retain texts stay."""

    name = "rmu"
    summary = "activations steered to a random direction (arXiv:2403.03218)"
    source = "Li et al. 2024, arXiv:2403.03218, eq. 1"
    needs = Needs(before=True, retain=True)
    presets: ClassVar[Presets] = {"paper": {"texts": PAPER}, "release": LLAMA_8B}

    steering: float = coefficient(
        "c, the length of the control vector", 2.0, unit="median norms of retain activations", source="ours", above=0
    )
    control_norm: float = coefficient("c as a number, in place of steering; 0 for steering", 0.0, least=0)

    @classmethod
    def make(cls, fixed: Mapping[str, Any], given: Mapping[str, Any]) -> Objective:
        """Return the objective; what is given of c replaces what the preset says of it."""
        if {"steering", "control_norm"} <= given.keys():
            raise BadSetting("Steering and control_norm both say how long the control vector is: give one.")
        return super().make({**fixed, "control_norm": 0.0} if "steering" in given else fixed, given)

    def control(self, states: "Tensor", seed: int) -> "Tensor":
        """Return c u."""
        from mastlens.unlearning.control import control_vector

        return control_vector(states, self.steering, seed, norm=self.control_norm)

    def steer(
        self, states: "States", control: "Tensor", shares: "Tensor | None" = None, weights: "Tensor | None" = None
    ) -> "Tensor":
        """Return the mean over texts of the mean over tokens of |h - c u|^2 / hidden size."""
        from mastlens.unlearning import losses

        return losses.steer(states.values, control, states.rows, states.size, shares=shares, weights=weights)

    def keep(self, states: "States", reference: "Tensor") -> "Tensor":
        """Return the mean over texts of the mean over tokens of |h - h_before|^2 / hidden size."""
        from mastlens.unlearning import losses

        return losses.anchor(states.values, reference, states.rows, states.size)
