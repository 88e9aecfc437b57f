"""Embeddings before a prompt: put in place of tokens that nothing else uses, and trained with the model a constant."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mastlens.attacks.answers import Prompted
from mastlens.errors import MastlensWarning, NotSupported
from mastlens.models.likelihood import token_logprobs
from mastlens.problems.encoding import EncodedProblem, collate
from mastlens.problems.reading import Problem
from mastlens.unlearning.loop import CLIP, batch_schedule

if TYPE_CHECKING:
    from mastlens.attacks.trials import Trial


class Softening:
    """A soft prompt of a trial's model.

    Prompts begin with a token that stands in no text of the trial, as often as there are vectors; while the soft prompt
    is active, the vectors take the place of what the model's input embedding gives for it. Nothing else of the model is
    touched, so that any architecture reads, scores and answers as it always does.

    Args:
        trial: The model, and the problems that are tested and shown.
        vectors: How many.

    Raises:
        MastlensError: If every token of the vocabulary stands in some text.
    """

    def __init__(self, trial: "Trial", vectors: int):
        self.trial, self.model, self.count = trial, trial.model, vectors
        self.embedding: nn.Module = trial.model.get_input_embeddings()
        self.marker = self._unused()
        weight = next(self.embedding.parameters())
        drawn = torch.randint(len(weight), (vectors,), generator=torch.Generator().manual_seed(trial.seed))
        with torch.no_grad():  # through the module: some scale what they look up
            start = self.embedding(drawn.to(weight.device)[None])[0].float()
        self.vectors = nn.Parameter(start.clone())
        """The embeddings, (vectors, hidden), float32; they begin at those of tokens drawn from the seed."""

    def _unused(self) -> int:
        tokenizer = self.trial.tokenizer
        texts = [*self.trial.tested.values(), *self.trial.shown.values()]
        seen = {token for problems in texts for one in self.trial.encode(problems, "a file") for token in _ids(one)}
        seen |= {0, *map(int, tokenizer.all_special_ids)}  # what padding may be
        size = len(next(self.embedding.parameters()))
        free = next((token for token in reversed(range(size)) if token not in seen), None)
        if free is None:
            raise NotSupported(
                f"Every one of the {size} tokens stands in a problem or is special: no place is left for a soft "
                "prompt. Give fewer problems."
            )
        return free

    def prompt(self, problem: Problem) -> Prompted:
        """Return a problem with the places of the vectors before it, behind a beginning-of-sequence token."""
        ids = self.trial.encode([problem], "a problem")[0].ids
        first = int(ids.prompt[:1] == (self.trial.tokenizer.bos_token_id,))
        places = (self.marker,) * self.count
        return Prompted(EncodedProblem(ids.prompt[:first] + places + ids.prompt[first:], ids.solution))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within, the vectors stand where a row of the input has all of their places."""

        def put(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            places = args[0] == self.marker
            # A response may hold the token too; it is read one token at a time, and never has all the places at once.
            places &= (places.sum(dim=-1, keepdim=True) == self.count) & (args[0].shape[-1] > 1)
            rows = int(places.sum()) // self.count
            if not rows:
                return output
            return output.index_put(places.nonzero(as_tuple=True), self.vectors.to(output.dtype).repeat(rows, 1))

        handle = self.embedding.register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()

    def train(self, problems: Sequence[Problem], *, lr: float, steps: int, batch_size: int) -> Iterator[int]:
        """Train the vectors while active, one step for each item of the iteration: its number, from 1.

        Token-mean negative log-likelihood of the solutions, AdamW with betas (0.9, 0.999) and no weight decay, constant
        learning rate, gradient norm clipped at 1. If a loss is not finite, the iteration ends with a warning.

        Args:
            problems: What to learn.
            lr: Learning rate.
            steps: Number of steps.
            batch_size: Problems a step.
        """
        self.model.eval().requires_grad_(False)
        encoded = [self.prompt(problem).ids for problem in problems]
        optimiser = torch.optim.AdamW([self.vectors], lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
        for step, rows in enumerate(batch_schedule(len(encoded), batch_size, steps, self.trial.seed, side=0), start=1):
            optimiser.zero_grad(set_to_none=True)
            batch = collate([encoded[row] for row in rows], device=str(self.model.device))
            with torch.enable_grad():
                loss = -token_logprobs(self.model, batch).values.mean()
                loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_([self.vectors], CLIP))
            if not (math.isfinite(norm) and math.isfinite(float(loss.detach()))):
                warnings.warn(
                    f"Soft prompt, step {step}: the loss or its gradient is not finite. The curve ends at step "
                    f"{step - 1}. Use a smaller learning rate than {lr}.",
                    MastlensWarning,
                    stacklevel=2,
                )
                return
            optimiser.step()
            yield step


def _ids(one: Prompted) -> tuple[int, ...]:
    return one.ids.prompt + one.ids.solution
