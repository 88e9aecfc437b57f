"""Gates in the place of weights: what is learnt is how much of its increment each selected matrix gives back.

    W(gate) = RLVR - gate * D,  D = RLVR - SFT;  by direction  W(gate) = RLVR - U diag(gate * s) V',  D = U diag(s) V'

so that a gate's gradient is minus the inner product of the weights' gradient with what it takes back: -<G, D>, or
-s_i u_i' G v_i.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mastlens.analysis.scores.hard_concrete import open_share, stretched
from mastlens.errors import BadSetting
from mastlens.unlearning.masters import Masters
from mastlens.unlearning.objectives.gates import UNITS
from mastlens.unlearning.optimisers import BETAS


class GateOptimiser(torch.optim.Adam):
    """Adam on the gates of some matrices; it reads the gradients of their masters, and writes the masters.

    Gates begin half open, and the masters with them.

    Args:
        masters: What is edited, at the values of the RLVR model.
        before: Name to stored tensor of the SFT model, for all that is selected.
        lr: Learning rate of the gates.
        unit: What has a gate of its own: one of ``UNITS``.
        price: Price of all gates being open.

    Raises:
        MastlensError: If there is nothing to take back.
    """

    def __init__(self, masters: Masters, before: Mapping[str, Tensor], *, lr: float, unit: str, price: float):
        self._price = price
        self._parts: list[_Part] = []
        for master, earlier in zip(masters.parameters, masters.read(before), strict=True):
            delta = master.detach() - earlier
            if not bool(delta.any()):
                continue
            basis = torch.linalg.svd(delta, full_matrices=False) if unit == UNITS[1] else None
            self._parts.append(_Part(master, earlier, basis))
        if not self._parts:
            raise BadSetting("The SFT model has the very weights that are selected: there is nothing to take back.")
        self._gates = sum(part.location.numel() for part in self._parts)
        super().__init__([part.location for part in self._parts], lr=lr, betas=BETAS)

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closure here
        """Move the gates down the gradients of their masters, and the masters with them."""
        for part in self._parts:
            loose = stretched(part.location)
            gate = loose + (loose.clamp(0, 1) - loose).detach()  # straight through the ends
            loss = (gate * part.slopes()).sum() + self._price * open_share(part.location).sum() / self._gates
            (part.location.grad,) = torch.autograd.grad(loss, [part.location])
        super().step(closure)
        for part in self._parts:
            part.write()
            self.state[part.location]["location"] = part.location.detach()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set moments and gates to what ``state_dict`` returned; the masters are set by whoever keeps them."""
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for part in self._parts:
                if part.location in self.state:
                    part.location.copy_(self.state[part.location]["location"])


class _Part:
    """A selected matrix with its gates."""

    def __init__(self, master: Tensor, earlier: Tensor, basis: Sequence[Tensor] | None):
        self._master, self._earlier, self._basis = master, earlier, basis
        self._source = master.detach().clone()
        # Half open: where the source is sure of itself, its gradient says nothing of what would make it less so.
        self.location = torch.zeros(1 if basis is None else len(basis[1]), device=master.device, requires_grad=True)
        self.write()

    def slopes(self) -> Tensor:
        """Return the loss' derivative by each gate at the master's gradient; 0 where nothing reached the matrix."""
        gradient = self._master.grad
        if gradient is None:  # e.g. an expert that no token went to
            return torch.zeros_like(self.location)
        if self._basis is None:
            return -(gradient.double() * (self._source - self._earlier).double()).sum()[None].float()
        left, values, right = self._basis
        return -values * ((left.T @ gradient) * right).sum(1)

    @torch.no_grad()
    def write(self) -> None:
        """Set the master to what the gates leave: at 0 and at 1, of one unit, the two models' own bits."""
        gate = stretched(self.location.detach()).clamp(0, 1)
        if self._basis is None:
            self._master.copy_(torch.lerp(self._source, self._earlier, float(gate)))
        else:
            left, values, right = self._basis
            self._master.copy_(self._source - (left * (gate * values)) @ right)


def taken_back(masters: Masters, source: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, float]:
    """Return for each selected matrix the share of its increment that the masters have given back.

    It is <RLVR - W, D> / <D, D>: the gate itself where a matrix has one, the mean gate weighted by energy where each
    direction has one; 0 where there is no increment.

    Args:
        masters: What was edited.
        source: Name to stored tensor of the RLVR model.
        before: Name to stored tensor of the SFT model.
    """
    shares: dict[str, float] = {}
    parts = zip(masters.names, masters.parameters, masters.read(source), masters.read(before), strict=True)
    for name, now, after, earlier in parts:
        delta = (after - earlier).double()
        energy = float((delta * delta).sum())
        shares[name] = float(((after - now.detach()).double() * delta).sum()) / energy if energy else 0.0
    return shares
