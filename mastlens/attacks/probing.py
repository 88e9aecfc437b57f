"""Linear probes on hidden states: does a layer tell a problem's own working from another problem's?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from mastlens.architectures.rotation import rows_alone
from mastlens.errors import BadSetting
from mastlens.models.batching import by_length
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem
from mastlens.statistics import wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mastlens.attacks.trials import Trial

SHUFFLED = "shuffled labels"

States = Float[np.ndarray, "layers _ hidden"]


def strangers(problems: Sequence[Problem], seed: int) -> list[int]:
    """Return for each problem the place of another one whose solution it is not, of its own subject where it has one.

    Within a subject, in an order drawn from the seed, each problem gets the next one's; so each solution is given away
    once. Where the next one has the same solution, the nearest that has another is taken.

    Raises:
        MastlensError: If all problems have one and the same solution.
    """
    generator = np.random.default_rng([seed, len(problems)])
    order = generator.permutation(len(problems)).tolist()
    found: list[int] = []
    for place, problem in enumerate(problems):
        own = order.index(place)
        ring = [*order[own + 1 :], *order[:own]]
        other = [one for one in ring if problems[one].solution != problem.solution]
        alike = [one for one in other if problems[one].subject == problem.subject]
        if not other:
            raise BadSetting("A probe needs problems with different solutions, two at least: these have one.")
        found.append((alike or other)[0])
    return found


@torch.no_grad()
def mean_states(model: "PreTrainedModel", encoded: Sequence[EncodedProblem], *, batch_size: int | str) -> States:
    """Return the mean hidden state over the solution of each text, of every layer, float64.

    Args:
        model: The model, in evaluation mode.
        encoded: The texts.
        batch_size: Texts a forward pass.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(encoded)
    batches = by_length(model, encoded, batch_size, None)
    for items, batch in batches:
        with batches.fitting(), rows_alone(model):
            said = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                use_cache=False,
                output_hidden_states=True,
            )
            counted = batch.is_solution[..., None]
            for row, item in enumerate(items):
                own = counted[row, :, 0]
                layers = [states[row][own].float().mean(dim=0).cpu() for states in said.hidden_states[1:]]
                found[item] = torch.stack(layers).double().numpy()
    return np.stack(found, axis=1)


def fit_probe(
    states: Float[np.ndarray, "texts hidden"], labels: Float[np.ndarray, " texts"], penalty: float
) -> Float[np.ndarray, " hidden"]:
    """Return the direction of a ridge regression of labels on standardised states, in the states' own units.

    Args:
        states: The states.
        labels: +1 or -1.
        penalty: In units of the number of texts.
    """
    centred = states - states.mean(axis=0)
    spread = centred.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    scaled, wanted, n = centred / scale, labels - labels.mean(), len(states)
    if n <= states.shape[1]:  # the same solution, from the smaller of the two Gram matrices
        direction = scaled.T @ np.linalg.solve(scaled @ scaled.T + penalty * n * np.eye(n), wanted)
    else:
        direction = np.linalg.solve(scaled.T @ scaled + penalty * n * np.eye(states.shape[1]), scaled.T @ wanted)
    return direction / scale


def told_apart(
    train: tuple[States, States], tested: tuple[States, States], penalty: float, *, shuffle: int | None = None
) -> Float[np.ndarray, "layers items"]:
    """Return how far above the other's solution each layer's probe puts a tested problem's own.

    Args:
        train: States of the training problems with their own solutions, and with others'.
        tested: The same of the problems that are tested.
        penalty: Of the probes.
        shuffle: Seed of labels that are drawn, for each training problem one way or the other; None for the true ones.
    """
    own, other = train
    problems = own.shape[1]
    signs = np.ones(problems)
    if shuffle is not None:
        signs = np.random.default_rng([shuffle, problems]).permutation(np.resize([1.0, -1.0], problems))
    labels = np.concatenate([signs, -signs])
    differences = tested[0] - tested[1]
    return np.stack(
        [
            differences[layer] @ fit_probe(np.concatenate([own[layer], other[layer]]), labels, penalty)
            for layer in range(len(own))
        ]
    )


def probe_layers(trial: "Trial", penalty: float) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a variant and its items for each layer, and for each with shuffled labels.

    Args:
        trial: The model, what is tested, and ``train`` among what is shown.
        penalty: Of the probes.
    """

    def states(problems: Sequence[Problem], source: str) -> tuple[States, States]:
        away = strangers(problems, trial.seed)
        foreign = [replace(one, solution=problems[other].solution) for one, other in zip(problems, away, strict=True)]
        texts = [one.ids for one in (*trial.encode(problems, source), *trial.encode(foreign, source))]
        found = mean_states(trial.model, texts, batch_size=trial.batch_size)
        return found[:, : len(problems)], found[:, len(problems) :]

    train = states(trial.shown["train"], "the --train file")
    tested = {split: states(problems, trial.sources[split]) for split, problems in trial.tested.items()}
    kinds = {"": None, f", {SHUFFLED}": trial.seed}
    margins = {
        kind: {split: told_apart(train, those, penalty, shuffle=shuffle) for split, those in tested.items()}
        for kind, shuffle in kinds.items()
    }
    for layer in range(len(train[0])):
        for kind, of_splits in margins.items():
            rows = [
                {"split": split, "item": item, "correct": bool(margin > 0)}
                for split, of_layers in of_splits.items()
                for item, margin in enumerate(of_layers[layer])
            ]
            items = pd.DataFrame(rows)
            nothing = {"correct_strict": items["correct"], "logprob_solution": np.nan, "solution_tokens": 0}
            said = {"truncated": False, "given": "", "response": ""}
            yield f"layer {layer}{kind}", items.assign(**nothing, **said)


def probe_sentences(table: pd.DataFrame) -> list[str]:
    """Return a sentence a model and split on what probes tell of it, counting layers beyond chance only.

    A layer is beyond chance if the interval of its probe, widened for the number of layers (Bonferroni), lies above one
    half and above what the probe with shuffled labels gets there.

    Args:
        table: As ``summarise_attack`` returns it of ``probe``.
    """
    found = []
    for (role, split), part in table.groupby(["model", "split"], sort=False):
        shuffled = part["variant"].str.endswith(SHUFFLED)
        true, null = part[~shuffled].reset_index(drop=True), part[shuffled].reset_index(drop=True)
        level = 1 - 0.05 / len(true)
        counts = zip(true["correct"].tolist(), true["n"].tolist(), strict=True)
        lows = np.array([wilson(right, n, level=level).low for right, n in counts])
        beyond = int((lows > np.maximum(0.5, null["accuracy"].to_numpy(dtype=float))).sum())
        best = true.iloc[int(true["accuracy"].argmax())]
        found.append(
            f"{split}, {role}: the probe tells a problem's own working from another's beyond chance on {beyond} of "
            f"{len(true)} layers, at best {best['accuracy']:.0%} ({best['variant']}; with shuffled labels at most "
            f"{null['accuracy'].max():.0%})."
        )
    return found
