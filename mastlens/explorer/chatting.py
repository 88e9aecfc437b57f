"""Two models side by side, to talk to: a source and what an edit made of it. For looking, not for measuring."""

import html
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.engines import Decoding, HuggingFaceEngine
from mastlens.decoding.generation import Response, sampling_of
from mastlens.edits.applying import opened
from mastlens.edits.edit import Edit
from mastlens.errors import BadSetting, MissingPackage, NotTogether
from mastlens.models.weights import swapped
from mastlens.problems.encoding import encode_prompt
from mastlens.runs.devices import device_of
from mastlens.selection.tensors import weight_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.explorer.token_view import TokenView

Heard = Callable[[str], None]
"""Told a side's response so far, after each token."""
SIDES = ("source", "edited")


@dataclass(frozen=True)
class Exchange:
    """What was said, and what both answered.

    Attributes:
        said: The user's words.
        source: The source's response.
        edited: The edited model's.
    """

    said: str
    source: str
    edited: str


class Chat:
    """A source and an edited model, asked the same; every turn stands alone, as problems do.

    Attributes:
        exchanges: What was said so far.
    """

    def __init__(
        self,
        source: Checkpoint,
        edited: Edit | Checkpoint,
        *,
        decoding: Decoding,
        seed_name: str,
        chat_template: bool,
        device: str,
    ):
        self._checkpoint, self._edited, self._decoding, self._name = source, edited, decoding, seed_name
        self._chat_template, self._device = chat_template, device_of(device)
        self._models: dict[str, PreTrainedModel] = {}
        self._tokenizer = source.load_tokenizer()
        self.exchanges: list[Exchange] = []
        self._shown: Any = None

    def ask(self, said: str, heard: "Callable[[str, str], None] | None" = None) -> Exchange:
        """Return both answers, and keep them in ``exchanges``.

        Args:
            said: What to say.
            heard: Told side (``source``, ``edited``) and response so far, after each token.

        Raises:
            MastlensError: If the words do not fit the model's context.
        """
        ids = self.encoded(said)
        answers = {}
        for side in SIDES:
            listening = None if heard is None else (lambda text, side=side: heard(side, text))
            answers[side] = self.respond(side, ids, listening).text
        exchange = Exchange(said, **answers)
        self.exchanges.append(exchange)
        return exchange

    def view(self, said: str, text: str | None = None, *, gradient: bool = False) -> "TokenView":
        """Return what both make of every token of both responses, or of a typed text; see ``view_tokens``.

        Args:
            said: The prompt.
            text: What is read after it in place of the responses.
            gradient: Also each token's share of the gradient.

        Raises:
            MastlensError: If there is no token to look at, or too many for the model's context.
        """
        from mastlens.explorer.token_view import token_view

        return token_view(self, said, text, gradient=gradient)

    @property
    def table(self) -> pd.DataFrame:
        """One row an exchange: ``said``, ``source``, ``edited``."""
        return pd.DataFrame([vars(one) for one in self.exchanges], columns=["said", *SIDES])

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of both."""
        return self._tokenizer

    def encoded(self, said: str) -> tuple[int, ...]:
        """Return a prompt's token ids.

        Raises:
            MastlensError: If it says nothing.
        """
        if not said.strip():
            raise BadSetting("There is nothing to answer: say something.")
        return encode_prompt(said, self._tokenizer, chat_template=self._chat_template)

    @property
    def changed(self) -> list[str]:
        """The tensors that an edit changes; of another checkpoint all weight matrices."""
        return list(self._edited.after) if isinstance(self._edited, Edit) else weight_matrices(self._checkpoint)

    @contextmanager
    def speaking(self, side: str) -> "Iterator[PreTrainedModel]":
        """Give the model of a side: of an edit the source's, with the edited tensors in it for so long."""
        edit = self._edited if isinstance(self._edited, Edit) else None
        own = side == "source" or edit is not None
        model = self._model("source", self._checkpoint) if own else self._model("edited", self._edited)
        with swapped(model, edit.after if edit is not None and side == "edited" else {}):
            yield model

    def respond(self, side: str, ids: tuple[int, ...], heard: Heard | None = None) -> Response:
        """Return a side's response to a prompt's token ids.

        Args:
            side: ``source`` or ``edited``.
            ids: The prompt.
            heard: Told the response so far, after each token.
        """
        with self.speaking(side) as model:
            engine = HuggingFaceEngine(model, self._tokenizer, watching=heard and (lambda _, text: heard(text)))
            found: list[Response] = []
            engine.respond(
                [ids], self._decoding, names=[self._name], finished=lambda _, response: found.append(response)
            )
        return found[0]

    def record(self) -> dict[str, Any]:
        """Return what was compared, and how it answers."""
        edited = self._edited.sha256 if isinstance(self._edited, Edit) else self._edited.spec
        return {"source": self._checkpoint.spec, "edited": edited, "max_new_tokens": self._decoding.max_new_tokens}

    def _model(self, side: str, checkpoint: "Checkpoint | Edit") -> "PreTrainedModel":
        assert isinstance(checkpoint, Checkpoint)
        if side not in self._models:
            self._models[side] = checkpoint.load_model(device=self._device)
        return self._models[side]

    def __repr__(self) -> str:
        return (
            f"Chat with {self._checkpoint.spec} and its edit, {len(self.exchanges)} exchanges so far. "
            "chat.ask('...') asks both; chat.table has what was said."
        )

    def widget(self) -> Any:
        """Return it as an ipywidget: a line to type in, and both responses as they are written.

        Raises:
            MastlensError: If ipywidgets is not installed.
        """
        if not importlib.util.find_spec("ipywidgets"):
            raise MissingPackage("The widget needs ipywidgets: pip install 'mastlens[notebooks]'.")
        import ipywidgets as ipw

        line = ipw.Textarea(placeholder="Say something to both", layout={"width": "auto"}, rows=3)
        send = ipw.Button(description="Ask both", button_style="primary")
        panes = {side: ipw.HTML() for side in SIDES}
        boxes = [
            ipw.VBox([ipw.HTML(f"<b>{side}</b>"), panes[side]], layout={"flex": "1 1 260px", "padding": "0 12px 0 0"})
            for side in SIDES
        ]
        status = ipw.HTML()

        def show(side: str, text: str) -> None:
            panes[side].value = f'<div style="white-space: pre-wrap; overflow-wrap: anywhere">{html.escape(text)}</div>'

        def pressed(_: Any) -> None:
            send.disabled, status.value = True, ""
            for side in SIDES:
                show(side, "")
            try:
                self.ask(line.value, show)
            except Exception as error:  # in a widget's callback nobody would see it
                status.value = html.escape(str(error))
            finally:
                send.disabled = False

        send.on_click(pressed)
        return ipw.VBox([line, send, status, ipw.HBox(boxes, layout={"flex_flow": "row wrap"})])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from mastlens.explorer.explorer import widget_front_end

        if not widget_front_end():
            return {"text/plain": repr(self)}
        self._shown = self.widget()  # kept, or nobody would hear the clicks
        return {**self._shown._repr_mimebundle_(), "text/plain": repr(self)}


def chat(
    source: "str | os.PathLike[str] | Checkpoint",
    edited: "str | os.PathLike[str] | Checkpoint | Edit",
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    chat_template: bool = True,
    device: str = "auto",
) -> Chat:
    """Talk to a source and an edited model side by side, in a notebook as a widget. For looking, not for measuring.

    Of an edit there is one model in memory, into which the edited tensors are put for its turn. Responses are those
    that ``evaluate`` would get.

    Args:
        source: The checkpoint before the edit.
        edited: The edit, its file, or another checkpoint of the same tokenizer.
        max_new_tokens: Where a response is cut off.
        temperature: 0 for greedy.
        seed: Decides the draws.
        chat_template: Whether to use the tokenizer's chat template, where it has one.
        device: Where to compute.

    Raises:
        MastlensError: If the edit does not belong to the source, or a checkpoint is not there.
    """
    checkpoint = Checkpoint(source)
    other: Edit | Checkpoint
    if isinstance(edited, Edit) or (not isinstance(edited, Checkpoint) and os.fspath(edited).endswith(".safetensors")):
        other = opened(edited)  # pyright: ignore[reportArgumentType] - no checkpoint
        other.check_source(checkpoint)
    else:
        other = Checkpoint(edited)
        if other.load_tokenizer().get_vocab() != checkpoint.load_tokenizer().get_vocab():
            raise NotTogether(
                f"{other.spec} has another tokenizer than {checkpoint.spec}: asked in tokens that are not its own it "
                "would answer nonsense. Give a checkpoint of the same lineage, or an edit."
            )
    sampling = sampling_of(1, temperature, 1.0, seed)
    return Chat(
        checkpoint,
        other,
        decoding=Decoding(max_new_tokens, batch_size=1, sampling=sampling),
        seed_name="chat",
        chat_template=chat_template,
        device=device,
    )
