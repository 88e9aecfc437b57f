"""What a scorer of token weights learnt, token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from mastlens.unlearning.loop import Unlearner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ = 32  # texts a pass


def learnt_weights(run: Unlearner, tokenizer: "PreTrainedTokenizerBase") -> pd.DataFrame:
    """Return the weights that the scorer gives each forget token, or each token of R2MU's traces, at the end.

    Columns: ``item``, ``position`` (from 0 in the solution, or in the item's traces one after the other), ``token``,
    ``text``, ``weight``, and ``logprob``, or for traces ``trace`` (from 0 within its document) and ``distance`` (to the
    control vector, squared and over the hidden size).
    """
    assert run.scorer is not None
    used = sorted({row for batch in run.schedules["forget"] for row in batch})
    if run.misdirection is not None:
        return pd.DataFrame(_of_traces(run, used, tokenizer))
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for start in range(0, len(used), _READ):
            items = used[start : start + _READ]
            reading = run.passes.read("forget", items)
            weights, values = run.scorer.weights(run.scorer.states(reading)).tolist(), reading.logprobs.values.tolist()
            places = zip(reading.rows.tolist(), reading.targets.tolist(), weights, values, strict=True)
            position, previous = 0, -1
            for row, token, weight, value in places:
                position = position + 1 if row == previous else 0
                previous = row
                text = str(tokenizer.decode([token]))
                keys = {"item": items[row], "position": position, "token": token, "text": text}
                rows.append({**keys, "weight": weight, "logprob": value})
    return pd.DataFrame(rows)


def _of_traces(run: Unlearner, documents: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]]:
    assert run.misdirection is not None
    assert run.scorer is not None
    rows: list[dict[str, Any]] = []
    for document in documents:
        position = 0
        for number, trace in enumerate(run.misdirection.traces[document]):
            weights = run.scorer.weights(run.misdirection.frozen("trace", [trace])).tolist()
            distances = run.misdirection.distances([trace]).tolist()
            tokens = run.passes.problems["trace"][trace].solution
            for token, weight, distance in zip(tokens, weights, distances, strict=True):
                keys = {"item": document, "trace": number, "position": position, "token": token}
                text = str(tokenizer.decode([token]))
                rows.append({**keys, "text": text, "weight": weight, "distance": distance})
                position += 1
    return rows
