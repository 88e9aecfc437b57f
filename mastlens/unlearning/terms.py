"""The terms of an objective on what the model says: forget and retain, batch by batch, with learnt token weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mastlens.models.divergence import forward_kl
from mastlens.models.likelihood import Reading
from mastlens.runs.ranks import Ranks
from mastlens.unlearning import losses
from mastlens.unlearning.objectives import ForgetBatch, Objective, OutputObjective
from mastlens.unlearning.passes import Passes
from mastlens.unlearning.rewinding import Imitated
from mastlens.unlearning.scorer import Scorer
from mastlens.unlearning.splitting import SEQUENCES, TOKENS, shares

_READ = 32  # problems a pass where nothing is learnt
Back = Callable[[Tensor], None]
"""Goes back through a term, and adds its gradient to what is learnt."""


def make_scorer(objective: Objective, width: int, device: torch.device) -> Scorer:
    """Return a scorer of an objective's tokens that has learnt nothing yet."""
    settings = objective.token_weights
    assert settings is not None
    return Scorer(width, settings, device, settings.factor(objective.name))


class OutputTerms:
    """Both terms of an ``OutputObjective``; what it wants to know of the weights as they are now is read at once.

    No second model is needed: this is made before the first step.

    Args:
        passes: What reads the texts.
        objective: The objective.
        forget: Forget problems that will be read, by number.
        steps: Steps of the run, for the learning rate of token weights.
        ranks: All of them; None for one process.
        imitated: What the SFT model says at the tokens of the forget texts, for an objective that imitates it.
    """

    def __init__(
        self,
        passes: Passes,
        objective: OutputObjective,
        forget: Sequence[int],
        *,
        steps: int,
        ranks: Ranks | None,
        imitated: Imitated | None,
    ):
        self.passes, self.objective, self.steps = passes, objective, steps
        self.ranks, self.imitated = ranks, imitated
        self.scorer: Scorer | None = None
        """What weighs the forget tokens; None until the first of them were read, or for good."""
        if objective.needs.before or objective.retain_loss == "kl":
            passes.remember_originals()
        self._reference = {
            side: self._sums(side, forget)
            for side in ("forget", "refusal")
            if objective.needs.reference and side in passes.problems
        }

    def forget(self, rows: Sequence[int], done: int, back: Back) -> tuple[float, float]:
        """Add the gradient of the forget term; return it, and the token-mean log-probability.

        Args:
            rows: The problems of the step.
            done: Steps taken before it.
            back: See ``Back``.
        """
        objective = self.objective
        # Each side, and each part of it, goes back on its own: one graph is in memory at a time.
        parts = self.passes.parts("forget", rows)
        if len(parts) > 1 and self._scorer_learns(done):
            with torch.no_grad():
                self._learn(self._batch(rows, parts), done)
        of_loss = self._parts("forget", rows, objective.over or SEQUENCES)
        whole, logprob = 0.0, 0.0
        for (part, share), (_, of_tokens) in zip(of_loss, self._parts("forget", rows, TOKENS), strict=True):
            batch = self._batch(part)
            solutions = batch.solutions
            if len(parts) == 1 and self._scorer_learns(done):
                self._learn(batch, done)
            weights = None if objective.token_weights is None else self._weights(solutions)
            loss = objective.forget_loss(batch, weights)
            with torch.no_grad():  # constants: an objective on whole distributions has not made them yet
                values = replace(solutions, hidden=solutions.hidden.detach()).logprobs.values
            back(objective.gamma * loss * share)
            whole += share * float(loss.detach())
            logprob += of_tokens * float(values.mean())
        return whole, logprob

    def _batch(self, rows: Sequence[int], parts: Sequence[Sequence[int]] | None = None) -> ForgetBatch:
        """Return what the objective looks at; read part by part, in the order of the parts, where some are given."""
        passes, objective = self.passes, self.objective
        parts = [range(len(rows))] if parts is None else parts
        before = passes.logits_before("forget", rows, parts) if objective.needs.before else None
        solutions = passes.joined("forget", rows, parts)
        refusals = passes.joined("refusal", rows, parts).logprobs.sums if objective.needs.alternatives else None
        ordered = [rows[place] for part in parts for place in part]
        references = {side: sums[ordered] for side, sums in self._reference.items()}
        wanted = None if self.imitated is None else self.imitated.logits(ordered)
        return ForgetBatch(solutions, references.get("forget"), before, refusals, references.get("refusal"), wanted)

    def _scorer_learns(self, done: int) -> bool:
        """Return whether the scorer of token weights learns at this step: every so many, from the whole batch."""
        settings = self.objective.token_weights
        return settings is not None and settings.learns_at(done)

    def _weights(self, solutions: Reading) -> Tensor:
        """Return the weights of tokens, as the objective takes them."""
        scorer = self.scorer = self.scorer or make_scorer(
            self.objective, solutions.hidden.shape[1], self.passes.model.device
        )
        return scorer.factor * scorer.weights(scorer.states(solutions))

    def _learn(self, batch: ForgetBatch, done: int) -> None:
        """Let the scorer learn from a batch, the model a constant."""
        objective, solutions = self.objective, batch.solutions
        self._weights(solutions)
        assert self.scorer is not None
        assert objective.token_weights is not None
        fixed = replace(
            batch,
            solutions=replace(solutions, hidden=solutions.hidden.detach()),
            refusals=None if batch.refusals is None else batch.refusals.detach(),
        )
        with torch.no_grad():
            _ = fixed.solutions.logprobs  # kept as constants: the scorer's step does not reach the model
        with torch.enable_grad():
            self.scorer.learn(
                self.scorer.states(fixed.solutions),
                lambda weights: objective.gamma * objective.forget_loss(fixed, weights),
                solutions.rows,
                objective.token_weights.rate_at(done, self.steps),
            )

    def retain(self, rows: Sequence[int], back: Back) -> float:
        """Add the gradient of the retain term and return it; ``back`` as in ``forget``."""
        passes, objective, whole = self.passes, self.objective, 0.0
        for chosen, share in self._parts("retain", rows, TOKENS):
            if objective.retain_loss == "kl":
                loss = self._divergence(chosen)
            else:
                kept = passes.read("retain", chosen).logprobs
                loss = losses.retain_nll(kept.sums, kept.counts)
            back(objective.retain_weight * loss * share)
            whole += share * float(loss.detach())
        return whole

    def _divergence(self, rows: Sequence[int]) -> Tensor:
        """Return KL(source || model), the mean over the solution tokens of some retain problems."""
        before = self.passes.logits_before("retain", rows)
        now = self.passes.read("retain", rows)
        return now.over_tokens(lambda logits, part: forward_kl(logits, before(part))).mean()

    def _parts(self, side: str, rows: Sequence[int], over: str) -> list[tuple[list[int], float]]:
        """Return the problems of each micro-batch, and what it counts in a mean over the whole step."""
        if self.ranks is not None and not self.objective.over:  # cannot be split: every rank reads all of it
            return [(list(rows), 1 / self.ranks.size)]
        parts = self.passes.parts(side, rows)
        counted = shares(over, self.passes.solutions(side, rows), parts)
        # A part of nobody's stands for another rank's: it is read, and counts nothing.
        return [([rows[place] for place in part or [0]], share) for part, share in zip(parts, counted, strict=True)]

    @torch.no_grad()
    def _sums(self, side: str, items: Sequence[int]) -> Tensor:
        """Return the summed log-probability of each solution of a side; NaN at problems that are never read."""
        sums = torch.full((len(self.passes.problems[side]),), torch.nan, device=self.passes.model.device)
        ordered = sorted(items, key=lambda item: self.passes.length(side, item))
        rank, size = (0, 1) if self.ranks is None else (self.ranks.rank, self.ranks.size)
        for start in range(0, len(ordered[::size]), _READ):
            rows = ordered[rank::size][start : start + _READ]
            found = self.passes.read(side, rows or ordered[:1]).logprobs.sums
            if rows:
                sums[rows] = found
        if self.ranks is not None:
            mine = sums.new_zeros(len(sums)).index_put((torch.tensor(ordered[rank::size]),), sums[ordered[rank::size]])
            sums[ordered] = sums.new_tensor(self.ranks.sums(mine.tolist()))[ordered]
        return sums
