"""Rules whose score is one column of a table."""

from mastlens.selection.rule import Rule

RMS = Rule(
    "rms",
    "root mean square of the increment's entries: magnitude without the size of the tensor",
    "control of MAST's magnitude term",
    {"geometry": ("delta_rms", "delta_norm")},
    lambda table: table["delta_rms"],
    of_increment=True,
)

GRAD_NORM = Rule(
    "grad-norm",
    "Frobenius norm of the forget gradient",
    "usual baseline",
    {"coupling": ("forget_grad_norm",)},
    lambda table: table["forget_grad_norm"],
)

SALUN = Rule(
    "salun",
    "mean |forget gradient| over the entries, absolute after summing over problems",
    "SalUn, arXiv:2310.12508, brought to tensors",
    {"coupling": ("forget_grad_abs_mean",)},
    lambda table: table["forget_grad_abs_mean"],
)

SNIP = Rule(
    "snip",
    "|<weights, forget gradient>|: the forget loss's first-order change if the tensor is taken out",
    "SNIP, arXiv:1810.02340, brought to tensors",
    {"coupling": ("forget_weight_inner",)},
    lambda table: table["forget_weight_inner"].abs(),
)

WAGLE = Rule(
    "wagle",
    "sum of |(weights - retain gradient / mu) * forget gradient|, mu = 1e-6",
    "WAGLE, arXiv:2410.17509, brought to tensors",
    {"coupling": ("forget_wagle",)},
    lambda table: table["forget_wagle"],
)

CONFLICT = Rule(
    "conflict",
    "1 - cosine of forget and retain gradient: where forgetting costs least of what is kept",
    "MAST has no retain term",
    {"coupling": ("forget_retain_cosine",)},
    lambda table: 1 - table["forget_retain_cosine"],
)
