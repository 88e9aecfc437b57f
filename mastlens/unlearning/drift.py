"""Where misdirection acts: how far hidden states are from the model before unlearning, by layer and kind of text.

Four curves explain most failures of R2MU: forget texts and traces should move, chains of thought and retain stay.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting
from mastlens.models.batching import by_length
from mastlens.models.likelihood import read_solutions
from mastlens.models.suffix import PartialForward, largest_layers
from mastlens.models.weights import snapshot, swapped
from mastlens.plots.cards.carded import Carded
from mastlens.problems.asking import Asked
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning.control import kept_control
from mastlens.unlearning.documents import Encoder, read_documents
from mastlens.unlearning.loop import Step, Unlearner
from mastlens.unlearning.losses import sequence_mean
from mastlens.unlearning.objectives.steering import SteeringTexts
from mastlens.unlearning.traces import read_traces

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedModel

    from mastlens.plots.cards.card import Card

TEXTS = ("forget", "traces", "cot", "retain")
COLUMNS = ("step", "text", "layer", "cosine", "norm_ratio", "cosine_to_control", "texts", "tokens")
Weights = Edit | Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class Drift(Carded):
    """How far hidden states have moved.

    Attributes:
        table: See ``state_drift``.
        settings: What made it.
    """

    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)

    def card(self) -> "Card":
        """Return what it says at first glance."""
        from mastlens.plots.cards.edits import drift_card

        return drift_card(self.table, self.settings)

    def plot(self) -> "go.Figure":
        """Draw the cosine to the source by layer, one panel a kind of text."""
        from mastlens.plots.misdirection import plot_misdirection

        return plot_misdirection(self.table, layer=self.settings.get("layer"))


@torch.no_grad()
def state_drift(
    model: "PreTrainedModel",
    edits: Mapping[int, Weights],
    texts: Mapping[str, Sequence[EncodedProblem]],
    *,
    control: Float[Tensor, " hidden"] | None = None,
    batch_size: int = 16,
    progress: str | None = None,
) -> pd.DataFrame:
    """Return how far the states of some texts are, after each edit, from where they were.

    Every number is a mean over a text's tokens, then over texts. Only solution tokens count; a text without a prompt
    counts whole.

    Args:
        model: The model before unlearning, in evaluation mode; it has its weights again when this returns.
        edits: Step to the edit there, or to name and tensor of what differs. The source is step 0.
        texts: Kind of text to texts.
        control: The control vector, on the CPU; None where there is none.
        batch_size: Texts a pass; it does not change the result beyond rounding.
        progress: Label of a progress bar; None for none.

    Returns:
        One row a step, kind of text and decoder layer: ``cosine`` between a token's state now and before,
        ``norm_ratio`` of their lengths, ``cosine_to_control`` (NaN without a control vector), ``texts``, ``tokens``.
    """
    layers = largest_layers(model)
    if layers is None:
        raise BadSetting(f"The layers of {type(model).__name__} cannot be told: it has no list of modules.")
    if 0 in edits:
        raise BadSetting("Step 0 is the source itself: number edits from 1.")
    partial = PartialForward(layers)
    changed = {0: {}} | {step: edit.after if isinstance(edit, Edit) else edit for step, edit in edits.items()}
    sums: dict[tuple[int, str], Tensor] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for text, encoded in texts.items():
        sizes[text] = len(encoded), sum(len(problem.solution) for problem in encoded)
        for _, batch in by_length(model, encoded, batch_size, progress):
            rows = batch.is_solution.nonzero()[:, 0]
            before: list[Tensor] = []
            for step, tensors in changed.items():
                with ExitStack() as stack:
                    stack.enter_context(swapped(model, tensors) if tensors else nullcontext())
                    outputs = [stack.enter_context(partial.through(n, alone=False)) for n in range(len(layers))]
                    read_solutions(model, batch, known=True)
                now = [states[-1][batch.is_solution] for states in outputs]
                before = before or now
                # Batches are of texts, so sums of their means add up to sums over all texts.
                size = len(batch.input_ids)
                means = [
                    torch.stack([sequence_mean(v, rows, size) * size for v in _compared(a, b, control)])
                    for a, b in zip(now, before, strict=True)
                ]
                sums[step, text] = sums.get((step, text), 0) + torch.stack(means).cpu()
    table = [
        (step, text, layer, *(values[layer] / sizes[text][0]).tolist(), *sizes[text])
        for (step, text), values in sums.items()
        for layer in range(len(layers))
    ]
    return pd.DataFrame(table, columns=list(COLUMNS)).sort_values(["step"], kind="stable", ignore_index=True)


def drift_by_step(
    run: Unlearner,
    texts: Mapping[str, Sequence[EncodedProblem]],
    *,
    every: int,
    batch_size: int = 16,
    progress: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take a run's remaining steps, and measure the drift every so many of them and at the last one.

    Args:
        run: A run that has not begun; its model holds the edit when this returns.
        texts: Kind of text to texts.
        every: Steps between two looks.
        batch_size: Texts a pass.
        progress: Label of a progress bar; None for none.

    Returns:
        The table of ``state_drift``, and the run's steps.

    Raises:
        MastlensError: If the run has begun: its source is not in memory any more.
    """
    if run.done:
        raise BadSetting(f"The run has taken {run.done} steps already: what it began from is not known here.")
    if every < 1:
        raise BadSetting(f"Drift is looked at every so many steps, at least 1; it is {every}.")
    source = snapshot(run.model, run.masters.stored)
    kept: dict[int, Mapping[str, Tensor]] = {}
    records = []
    for step in run.remaining():
        records.append(asdict(step))
        if step.step % every == 0 or step.step == run.steps:
            kept[step.step] = run.masters.tensors()
    with swapped(run.model, source):
        table = state_drift(run.model, kept, texts, control=run.control, batch_size=batch_size, progress=progress)
    return table, pd.DataFrame(records, columns=list(Step.__dataclass_fields__))


def _compared(
    now: Float[Tensor, "tokens hidden"], before: Float[Tensor, "tokens hidden"], control: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosine, ratio of norms and cosine to the control vector, one a token, in float64."""
    a, b = now.double(), before.double()
    lengths = torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1)
    ratio = lengths[0] / lengths[1].clamp_min(torch.finfo(torch.float64).tiny)
    if control is None:
        return cosine_similarity(a, b, dim=1), ratio, torch.full_like(ratio, torch.nan)
    return cosine_similarity(a, b, dim=1), ratio, cosine_similarity(a, control.to(a)[None], dim=1)


def measure_drift(
    *,
    model: "str | os.PathLike[str] | Checkpoint",
    edits: "Edit | str | os.PathLike[str] | Mapping[int, Edit | str | os.PathLike[str]]",
    forget: str | os.PathLike[str] | None = None,
    traces: str | os.PathLike[str] | None = None,
    cot: str | os.PathLike[str] | None = None,
    retain: str | os.PathLike[str] | None = None,
    texts: SteeringTexts | None = None,
    limit: int = 64,
    chat_template: Asked = True,
    batch_size: int = 16,
    device: str = "cpu",
    progress: bool = True,
) -> Drift:
    """Measure how far an edit, or the edits of several steps, moved hidden states: see ``state_drift``.

    Args:
        model: The checkpoint that the edits were made for.
        edits: An edit, or step to edit.
        forget: File of forget texts or problems.
        traces: A ``traces.parquet`` of the forget file.
        cot: File of chains of thought.
        retain: File of retain texts or problems.
        texts: How they are read; by default as the edit's own run read them.
        limit: Texts of each kind, the first ones; of traces all of so many documents.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        batch_size: Texts a pass.
        device: Where to compute.
        progress: Show a progress bar.

    Raises:
        MastlensError: If nothing is given to read, or an edit does not belong to the checkpoint.
    """
    checkpoint = Checkpoint(model)
    made = {step: e if isinstance(e, Edit) else Edit.load(e) for step, e in _by_step(edits).items()}
    if not made:
        raise BadSetting("There is no edit to measure.")
    for edit in made.values():
        edit.check_source(checkpoint)
    last = next(reversed(made.values())).settings
    read = texts or _texts_of(last)
    if traces is not None and forget is None:
        raise BadSetting("Traces belong to a forget file: give forget too.")
    loaded = checkpoint.load_model(device=device)
    encode = Encoder(checkpoint, checkpoint.load_tokenizer(), loaded.config, chat_template)
    sides: dict[str, list[EncodedProblem]] = {}
    if forget is not None:
        documents = read_documents(forget)
        sides["forget"] = encode.documents(documents[:limit], str(forget), texts=read)
        if traces is not None:
            table = read_traces(traces, forget=forget, fingerprint=checkpoint.fingerprint)
            traced = encode.traces(table, len(documents), read)[:limit]
            sides["traces"] = [trace for document in traced for trace in document]
    if cot is not None:
        sides["cot"] = encode.chains(read_documents(cot)[:limit], str(cot), texts=read)
    if retain is not None:
        sides["retain"] = encode.documents(read_documents(retain)[:limit], str(retain), texts=read)
    sides = {text: encoded for text, encoded in sides.items() if encoded}
    if not sides:
        raise BadSetting("There is nothing to read: give forget, traces, cot or retain.")
    label = "drift" if progress else None
    table = state_drift(loaded, made, sides, control=kept_control(last), batch_size=batch_size, progress=label)
    settings = {"limit": limit, "texts": asdict(read), "steps": list(made), "chat_template": chat_template}
    return Drift(table, {**settings, "layer": _objective(last).get("layer")})


def _by_step(edits: Any) -> dict[int, Any]:
    if isinstance(edits, Mapping):
        return dict(sorted(edits.items()))
    edit = edits if isinstance(edits, Edit) else Edit.load(edits)
    return {int(edit.settings.get("step") or edit.settings.get("steps") or 1): edit}


def _objective(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    objective = settings.get("objective")
    return objective if isinstance(objective, Mapping) else {}


def _texts_of(settings: Mapping[str, Any]) -> SteeringTexts:
    """Return how the run of an edit read its texts, as far as its settings say."""
    kept = _objective(settings).get("texts")
    return SteeringTexts(**kept) if kept else SteeringTexts()
