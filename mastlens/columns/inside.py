"""Columns of what changed in the computation between a pair of models."""

from mastlens.columns.column import ITEM, LAYER, SPLIT_NAME, Column, Table, measured

_DRAWS = "random changes of the size of RLVR's (its increments with their signs redrawn), put into the SFT model"
_NEXT = "next-token distributions over the whole vocabulary"
_PLACE = (
    SPLIT_NAME,
    LAYER,
    Column("site", "`embed`, `resid_post`, `logits`: the name in `HookedModel`", kind="text"),
    Column("head", "from 0; -1 for all heads", kind="whole"),
    Column("position", "of the token in its solution, from 0; -1 for all tokens", kind="whole"),
    Column("tokens", "tokens behind the row", kind="whole"),
)


def _beside(name: str, meaning: str, unit: str = "", source: str = "", when: str = "") -> tuple[Column, ...]:
    return measured(Column(name, meaning, unit, source=source, when=when, kind="number"), _DRAWS)


DEPART = Table(
    "inside_depart.parquet",
    "mastlens inside depart",
    "a split, a point of the model and a position",
    (
        *_PLACE,
        *_beside("difference", "‖after − before‖ / ‖before‖ of the stream, mean over tokens"),
        *_beside("angle_deg", "angle between the stream before and after, mean over tokens", "degree"),
        *_beside("cka_distance", "1 − linear CKA over 256 tokens of the split; NaN by position",
                 source="Kornblith et al., arXiv:1905.00414"),
        *_beside("procrustes", "1 − (sum of the singular values of X'Y)², X and Y the states of the same 256 tokens, "
                 "centred, at unit norm; NaN by position", source="Procrustes disparity"),
        *_beside("lens_kl", f"KL(SFT ‖ RLVR) of {_NEXT}, read off the layer by each model's final norm and output "
                 "embedding", "nat", source="logit lens", when="--lens"),
        *_beside("tuned_kl", "the same behind an affine map of the layer, each model's own or one for all; no null "
                 "where two lenses are given", "nat", source="tuned lens: Belrose et al., arXiv:2303.08112",
                 when="--tuned-lens"),
        *(
            Column(f"{lens}_error_{when}", f"KL(what {model} says ‖ what the {named} lens reads off its layer), of "
                   f"{_NEXT}; not of texts that lenses were trained on", "nat", when="--tuned-lens", kind="number")
            for lens, named in (("lens", "logit"), ("tuned", "tuned"))
            for when, model in (("before", "SFT"), ("after", "RLVR"))
        ),
        *_beside("kl", f"KL(SFT ‖ RLVR) of {_NEXT}", "nat"),
        *_beside("js", f"Jensen-Shannon divergence of {_NEXT}, at most log 2", "nat", source="Lin 1991"),
        *_beside("entropy_change", f"entropy of {_NEXT}, RLVR minus SFT", "nat"),
        *_beside("top_differs", "share of tokens at which another one is the most probable"),
    ),
)  # fmt: skip

FORKS = Table(
    "inside_forks.parquet",
    "mastlens inside depart",
    "the first token of a text at which SFT and RLVR would have gone on with another one",
    (
        SPLIT_NAME,
        ITEM,
        Column("position", "of the token in its solution, from 0", kind="whole"),
        Column("token", "what the text has there", kind="text"),
        Column("sft_token", "what SFT finds most probable", kind="text"),
        Column("rlvr_token", "what RLVR finds most probable", kind="text"),
        *(
            Column(f"{token}_{when}", f"its probability under {model}", null="", kind="number")
            for token in ("token", "sft_token", "rlvr_token")
            for when, model in (("before", "SFT"), ("after", "RLVR"))
        ),
        Column("entropy_before", "entropy of what SFT says there", "nat", kind="number"),
        *_beside("kl", f"KL(SFT ‖ RLVR) of {_NEXT}", "nat"),
    ),
)

_LOGIT = "logit(token of the text) − logit(another token)"
WRITE = Table(
    "inside_write.parquet",
    "mastlens inside write",
    "a split and a part of the model",
    (
        *(Column("site", "`embed`; `z` of a head; `out`: the rest of the attention; `mlp_out`; `ln_final`: biases; "
                 "`logits`: the whole difference", kind="text") if one.name == "site" else one for one in _PLACE),
        Column("before", f"what the part writes to {_LOGIT} in SFT, mean over tokens", "logit", kind="number",
               source="Elhage et al. 2021"),
        Column("after", "the same in RLVR", "logit", kind="number"),
        *_beside("change", "after − before", "logit"),
        Column("by_weights", "of the change: the part's own weights, on equal inputs", "logit", kind="number"),
        Column("by_input", "of the change: what the part reads", "logit", kind="number"),
        Column("by_readout", "of the change: final norm and output embedding", "logit", kind="number"),
        Column("completeness_error", "of `logits`: ‖sum of parts − difference‖ / ‖difference‖ over tokens",
               kind="number"),
    ),
)  # fmt: skip

_NATS = "nat per token"
_FIRST = "what gradients say where RLVR is a random change of its size: its increments with their signs redrawn"
PATCH = Table(
    "inside_patch.parquet",
    "mastlens inside patch",
    "a split, a direction and an activation",
    (
        Column("direction", "`restore`: SFT's activation put into RLVR; `insert`: RLVR's into SFT", kind="text"),
        *(Column("site", "the activation's name in `HookedModel`", kind="text") if one.name == "site" else one
          for one in _PLACE),
        *measured(
            Column("effect", "log-probability of the solutions with the exchange minus without, exactly;"
                   " distinguishable only where `first_order` is, too", _NATS,
                   when="without --first-order", kind="number"),
            _FIRST,
        ),
        Column("effect_low", "lower end of the 95 % interval of `effect`, paired, over problems", _NATS,
               when="without --first-order"),
        Column("effect_high", "upper end of the 95 % interval of `effect`, paired, over problems", _NATS,
               when="without --first-order"),
        *measured(
            Column("first_order", "the same as gradients say of all activations at once (attribution patching)", _NATS,
                   source="Syed et al., arXiv:2310.10348", kind="number"),
            _FIRST,
        ),
        *measured(
            Column("integrated", "the same as the mean gradient between own and other activation says, heads of a layer"
                   " together; distinguishable only where `first_order` is, too", _NATS,
                   source="Hanna et al., arXiv:2403.17806", when="--integrate", kind="number"),
            _FIRST,
        ),
        Column("unpatched", "log-probability of the solutions without an exchange", _NATS, kind="number"),
        Column("total", "effect of the whole other model", _NATS, kind="number"),
    ),
)  # fmt: skip

PATH = Table(
    "inside_path.parquet",
    "mastlens inside path",
    "a split, a direction, a sender and a receiver",
    (
        Column("direction", "`restore`: what SFT's sender gives put into RLVR; `insert`: RLVR's into SFT", kind="text"),
        *(Column("site", "the sender's name in `HookedModel`", kind="text") if one.name == "site" else one
          for one in _PLACE),
        Column("sender", "as it is typed: site, layer, head", kind="text"),
        Column("receiver", "as it is typed; `logits`: the output itself", kind="text",
               source="Goldowsky-Dill et al., arXiv:2304.05969"),
        *_beside("effect", "log-probability of the solutions with the exchange along this path alone minus without",
                 _NATS),
        Column("effect_low", "lower end of its 95 % interval, paired, over problems", _NATS),
        Column("effect_high", "upper end of its 95 % interval, paired, over problems", _NATS),
        Column("resampled", "the same where the sender gives what it gives in the same model on the next text", _NATS,
               kind="number"),
        Column("resampled_low", "lower end of its 95 % interval, paired, over problems", _NATS),
        Column("resampled_high", "upper end of its 95 % interval, paired, over problems", _NATS),
        Column("unpatched", "log-probability of the solutions without an exchange", _NATS, kind="number"),
        Column("total", "effect of the whole other model", _NATS, kind="number"),
    ),
)  # fmt: skip

_SHUFFLED = "the same with shuffled labels"
_GAPS = "distance of the classes' means along the direction in SFT"


def _along(name: str, meaning: str, unit: str) -> tuple[Column, ...]:
    shuffled = f"what chance gives: RLVR, along directions from shuffled labels; `{name}_p` is beyond both"
    ends = (
        Column(f"{name}_chance_{end}", f"{end} end of the 95 % that the null gives which explains it best", unit)
        for end in ("low", "high")
    )
    return (*_beside(name, meaning, unit), Column(f"{name}_null_shuffled", shuffled, unit), *ends)


DIRECT = Table(
    "inside_direct.parquet",
    "mastlens inside direct",
    "a probe and a place",
    (
        LAYER,
        Column("site", "the activation's name in `HookedModel`", kind="text"),
        Column("head", "from 0; -1 for the whole activation", kind="whole"),
        Column("position", "of the token in the response that the state is read for, from 0; -1: mean over all",
               kind="whole"),
        Column("probe", "`mean`: difference of the classes' means; `logistic`", kind="text"),
        Column("trained", "texts that directions were found on", kind="whole"),
        Column("texts", "texts held out", kind="whole"),
        Column("positives", "of these, with the label", kind="whole"),
        *(
            column
            for when, model in (("before", "SFT"), ("after", "RLVR"))
            for column in (
                *measured(Column(f"auc_{when}", f"area under the curve of held-out texts in {model}", kind="number"),
                          _SHUFFLED),
                Column(f"auc_{when}_low", f"lower end of the 95 % interval of `auc_{when}`, over prompts",
                       source="DeLong et al. 1988, Obuchowski 1997"),
                Column(f"auc_{when}_high", f"upper end of the 95 % interval of `auc_{when}`, over prompts"),
            )
        ),
        Column("auc_change", "`auc_after` - `auc_before`", kind="number"),
        Column("auc_change_low", "lower end of its 95 % interval, paired; NaN where no text tells both apart"),
        Column("auc_change_high", "upper end of its 95 % interval, paired; NaN where no text tells both apart"),
        *measured(Column("cosine", "of SFT's direction and RLVR's", kind="number"), _SHUFFLED),
        Column("gap", _GAPS, "in units of the activation", kind="number"),
        *_along("writes", "how far RLVR moves held-out texts along SFT's direction", "gap"),
        Column("reads_before", "what a step of a gap along SFT's direction, towards a text's own class, adds to its "
               "log-probability in SFT, to first order", "nat a text", kind="number"),
        Column("reads_after", "the same in RLVR", "nat a text", kind="number"),
        *_along("reads", "after - before", "nat a text"),
    ),
)  # fmt: skip

_RANDOM = "random directions of the same length that lie as the states do"


def _steered(name: str, meaning: str, unit: str, when: str = "") -> tuple[Column, ...]:
    ends = {"low": "lower end of its 95 % interval, paired, over problems",
            "high": "upper end of its 95 % interval, paired, over problems",
            "chance_low": "lower end of the 95 % that random directions give",
            "chance_high": "upper end of the 95 % that random directions give"}  # fmt: skip
    return (
        *measured(Column(name, meaning, unit, when=when, kind="number"), _RANDOM),
        *(Column(f"{name}_{end}", said, unit, when=when) for end, said in ends.items()),
    )


STEER = Table(
    "inside_steer.parquet",
    "mastlens inside steer",
    "a split and a dose",
    (
        *(Column("site", "the activation that is steered, by its name in `HookedModel`", kind="text")
          if one.name == "site" else one for one in _PLACE),
        Column("items", "problems behind the row", kind="whole"),
        Column("direction", "of `inside direct`: model, probe, site, layer, head, position", kind="text"),
        Column("how", "`add`: states + dose × direction; `project`: that share of the direction taken out of them",
               kind="text", source="Turner et al., arXiv:2308.10248; Arditi et al., arXiv:2406.11717"),
        Column("dose", "how far", "lengths of the direction, or its share", kind="number"),
        *_steered("effect", "log-probability of the solutions, steered minus as it is", _NATS),
        Column("unsteered", "log-probability of the solutions as it is", _NATS, kind="number"),
        Column("total", "that of the SFT model minus it", _NATS, kind="number"),
        *_steered("accuracy_change", "`accuracy` - `accuracy_before`", "", "--max-new-tokens"),
        Column("accuracy_before", "share of greedy responses that are right, not steered", when="--max-new-tokens",
               kind="number"),
        Column("accuracy", "the same under the dose", when="--max-new-tokens", kind="number"),
    ),
)  # fmt: skip

_OF_EDIT = "random changes of the size of the edit's (its increments with their signs redrawn), put into the RLVR model"


def _undone(name: str, meaning: str, unit: str = "") -> tuple[Column, ...]:
    return measured(Column(name, meaning, unit, kind="number"), _OF_EDIT)


UNDO = Table(
    "inside_undo.parquet",
    "mastlens inside undo",
    "a split and an activation, or the answer",
    (
        *(Column("site", "the activation's name in `HookedModel`; `logits`: the answer", kind="text")
          if one.name == "site" else one for one in _PLACE),
        *_undone("back", "share of RLVR's change of the states that the edit takes back: Σ (edited − RLVR)·(SFT − RLVR)"
                 " / Σ ‖SFT − RLVR‖², over tokens; NaN for `logits`"),
        Column("back_low", "lower end of its 95 % interval, over problems"),
        Column("back_high", "upper end of its 95 % interval, over problems"),
        *_undone("left", "distance to SFT that is left: √(Σ ‖edited − SFT‖² / Σ ‖RLVR − SFT‖²); NaN for `logits`"),
        *_undone("said_back", "of `logits`: share of RLVR's change of the solutions' log-probability that the edit "
                 "takes back"),
        *_undone("kl_left", "of `logits`: KL(SFT ‖ edited) / KL(SFT ‖ RLVR) of the next token, sums over tokens"),
    ),
)  # fmt: skip

_EXCHANGED = f"{_DRAWS}; `_p` is beyond these and beyond SFT and RLVR exchanged text by text"


def _changed(name: str, meaning: str, unit: str = "") -> tuple[Column, ...]:
    return (
        *measured(Column(name, meaning, unit, kind="number"), _EXCHANGED),
        Column(f"{name}_q", f"`{name}_p` over all features of the split; distinguishable up to 0.05",
               source="Benjamini and Hochberg 1995"),
        Column(f"{name}_low", "lower end of its 95 % interval, paired, over texts", unit),
        Column(f"{name}_high", "upper end of its 95 % interval, paired, over texts", unit),
    )  # fmt: skip


DICTIONARY = Table(
    "inside_dictionary.parquet",
    "mastlens inside dictionary",
    "a split and a feature that is on at some token in SFT or RLVR",
    (
        *(Column("site", "the activation that the dictionary reads", kind="text") if one.name == "site" else one
          for one in _PLACE),
        Column("feature", "from 0", kind="whole"),
        Column("before", "mean activation in SFT", "of the dictionary", kind="number"),
        Column("after", "mean activation in RLVR", "of the dictionary", kind="number"),
        *_changed("change", "after - before", "of the dictionary"),
        Column("firing_before", "share of tokens at which it is above 0 in SFT", kind="number"),
        Column("firing_after", "the same in RLVR", kind="number"),
        *_changed("firing_change", "after - before of that"),
    ),
)  # fmt: skip

FIT = Table(
    "inside_dictionary_fit.parquet",
    "mastlens inside dictionary",
    "a split",
    (
        SPLIT_NAME,
        LAYER,
        Column("site", "the activation that the dictionary reads", kind="text"),
        Column("tokens", "tokens behind the row", kind="whole"),
        Column("features", "of the dictionary", kind="whole"),
        Column("alive", "features that are on at some token in SFT or RLVR", kind="whole"),
        Column("fvu_before", "share of the variance of SFT's states that the dictionary does not give back",
               kind="number"),
        Column("fvu_after", "the same of RLVR's", kind="number"),
        *_beside("fvu", "after - before"),
        Column("l0_before", "features on in SFT, mean over tokens", kind="number"),
        Column("l0_after", "the same in RLVR", kind="number"),
    ),
)  # fmt: skip

_UNITS = "of the states"


def _active(name: str, meaning: str, unit: str = "") -> tuple[Column, ...]:
    return (
        *measured(Column(name, meaning, unit, kind="number"), f"where RLVR is one of {_DRAWS}"),
        Column(f"{name}_q", f"`{name}_p` over all features of the split; distinguishable up to 0.05",
               source="Benjamini and Hochberg 1995"),
    )  # fmt: skip


CROSSCODER = Table(
    "inside_crosscoder.parquet",
    "mastlens inside crosscoder",
    "a split and a feature that is on at some token",
    (
        *(Column("site", "the activation that the crosscoder reads", kind="text") if one.name == "site" else one
          for one in _PLACE),
        Column("feature", "from 0", kind="whole"),
        Column("share", "length of its decoder in RLVR over that in both models: 0 SFT's alone, 1 RLVR's alone",
               source="Lindsey et al. 2024"),
        Column("cosine", "of its decoders in SFT and RLVR; NaN where one is zero"),
        *_active("active", "mean activation times the lengths of both decoders", _UNITS),
        Column("active_low", "lower end of its 95 % interval, over texts", _UNITS),
        Column("active_high", "upper end of its 95 % interval, over texts", _UNITS),
        *_active("firing", "share of tokens at which it is above 0"),
    ),
)  # fmt: skip

CROSSCODER_FIT = Table(
    "inside_crosscoder_fit.parquet",
    "mastlens inside crosscoder",
    "a split",
    (
        SPLIT_NAME,
        LAYER,
        Column("site", "the activation that the crosscoder reads", kind="text"),
        Column("tokens", "tokens behind the row", kind="whole"),
        Column("features", "of the crosscoder", kind="whole"),
        Column("alive", "features that are on at some token", kind="whole"),
        Column("fvu_before", "share of the variance of SFT's states that is not given back", kind="number"),
        *_beside("fvu_after", "the same of RLVR's"),
        Column("l0", "features on, mean over tokens", kind="number"),
    ),
)  # fmt: skip

TABLES = (DEPART, FORKS, WRITE, PATCH, PATH, DIRECT, STEER, UNDO, DICTIONARY, FIT, CROSSCODER, CROSSCODER_FIT)
