"""Settings of forgetting that is to stay: flat minima, noise on weights, disturbed hidden states. No torch here."""

import math
from dataclasses import dataclass

from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

GROUP = "forgetting that stays"


@dataclass(frozen=True)
class Robustness:
    """How the forget term is hardened against what would bring the forgotten back; one way at a time.

    Attributes:
        sharpness: rho of sharpness-aware steps (Fan et al. 2025, arXiv:2502.05374; SAM, arXiv:2010.01412): the forget
            gradient is taken at the weights moved by rho along it, where forgetting is worst. Two passes of the forget
            side a step in place of one.
        smoothing: sigma of randomised smoothing (Fan et al. 2025): the forget gradient is the mean of those at weights
            with normal noise of that size. 1 + draws passes a step.
        draws: Draws of that noise a step.
        latent_noise: epsilon of latent adversarial training (Sheshadri et al. 2024, arXiv:2407.15549): the forget
            gradient is taken with every token's state disturbed by that share of its own size.
        latent_layer: The layer whose output is disturbed, from 0; None for the middle one.
        latent_steps: Steps in which the disturbance is fitted to undo the forgetting; 0 for a direction at random.
            Two passes a step at 0, one more than its steps otherwise.
    """

    sharpness: float = setting("rho of sharpness-aware forget steps (SAM); twice the forget passes", 0.0)
    smoothing: float = setting("sigma of noise on the weights that forget gradients are averaged over", 0.0)
    draws: int = setting("draws of that noise a step; one more than so many times the forget passes", 1)
    latent_noise: float = setting("disturb hidden states by this share of their size while forgetting", 0.0)
    latent_layer: int | None = setting("layer whose output is disturbed, from 0; by default the middle one", None)
    latent_steps: int = setting(
        "steps in which the disturbance is made to undo the forgetting (latent adversarial training); 0: at random", 0
    )

    def check(self) -> None:
        """Raise unless these numbers make sense together."""
        sizes = {"--sharpness": self.sharpness, "--smoothing": self.smoothing, "--latent-noise": self.latent_noise}
        for option, size in sizes.items():
            if not (math.isfinite(size) and size >= 0):
                raise BadSetting(f"{option} is a number of 0 or more, it is {size}.")
        chosen = [option for option, size in sizes.items() if size]
        if len(chosen) != 1:
            said = " and ".join(chosen) or "none of them"
            raise BadSetting(f"Forgetting is hardened in one way: {', '.join(sizes)}; {said} is above 0. Give one.")
        if self.draws < 1 or self.latent_steps < 0:
            raise BadSetting(
                f"Draws of noise (--smoothing-draws) are at least 1, not {self.draws}; steps of a disturbance "
                f"(--latent-steps) are 0 or more, not {self.latent_steps}."
            )
        if (self.latent_steps or self.latent_layer is not None) and not self.latent_noise:
            raise BadSetting("--latent-layer and --latent-steps are of --latent-noise: give it, or leave them out.")
        if self.draws != 1 and not self.smoothing:
            raise BadSetting("--smoothing-draws is of --smoothing: give it, or leave it out.")
