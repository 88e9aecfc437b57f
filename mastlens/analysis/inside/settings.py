"""Settings of the commands that look at the activations of a pair of models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.decoding.settings import grading
from mastlens.errors import BadSetting
from mastlens.problems.settings import Reading
from mastlens.runs.settings import LOOK, CheckpointPath, FilePath, path_to, setting

if TYPE_CHECKING:
    from mastlens.analysis.inside.labels import LabelledTexts
    from mastlens.analysis.inside.pair import Pair
    from mastlens.problems.encoding import EncodedProblem

_PAIR = "--sft organism:qwen2/sft --rlvr organism:qwen2/rlvr"
LEAST_DRAWS = 2
"""Random changes without which a null has no spread."""


@dataclass(frozen=True, kw_only=True)
class PairSettings(Reading):
    """What all of them have."""

    sft: CheckpointPath = setting(path_to("what RLVR started from"), metavar="PATH")
    rlvr: CheckpointPath = setting(path_to("after RLVR"), metavar="PATH")
    draws: int = setting(
        "random changes of the size of RLVR's, the null; 0 for none, which leaves every row without a verdict", 8
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws and self.draws < LEAST_DRAWS:
            raise BadSetting(f"{self.draws} random changes (--draws) have no spread: take {LEAST_DRAWS} or more, or 0.")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Role to file of the texts."""
        raise NotImplementedError

    def texts_for(self, pair: "Pair") -> Any:
        """Return the texts as both models read them."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SplitSettings(PairSettings):
    """What those have that look at the solutions of problems."""

    splits: Mapping[str, FilePath] = setting("problems, JSON lines, whose solutions are the texts", flag="--split")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splits:
            raise BadSetting("There are no texts to look at. Give at least one split, e.g. forget=forget-train.jsonl.")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Split to file."""
        return self.splits

    def texts_for(self, pair: "Pair") -> "Mapping[str, list[EncodedProblem]]":
        """Return split to its texts."""
        return pair.texts(self.splits, limit=self.limit, asking=self.asking)


@dataclass(frozen=True, kw_only=True)
class InsideDepartSettings(SplitSettings):
    """Settings of ``inside depart``."""

    command, group = "inside depart", LOOK
    summary = "where in the residual stream, and at which token, SFT and RLVR part"
    example = f"inside depart {_PAIR} --split forget=forget.jsonl --limit 24 --out run"
    function = "mastlens.analysis.inside.departing:inside_depart"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    lens: bool = setting("also read every layer through final norm and output embedding (logit lens; slow)", False)
    tuned_lens: Sequence[FilePath] | None = setting(
        "as --lens, and also through a tuned lens, an affine map a layer: SFT's folder in the format of the package "
        "tuned-lens, which reads both models, or SFT's and RLVR's; with nothing behind it, lenses are trained on part "
        "of the texts, and all numbers are of the others (slow)",
        None,
        metavar="DIR",
        may_be_empty=True,
        shown_default="none",
    )
    lens_tokens: int = setting(
        "tokens of the solutions that a lens is trained on at most, which are held in memory layer by layer",
        2**14,
        metavar="N",
    )
    positions: int = setting("also the first N tokens of the solutions one by one", 0, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions < 0:
            raise BadSetting(f"{self.positions} positions (--positions) make no sense; 0 is none.")
        if self.tuned_lens is not None and len(self.tuned_lens) > len(("SFT", "RLVR")):
            raise BadSetting(
                f"{len(self.tuned_lens)} tuned lenses (--tuned-lens) for two models: give SFT's, or SFT's and RLVR's."
            )
        if self.lens_tokens < 1:
            raise BadSetting(f"A lens is trained on at least one token (--lens-tokens), not on {self.lens_tokens}.")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Split to file, and the files of tuned lenses that were given."""
        from mastlens.analysis.inside.lenses import lens_files  # declarations are read without torch

        models = zip(("SFT's", "RLVR's"), self.tuned_lens or (), strict=False)
        lenses = {f"{model} {role}": file for model, at in models for role, file in lens_files(at).items()}
        return {**self.splits, **lenses}


@dataclass(frozen=True, kw_only=True)
class InsideWriteSettings(SplitSettings):
    """Settings of ``inside write``."""

    command, group = "inside write", LOOK
    summary = "which heads and MLPs write the logits, and what of that RLVR changed"
    example = f"inside write {_PAIR} --split forget=forget.jsonl --limit 24 --first 1 --out run"
    function = "mastlens.analysis.inside.writing:inside_write"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    against: str | None = setting(
        "the token that the solution's own stands against (default: what SFT finds most probable beside it)",
        None,
        metavar="TOKEN",
    )
    first: int = setting("only the first N tokens of each solution; 0 for all", 0, metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0:
            raise BadSetting(f"The first {self.first} tokens (--first) make no sense; 0 is all of them.")


@dataclass(frozen=True, kw_only=True)
class InsidePatchSettings(SplitSettings):
    """Settings of ``inside patch``."""

    command, group = "inside patch", LOOK
    summary = "exchange activations between SFT and RLVR, and see what changes"
    example = f"inside patch {_PAIR} --split forget=forget.jsonl --limit 8 --sites z mlp_out --out run"
    function = "mastlens.analysis.inside.patching:inside_patch"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    sites: Sequence[str] = setting(
        "activations by their names in HookedModel; those that lie by heads are exchanged head by head",
        ("resid_post", "z", "mlp_out"),
        metavar="NAME",
        shown_default="resid_post z mlp_out",
    )
    layers: Sequence[int] | None = setting(
        "only in these layers; -1 is outside of them", None, metavar="N,N,...", separator=","
    )
    exact: bool = setting(
        "only what gradients say of all activations at once (attribution patching), no exact patching",
        True,
        flag="--first-order",
    )
    integrate: int = setting(
        "also integrated gradients, at N points between each activation and the other model's; 0 for not",
        0,
        metavar="N",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sites:
            raise BadSetting("There is nothing to exchange: name at least one activation (--sites), e.g. z.")
        if self.integrate < 0:
            raise BadSetting(f"{self.integrate} points (--integrate) make no sense; 0 is for none.")


@dataclass(frozen=True, kw_only=True)
class InsidePathSettings(SplitSettings):
    """Settings of ``inside path``."""

    command, group = "inside path", LOOK
    summary = "exchange what one component hands to another, directly, between SFT and RLVR (path patching)"
    example = (
        f"inside path {_PAIR} --senders z.2.0 mlp_out.3 --receivers q.5.1 mlp_in.6 logits --split forget=forget.jsonl "
        "--limit 8 --out run"
    )
    function = "mastlens.analysis.inside.pathing:inside_path"
    then = "causal-map --sft {sft} --rlvr {rlvr} --forget forget.jsonl --out {out}"

    senders: Sequence[str] = setting(
        "what hands something on: heads z.LAYER.HEAD, out.LAYER (a whole attention), mlp_out.LAYER", metavar="COMPONENT"
    )
    receivers: Sequence[str] = setting(
        "what is handed something: q, k or v.LAYER.HEAD (without a head: all), x.LAYER (a whole attention), "
        "mlp_in.LAYER; logits for the output itself",
        ("logits",),
        metavar="COMPONENT",
        shown_default="logits",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.senders or not self.receivers:
            raise BadSetting("There is no path: name at least one of --senders and of --receivers.")


PROBES = ("mean", "logistic")
"""Ways to a direction: the difference of the classes' means, and a logistic regression's coefficients."""


@dataclass(frozen=True, kw_only=True)
class InsideDirectSettings(PairSettings):
    """Settings of ``inside direct``."""

    command, group = "inside direct", LOOK
    summary = "directions that tell two kinds of texts apart, and what RLVR writes to and reads from them"
    example = f"inside direct {_PAIR} --texts texts.jsonl --label worked --out run"
    function = "mastlens.analysis.inside.directing:inside_direct"
    then = "inside patch --sft {sft} --rlvr {rlvr} --split forget=forget.jsonl --out {out}"

    texts: FilePath = setting(
        "texts with labels, JSON lines or parquet: responses.parquet of evaluate, problems with a column more, or your "
        "own prompt and response",
        metavar="FILE",
    )
    label: str = setting(
        "the column that says which texts are alike: of truth values, or COLUMN=VALUE for those that have the value; "
        "worked, where there is no such column: a step of arithmetic in the response, against a bare box",
        "worked",
        metavar="COLUMN[=VALUE]",
    )
    sites: Sequence[str] = setting(
        "activations by their names in HookedModel; those that lie by heads are read head by head",
        ("embed", "resid_post"),
        metavar="NAME",
        shown_default="embed resid_post",
    )
    layers: Sequence[int] | None = setting(
        "only in these layers; -1 is outside of them", None, metavar="N,N,...", separator=","
    )
    positions: Sequence[int] = setting(
        "states that these tokens of the response are predicted from: 0 is the end of the prompt; -1 the mean over all",
        (0,),
        metavar="N,N,...",
        separator=",",
        shown_default="0",
    )
    probes: Sequence[str] = setting(
        "how a direction is found",
        PROBES,
        metavar="mean|logistic",
        shown_default="mean logistic",
    )
    penalty: float = setting("of the logistic probe: L2, on states in units of their spread; 1 / C", 1.0)
    shuffles: int = setting("shufflings of the labels, the null of what a probe tells", 20)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sites or not self.positions or not self.probes:
            raise BadSetting("There is nothing to probe: name at least one of --sites, --positions and --probes.")
        if min(self.positions) < -1:
            raise BadSetting(f"There is no position {min(self.positions)} (--positions): 0 is the first token, -1 all.")
        if not self.penalty > 0:
            raise BadSetting(f"A penalty (--penalty) is above 0, it is {self.penalty:g}.")
        if self.shuffles < LEAST_DRAWS:
            raise BadSetting(f"{self.shuffles} shufflings (--shuffles) have no spread: take {LEAST_DRAWS} or more.")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """The file of texts."""
        return {"texts": self.texts}

    def texts_for(self, pair: "Pair") -> "LabelledTexts":
        """Return the texts that have a label."""
        from mastlens.analysis.inside.labels import read_labelled  # declarations are read without pandas

        return read_labelled(pair, self.texts, self.label, limit=self.limit, asking=self.asking)


@dataclass(frozen=True, kw_only=True)
class InsideSteerSettings(SplitSettings):
    """Settings of ``inside steer``."""

    command, group = "inside steer", LOOK
    summary = "what RLVR says where a direction is added to its states, or taken out: a rival to unlearning"
    example = (
        f"inside steer {_PAIR} --directions run/inside_directions.safetensors --direction sft/mean/resid_post/5/-1/0 "
        "--split forget=forget.jsonl retain=retain.jsonl --limit 24 --out run"
    )
    function = "mastlens.analysis.inside.steering:inside_steer"
    then = "edit steer --to {rlvr} --directions {directions} --direction {direction} --dose=-1 --out NEW"

    draws: int = setting(
        "random directions of the same length, the null; 0 for none, which leaves every row without a verdict", 8
    )
    directions: FilePath = setting("inside_directions.safetensors, as inside direct writes it", metavar="FILE")
    direction: str = setting("which of them", metavar="MODEL/PROBE/SITE/LAYER/HEAD/POSITION")
    doses: Sequence[float] = setting(
        "how far, one after another: in lengths of the direction, 1 is as far as its two kinds of texts are apart; "
        "negative is away from the label, typed with an equals sign (--doses=-1,1); with --project the share of the "
        "direction that is taken out",
        (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
        metavar="X,X,...",
        separator=",",
        shown_default="-2,-1,-0.5,0.5,1,2",
    )
    project: bool = setting("take the direction out of the states, and add nothing", False)
    max_new_tokens: int = setting(
        "also generate under every dose and grade, up to so many tokens; 0 for not (slow)", 0, unit="tokens"
    )
    grader: str | Any = grading("with --max-new-tokens, what is right")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.doses or 0 in self.doses:
            raise BadSetting("Doses (--doses) are numbers other than 0, at least one: what 0 does is in every row.")
        if self.max_new_tokens < 0:
            raise BadSetting(f"{self.max_new_tokens} new tokens (--max-new-tokens) make no sense; 0 is for none.")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Split to file, and the directions."""
        return {**self.splits, "directions": self.directions}


@dataclass(frozen=True, kw_only=True)
class InsideUndoSettings(SplitSettings):
    """Settings of ``inside undo``."""

    command, group = "inside undo", LOOK
    summary = "whether an edit takes back what RLVR did to the states, or only what it did to the answer"
    example = f"inside undo {_PAIR} --edited edited-model --split forget=forget.jsonl --limit 24 --out run"
    function = "mastlens.analysis.inside.undoing:inside_undo"
    then = "depth-score --model {rlvr} --edit EDIT --reference {sft} --split forget=forget.jsonl --out {out}"

    sft: CheckpointPath = setting(
        path_to("the reference, which has not learnt it: what RLVR started from"), metavar="PATH"
    )
    rlvr: CheckpointPath = setting(path_to("the source of the edit, after RLVR"), metavar="PATH")
    edited: CheckpointPath = setting(path_to("the edited model, as edit apply writes it"), metavar="PATH")
    draws: int = setting(
        "random changes of the size of the edit's, the null; 0 for none, which leaves every row without a verdict", 8
    )
    sites: Sequence[str] = setting(
        "activations by their names in HookedModel; those that lie by heads are read head by head",
        ("embed", "resid_post", "z", "mlp_out"),
        metavar="NAME",
        shown_default="embed resid_post z mlp_out",
    )
    layers: Sequence[int] | None = setting(
        "only in these layers; -1 is outside of them", None, metavar="N,N,...", separator=","
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sites:
            raise BadSetting("There is nothing to look at: name at least one activation (--sites), e.g. resid_post.")


@dataclass(frozen=True, kw_only=True)
class InsideCrosscoderSettings(SplitSettings):
    """Settings of ``inside crosscoder``."""

    command, group = "inside crosscoder", LOOK
    summary = "which features of a crosscoder SFT or RLVR has alone, and which RLVR's change makes active"
    example = f"inside crosscoder {_PAIR} --crosscoder DIR --layer 12 --split forget=forget.jsonl --limit 24 --out run"
    function = "mastlens.analysis.inside.crosscoding:inside_crosscoder"
    then = "inside patch --sft {sft} --rlvr {rlvr} --split forget=forget.jsonl --out {out}"

    crosscoder: FilePath = setting(
        "a crosscoder of both models, SFT first, in dictionary_learning's format: a folder with config.json and "
        "model.safetensors",
        metavar="DIR",
    )
    layer: int = setting("the layer that it reads, which its folder does not say")
    site: str = setting("the activation that it reads, likewise", "resid_post", metavar="NAME")

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Split to file, and the crosscoder's files."""
        folder = Path(self.crosscoder)
        return {**self.splits, "crosscoder": folder / "model.safetensors", "its configuration": folder / "config.json"}


@dataclass(frozen=True, kw_only=True)
class InsideDictionarySettings(SplitSettings):
    """Settings of ``inside dictionary``."""

    command, group = "inside dictionary", LOOK
    summary = "which features of a sparse autoencoder RLVR raised or lowered"
    example = f"inside dictionary {_PAIR} --dictionary sae --split forget=forget.jsonl --limit 24 --out run"
    function = "mastlens.analysis.inside.featuring:inside_dictionary"
    then = "inside patch --sft {sft} --rlvr {rlvr} --split forget=forget.jsonl --out {out}"

    dictionary: FilePath = setting(
        "a sparse autoencoder in SAELens' format: a folder with cfg.json and sae_weights.safetensors", metavar="DIR"
    )
    site: str | None = setting("the activation that it reads, where its configuration does not say", None)
    layer: int | None = setting("the layer of that, likewise", None)

    @property
    def inputs(self) -> Mapping[str, FilePath]:
        """Split to file, and the dictionary's files."""
        folder = Path(self.dictionary)
        return {
            **self.splits,
            "dictionary": folder / "sae_weights.safetensors",
            "its configuration": folder / "cfg.json",
        }
