"""Columns of what weights do: coupling of gradients, causal maps, cumulative curves, differences by token."""

from mastlens.columns.column import (
    HEAD,
    ITEM,
    PLACE,
    SHAPE,
    SPLIT_NAME,
    Column,
    Table,
    both_sides,
    with_interval,
)
from mastlens.columns.increments import INCREMENT

_NATS = "nat per token"
_SDS = "standard deviations of the null"
_TURNED = "D keeps its singular values and its directions are turned at random (as wide as for any random direction)"
_SIGNS = "D keeps its entries' magnitudes and places, and the signs of its rows and columns are redrawn"

_COUPLING = (
    *SHAPE,
    Column("delta_norm", "Frobenius norm of the increment D = RLVR − SFT", "weight"),
    Column("precision_floor", "the norm that rounding to the stored dtypes alone would give D", "weight"),
    Column("note", "`zero increment`, `below the precision floor` (of both nothing is beyond chance), or empty"),
    Column("cosine_null", "mean |cosine| of random directions of that many entries"),
    *both_sides(
        (
            Column("forget_grad_norm", "Frobenius norm of the forget gradient G at the RLVR weights", "nat per weight",
                   kind="number"),
            Column(
                "forget_grad_abs_mean",
                "mean of |G| over the entries, absolute after summing over problems",
                "nat per weight",
                source="SalUn, arXiv:2310.12508; MemFlex, arXiv:2407.01920",
            ),
            Column("forget_inner", "⟨G, D⟩: first-order change of the forget loss if D is added once more", "nat",
                   kind="number"),
            Column("forget_inner_normalised", "⟨G, D⟩ / √(rows · cols): large tensors do not win by size", "nat"),
            Column("forget_cosine", "⟨G, D⟩ / (‖G‖ ‖D‖) of the forget side", null="`cosine_null`",
                   source="MAST, arXiv:2606.19222 (its absolute value)", kind="number"),
            Column("forget_cosine_z", f"forget_cosine over its spread where {_TURNED}", _SDS),
            Column("forget_cosine_z_stored", f"forget_cosine over its spread where {_SIGNS}", _SDS),
            Column("forget_cosine_p", "two-sided p of it, the larger of both nulls; NaN below the precision floor"),
            Column("forget_cosine_judged_by", "the null that this p is of: `rotated` or `signs`"),
            Column("forget_above_chance", "forget_cosine_p is at most 0.05 / rows of the table (Bonferroni)"),
            Column("forget_weight_inner", "⟨G, W⟩ of the forget gradient and the RLVR weights", "nat",
                   source="SNIP, arXiv:1810.02340"),
        )
    ),
    *(
        Column(f"{side}_fisher", "sum over entries of the mean over problems of the squared gradient of −log p",
               source="SSD, arXiv:2308.07707", when=option)
        for side, option in (("forget", "--fisher"), ("retain", "--retain --fisher"))
    ),
    Column("forget_retain_cosine", "cosine of the two gradients", when="--retain"),
    Column("inner_minus_retain", "⟨G_forget − G_retain, D⟩", "nat", when="--retain"),
    Column("cosine_minus_retain", "|forget_cosine| − |retain_cosine|: coupling to forget alone", when="--retain"),
    Column("forget_wagle", "sum over entries of |(W − G_retain / μ) G_forget|, μ = 1e-6",
           source="WAGLE, arXiv:2410.17509", when="--retain"),
)  # fmt: skip

COUPLING = Table("coupling.parquet", "mastlens couple", "a matrix", (*PLACE, *_COUPLING))
HEADS = Table("coupling_heads.parquet", "mastlens couple", "a head's block of a matrix", (*PLACE, HEAD, *_COUPLING))

SPECTRUM = Table(
    "coupling_spectrum.parquet",
    "mastlens couple",
    "a singular direction of an increment, and a side",
    (
        *PLACE,
        Column("side", "`forget` or `retain`: whose gradient G"),
        Column("index", "from 1, largest first; what lies behind `--directions` is one row"),
        Column("directions", "how many singular directions the row sums up"),
        Column("singular_value", "σ_i of D", "weight"),
        Column("coefficient", "u_iᵀ G v_i", "nat per weight", null="`coefficient_null`"),
        Column("coefficient_null", "standard deviation of it for a random direction: ‖G‖ / √(rows · cols)"),
        Column("z", "coefficient over its null", _SDS),
        Column("z_stored", "coefficient over its spread where the signs of u_i's and v_i's entries are redrawn", _SDS),
        Column("p", "two-sided, the larger of both, with G's own singular values; NaN below the precision floor"),
        Column("judged_by", "the null that this p is of: `rotated` (directions turned at random) or `signs`"),
        Column("above_chance", "p is at most 0.05 / rows of the table (Bonferroni)"),
        Column("contribution", "σ_i u_iᵀ G v_i; they add up to `forget_inner` (`retain_inner`)", "nat"),
        Column("cosine_part", "contribution / (‖G‖ ‖D‖); they add up to the cosine"),
        Column("left_energy", "share of ‖G‖² in u_i's direction", null="`left_energy_null`"),
        Column("left_energy_null", "directions / rows"),
        Column("right_energy", "share of ‖G‖² in v_i's direction", null="`right_energy_null`"),
        Column("right_energy_null", "directions / cols"),
    ),
    when="without --no-spectrum",
)

_DIRECTION = Column("direction", "`restore`: SFT weights put into the RLVR model; `insert`: the other way")
_TOTAL = (
    Column("forget_unpatched", "log-probability of the forget solutions without a patch", _NATS),
    Column("forget_total", "effect of putting in all weights of the other checkpoint, on forget", _NATS),
)
_EFFECT = (
    *with_interval(
        Column("forget_effect", "forget log-probability with the other weights minus without", _NATS, "0"),
        "paired, over problems",
    ),
)
_EXACT = Column(
    "forget_exact_change", "change of the share of forget problems that greedy decoding would write exactly"
)
_ACCURACY = with_interval(
    Column("forget_accuracy_change", "change of the share of right greedy responses on forget", null="0"),
    "paired, over problems",
)
_ACCURACY_SIDES = tuple(
    Column(one.name, one.meaning, one.unit, one.null, one.source, f"{one.when} --accuracy".strip())
    for one in both_sides(_ACCURACY)
)

CAUSAL_MAP = Table(
    "causal_map.parquet",
    "mastlens causal-map",
    "a direction, and a matrix or a head of it",
    (
        _DIRECTION,
        *PLACE,
        Column("head", "from 0; −1 is the whole matrix; of k and v a head is a key-value group"),
        Column("delta_norm", "Frobenius norm of what changed", "weight"),
        *both_sides(
            (
                *_EFFECT,
                Column("forget_first_order", "the same change as the forget gradient predicts it", _NATS,
                       "`forget_null_sd`"),
                Column("forget_null_sd", "spread of that prediction for a random change of that size", _NATS),
                _EXACT,
                *_TOTAL,
            )
        ),
        *_ACCURACY_SIDES,
    ),
)  # fmt: skip

_SCORED = (
    *PLACE,
    *SHAPE,
    Column("delta_norm", "Frobenius norm of the increment", "weight"),
)

SCORE_GATES = Table(
    "score_gates.parquet",
    "mastlens score gates",
    "a matrix",
    (
        *_SCORED,
        Column("score", "the logistic of the gate's location: the larger, the more of the increment is taken back",
               source="hard-concrete gates, arXiv:1712.01312"),
        Column("standard_error", "NaN: another `--seed` says how far it spreads"),
        Column("gate", "the part of the increment that is taken back, at the median of the gate"),
    ),
)  # fmt: skip


def _shares(name: str, unit: str, score: str, share: str, *, estimated: bool) -> Table:
    """Return the table of a scorer that gives shares of a change along SFT -> RLVR."""
    return Table(
        f"score_{name}.parquet",
        f"mastlens score {name}",
        "a matrix",
        (
            *_SCORED,
            Column("score", f"`forget_{name}` − retain weight · `retain_{name}`", unit, source=score),
            Column("standard_error", "of the score over problems, by blocks of them", unit),
            Column("score_low", "lower end of its 95 % interval (Student's t over the blocks)", unit),
            Column("score_high", "upper end of that", unit),
            *both_sides((Column(f"forget_{name}", f"the matrix's share of what SFT → RLVR did to {share}", unit),)),
            Column("change", "what SFT → RLVR did to what the score is of, all parameters together", unit),
            *((Column("change_error", "its standard error over problems and samples", unit),) if estimated else ()),
            Column("completeness_error", "what the shares of all parameters lack of `change`, over it"),
        ),
    )


SCORE_PATH = _shares(
    "path", _NATS, "integrated gradients, arXiv:1703.01365", "log p of the forget solutions", estimated=False
)

SCORE_BEHAVIOUR = _shares(
    "behaviour",
    "share of responses",
    "integrated gradients, arXiv:1703.01365, of the expected reward (score function, Williams 1992)",
    "the share of right sampled responses on forget",
    estimated=True,
)

SCORE_SEARCH = Table(
    "score_search.parquet",
    "mastlens score search",
    "a matrix",
    (
        *_SCORED,
        Column("score", "falls from 1 in equal steps in the order of the search", source="lazy greedy, Minoux 1978"),
        Column("standard_error", "NaN: the search has none"),
        Column("gain", "forget log p lost, less retain weight · retain lost, where it was put back last", _NATS),
        Column("taken", "whether it was put back by the search, and not only measured", kind="truth"),
    ),
)

SCORE_SHAPLEY = Table(
    "score_shapley.parquet",
    "mastlens score shapley",
    "a matrix",
    (
        *_SCORED,
        Column("score", "forget log p lost, less retain weight · retain lost, where it is put back, over orders",
               _NATS, source="Shapley values by sampling, Castro et al. 2009"),
        Column("standard_error", "over pairs of orders", _NATS),
        Column("score_low", "lower end of its 95 % interval (Student's t over pairs of orders)", _NATS),
        Column("score_high", "upper end of that", _NATS),
    ),
)  # fmt: skip

SCORE_SETA = Table(
    "score_seta.parquet",
    "mastlens score seta",
    "a matrix",
    (
        *_SCORED,
        Column("score", "the share of its blocks that are among the largest of the model", null="`keep`, 0.13",
               source="SETA, arXiv:2606.07500"),
        Column("standard_error", "NaN: nothing is drawn"),
        Column("blocks", "blocks of the matrix", kind="whole"),
        Column("blocks_kept", "those among the largest", kind="whole"),
    ),
)  # fmt: skip

CAUSAL_GROUPS = Table(
    "causal_groups.parquet",
    "mastlens causal-map",
    "a direction and a group of parameters, all put in together",
    (
        _DIRECTION,
        Column("group", "`projections`, `attention`, `mlp`, `embeddings`, `norms`, or `all`"),
        *both_sides((*_EFFECT, _EXACT, *_TOTAL)),
    ),
)

CUMULATIVE = Table(
    "cumulative.parquet",
    "mastlens cumulative-curves",
    "an order of the matrices and a number of them",
    (
        Column("order", "`ranking`, `reverse`, or `random`"),
        Column("draw", "of random orders, from 0; else −1"),
        Column("k", "how many of the order are put in"),
        *both_sides(
            (
                Column(
                    "forget_effect", "forget log-probability with their weights put in minus without", _NATS, "random"
                ),
                _EXACT,
                *_TOTAL,
            )
        ),
    ),
)

_AREA = "mean effect over k from 0 to all"
CUMULATIVE_AREAS = Table(
    "cumulative_areas.parquet",
    "mastlens cumulative-curves",
    "a side",
    (
        Column("side", "`forget` or `retain`"),
        *with_interval(Column("end", "effect of all matrices, where every order ends", _NATS), "paired, over problems"),
        Column("total", "effect of all weights: where `end` is small beside it, no ranking can find it", _NATS),
        Column("area", f"{_AREA} of the ranking", _NATS, "`area_random`"),
        Column("area_reverse", f"{_AREA} of the reversed ranking", _NATS),
        Column("area_random", f"{_AREA} of random orders, their mean", _NATS),
        *with_interval(Column("above_random", "area − area_random", _NATS, "0"), "paired, over problems"),
        *with_interval(Column("above_reverse", "area − area_reverse", _NATS, "0"), "paired, over problems"),
        Column("p_value", "share of the orders that lie as far from their mean as the ranking does"),
        Column("draws", "random orders; with 20, `p_value` is at least 1 / 21"),
    ),
)

_QUANTILE = Column(
    "entropy_quantile", "from 1, low to high, over all tokens of an increment", source="arXiv:2506.01939"
)

TOKENS = Table(
    "tokens.parquet",
    "mastlens token-differences",
    "a solution token and an increment",
    (
        INCREMENT,
        SPLIT_NAME,
        ITEM,
        Column("position", "in the solution, from 0"),
        Column("token", "its text; the pieces of an item join to the solution"),
        Column("logprob_before", "log p of the token before the increment", "nat"),
        Column("logprob_after", "log p after it", "nat"),
        Column("difference", "log p after − log p before", "nat", "0", "arXiv:2603.22117"),
        Column("entropy_before", "of the distribution that the token is drawn from, before", "nat"),
        _QUANTILE,
    ),
)

TOKEN_SUMMARY = Table(
    "token_summary.parquet",
    "mastlens token-differences",
    "an increment, a split and a class of entropy",
    (
        INCREMENT,
        SPLIT_NAME,
        Column("entropy_quantile", "from 1, low to high; 0: all tokens", source="arXiv:2506.01939"),
        Column("entropy_low", "the least entropy there", "nat"),
        Column("entropy_high", "the largest", "nat"),
        Column("items", "problems"),
        Column("tokens", "solution tokens"),
        *with_interval(Column("mean", "mean of `difference`", "nat", "0"), "over items", low="ci_low", high="ci_high"),
        Column("median", "median of `difference`", "nat"),
        Column("fraction_above", "share of tokens that became more probable"),
        Column("fraction_zero", "share with |difference| of at most 1e-6"),
        Column("fraction_below", "share that became less probable"),
    ),
)

TABLES = (
    COUPLING,
    HEADS,
    SPECTRUM,
    CAUSAL_MAP,
    CAUSAL_GROUPS,
    SCORE_PATH,
    SCORE_BEHAVIOUR,
    SCORE_SEARCH,
    SCORE_SHAPLEY,
    SCORE_SETA,
    SCORE_GATES,
    CUMULATIVE,
    CUMULATIVE_AREAS,
    TOKENS,
    TOKEN_SUMMARY,
)
