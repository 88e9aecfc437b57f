"""RMU's and R2MU's side of a run: activations steered away, and kept where they were (representation misdirection).

Li et al. 2024 (arXiv:2403.03218) steer the forget texts and keep the retain texts. R2MU (arXiv:2506.12963) also steers
the model's own reasoning traces about the forget texts, and keeps chains of thought about other things.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mastlens.errors import NotSupported
from mastlens.models.likelihood import Reading
from mastlens.unlearning import losses
from mastlens.unlearning.objectives import SteeringObjective
from mastlens.unlearning.passes import Passes
from mastlens.unlearning.scorer import Scorer

_READ = 32  # texts a pass where nothing is learnt


def check_reach(passes: Passes, objective: SteeringObjective, reached: Mapping[str, Tensor]) -> None:
    """Raise if steering a layer gives no gradient to some selected tensor.

    Args:
        passes: Of the run.
        objective: With the steering layer.
        reached: Stored name to parameter of what is selected.
    """
    layer, layers = objective.layer, passes.layers
    home = {id(p): number for number in reversed(range(len(layers))) for p in layers[number].parameters()}
    inputs = {id(p) for p in passes.model.get_input_embeddings().parameters()}
    places = {name: -1 if id(p) in inputs else home.get(id(p), len(layers)) for name, p in reached.items()}
    lost = [name for name, place in places.items() if place > layer]
    if not lost:
        return
    highest = max(places.values())
    what = f"Steer layer {highest} (--layer {highest}), or select" if highest < len(layers) else "Select"
    raise NotSupported(
        f"{len(lost)} selected tensors lie above layer {layer}, which {objective.name} steers: no gradient reaches "
        f"them, e.g. {lost[0]}. {what} tensors in layers 0 to {layer} only, with --where or with a ranking that "
        f"selects no others (RMU: mlp.down_proj of layers {max(layer - 2, 0)} to {layer})."
    )


class Frozen:
    """What a layer gave before unlearning, by text: read once where memory allows, else from the swapped originals.

    Args:
        passes: Of the run, nothing edited yet.
        layer: The layer.
        sides: Side to the numbers of its texts that will be read; the first sides go first where memory ends.
        budget: Most memory for it, in bytes.
    """

    def __init__(self, passes: Passes, layer: int, sides: Mapping[str, Sequence[int]], budget: float):
        self.passes, self.layer = passes, layer
        self._kept: dict[str, dict[int, Tensor]] = {}
        embeddings = next(passes.model.get_input_embeddings().parameters())
        for side, uses in sides.items():
            items = sorted(set(uses), key=lambda item: (self._length(side, item), item))
            size = sum(self._length(side, item) for item in items) * embeddings.shape[1] * embeddings.element_size()
            if size > budget:
                passes.remember_originals()
                continue
            budget -= size
            self._kept[side] = self._read(side, items)

    @property
    def sides(self) -> list[str]:
        """The sides that are kept in memory."""
        return list(self._kept)

    def _length(self, side: str, item: int) -> int:
        return len(self.passes.problems[side][item].solution)

    @torch.no_grad()
    def _read(self, side: str, items: Sequence[int]) -> dict[int, Tensor]:
        kept: dict[int, Tensor] = {}
        for start in range(0, len(items), _READ):
            rows = items[start : start + _READ]
            states = self.passes.states(side, rows, self.layer)
            parts = states.values.split([self._length(side, item) for item in rows])
            kept |= {item: part.clone() for item, part in zip(rows, parts, strict=True)}
        return kept

    def __call__(self, side: str, rows: Sequence[int]) -> Float[Tensor, "tokens hidden"]:
        """Return the states of some texts of a side, in the order of ``Passes.states``."""
        if side in self._kept:
            return torch.cat([self._kept[side][row] for row in rows])
        with self.passes.before():
            return self.passes.states(side, rows, self.layer).values


class Misdirection:
    """The terms of an objective that steers activations.

    Token weights (ATWU, arXiv:2606.06320) go to the tokens of the traces. Their scorer reads the states of the model
    before unlearning, because misdirected states are all alike. It minimises the mean of g_t d_t and its regularisers,
    d_t being a token's distance to the control vector relative to the mean distance of the batch: ATWU's criterion with
    a forget loss bounded below by 0, which gives weight to tokens that go there cheaply and takes it from those that
    what is kept holds back. The model's step takes sum(g d) / sum(g) of each trace, so that weights that are all alike
    change nothing.

    Args:
        passes: Of the run, nothing edited yet; sides ``forget``, ``retain``, and ``trace`` and ``cot`` where they are
            used. All solution tokens of a text count.
        objective: The objective.
        uses: Side to the numbers of its texts, as often as each will be read.
        traces: For each forget document, the numbers of its traces.
        reflection: Tokens of the reflection token penalty.
        seed: Of the control vector.
        batch_size: Traces a pass.
        budget: Most memory for what was before, in bytes.
    """

    def __init__(
        self,
        passes: Passes,
        objective: SteeringObjective,
        uses: Mapping[str, Sequence[int]],
        *,
        traces: Sequence[Sequence[int]] = (),
        reflection: Sequence[int] = (),
        seed: int,
        batch_size: int,
        budget: float,
    ):
        self.passes, self.objective, self.traces, self.batch_size = passes, objective, traces, batch_size
        self.weights = objective.term_weights
        self.reflection = torch.tensor(list(reflection), dtype=torch.long, device=passes.model.device)
        kept = [side for side in ("retain", "cot") if side in uses]
        self.frozen = Frozen(
            passes,
            objective.layer,
            {side: uses[side] for side in [*kept, *(["trace"] if objective.token_weights else [])]},
            budget,
        )
        with torch.no_grad():
            rows = range(min(_READ, len(passes.problems["retain"])))  # whatever the schedule
            states = passes.states("retain", rows, objective.layer).values
        self.control = objective.control(states, seed)
        """What activations are steered to, drawn once."""

    def step(
        self,
        rows: Mapping[str, Sequence[int]],
        back: Callable[[Tensor], None],
        scorer: Scorer | None = None,
        *,
        rate: float | None = None,
    ) -> dict[str, float]:
        """Go back through every term of one step and return the unweighted terms, by their column in ``steps.parquet``.

        A term of weight 0 is read and not gone back through: it cannot change a bit.

        Args:
            rows: Side to the numbers of this step's texts; traces follow from the forget documents.
            back: Takes a weighted loss back to the selected tensors.
            scorer: Of the token weights.
            rate: Share of the scorer's learning rate, where it learns from this batch first; None where it does not.
        """
        terms = self._forget(rows["forget"], back)
        terms["retain_loss"] = self._keep("retain", rows["retain"], self.objective.retain_weight, back)
        if any(self.traces[document] for document in (rows["forget"] if self.traces else ())):
            terms["trace_loss"] = self._unthink(rows["forget"], back, scorer, rate=rate)
        if "cot" in rows:
            terms["cot_loss"] = self._keep("cot", rows["cot"], self.weights["cot"], back)
        return terms

    def _forget(self, rows: Sequence[int], back: Callable[[Tensor], None]) -> dict[str, float]:
        objective, terms = self.objective, dict.fromkeys(["forget_loss"], 0.0)
        for part, share in self._parts("forget", rows):
            if not len(self.reflection):
                loss = objective.steer(self.passes.states("forget", part, objective.layer), self.control)
                back(objective.gamma * loss * share)
            else:
                states, reading = self.passes.states_and_reading("forget", part, objective.layer)
                loss, penalty = objective.steer(states, self.control), self._penalty(reading)
                back((objective.gamma * loss + self.weights["reflection"] * penalty) * share)
                terms["reflection_loss"] = terms.get("reflection_loss", 0.0) + share * float(penalty.detach())
            terms["forget_loss"] += share * float(loss.detach())
        return terms

    def _penalty(self, reading: Reading) -> Tensor:
        chances = reading.over_tokens(lambda logits, part: losses.listed_probability(logits, self.reflection))
        return losses.sequence_mean(chances, reading.rows, reading.size)

    def _parts(self, side: str, rows: Sequence[int]) -> Iterator[tuple[list[int], float]]:
        """Yield the texts of each micro-batch, and what they count: every text alike."""
        for part in self.passes.parts(side, rows):
            yield [rows[place] for place in part], len(part) / len(rows)

    def _keep(self, side: str, rows: Sequence[int], weight: float, back: Callable[[Tensor], None]) -> float:
        """Take a side's states to what they were, and return the unweighted loss."""
        whole = 0.0
        for part, share in self._parts(side, rows):
            reference = self.frozen(side, part)
            with torch.set_grad_enabled(weight > 0):
                states = self.passes.states(side, part, self.objective.layer)
                loss = self.objective.keep(states, reference)
            if weight:
                back(weight * loss * share)
            whole += share * float(loss.detach())
        return whole

    def _unthink(
        self, documents: Sequence[int], back: Callable[[Tensor], None], scorer: Scorer | None, *, rate: float | None
    ) -> float:
        """Steer the documents' traces: the mean over documents that have some of the mean over each one's traces."""
        weight = self.weights["trace"]
        traced = [self.traces[document] for document in documents if self.traces[document]]
        flat = [(trace, 1 / (len(traced) * len(traces))) for traces in traced for trace in traces]
        # The graph of so many traces is in memory at a time, however many a document has.
        batches = [flat[start : start + self.batch_size] for start in range(0, len(flat), self.batch_size)]
        parts = [
            [batch[place] for place in part]
            for batch in batches
            for part in self.passes.parts("trace", [trace for trace, _ in batch])
        ]
        if scorer is not None and rate is not None:
            self._learn([[trace for trace, _ in part] for part in parts], scorer, rate)
        whole = 0.0
        for part in parts:
            rows = [trace for trace, _ in part]
            shares = torch.tensor([share for _, share in part], device=self.control.device)
            weights = None if scorer is None else scorer.weights(self.frozen("trace", rows))
            with torch.set_grad_enabled(weight > 0):
                states = self.passes.states("trace", rows, self.objective.layer)
                loss = self.objective.steer(states, self.control, shares, weights)
            if weight:
                back(weight * loss)
            whole += float(loss.detach())
        return whole

    @torch.no_grad()
    def distances(self, rows: Sequence[int]) -> Float[Tensor, " tokens"]:
        """Return how far each token of some traces is from the control vector, squared and over the hidden size."""
        states = self.passes.states("trace", rows, self.objective.layer)
        return losses.token_distances(states.values, self.control[None])

    def _learn(self, parts: Sequence[Sequence[int]], scorer: Scorer, rate: float = 1.0) -> None:
        """Let the scorer learn from a batch of traces, the model a constant."""
        distances = torch.cat([self.distances(rows) for rows in parts])
        relative = distances / distances.mean().clamp_min(torch.finfo(distances.dtype).tiny)
        hidden = torch.cat([self.frozen("trace", rows) for rows in parts])
        lengths = torch.tensor([len(self.passes.problems["trace"][row].solution) for rows in parts for row in rows])
        texts = torch.arange(len(lengths)).repeat_interleave(lengths).to(hidden.device)
        scorer.learn(hidden, lambda weights: self.weights["trace"] * (weights * relative).mean(), texts, rate)
