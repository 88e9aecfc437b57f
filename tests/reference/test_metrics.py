"""Metrics against open-unlearning's own numbers on the same items, values computed by hand, and other libraries."""

import copy
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.evaluation.metrics.catalogue import METRICS
from mastlens.evaluation.metrics.items import read_items
from mastlens.evaluation.metrics.measuring import measure_metrics
from mastlens.evaluation.metrics.methods.extraction_strength import strength
from mastlens.evaluation.metrics.methods.min_k import lowest_mean
from mastlens.evaluation.metrics.reading import encode_items, gradient_norms
from mastlens.evaluation.metrics.tables import Measured
from mastlens.models.distributions import solution_statistics
from mastlens.runs.files import sha256_file

DATA = Path(__file__).parents[1] / "data" / "metrics"
THEIRS = json.loads((DATA / "open_unlearning.json").read_text(encoding="utf-8"))
SPLITS = ("forget", "holdout", "retain", "real", "world")
OF_ONE = (
    "probability",
    "probability-with-options",
    "rouge",
    "truth-ratio",
    "exact-memorisation",
    "extraction-strength",
)
OF_TWO = ("mia-loss", "mia-zlib", "mia-reference", "min-k", "min-k:k=0.4", "min-k++", "mia-gradnorm")
DERIVED = ("forget-quality", "privleak", "model-utility")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def sets():
    return {split: read_items(split, DATA / f"{split}.jsonl") for split in SPLITS}


@pytest.fixture(scope="module")
def said():
    return {split: THEIRS["splits"][split]["generations"] for split in SPLITS}


@pytest.fixture(scope="module")
def reference(sets, said):
    """The reference model's metrics, as a folder would hold them."""
    checkpoint = Checkpoint(THEIRS["reference"])
    names = ("truth-ratio", "min-k:k=0.4")
    model = Computing().load(checkpoint)
    found = measure_metrics(model, checkpoint.load_tokenizer(), sets, names, progress=False)
    return Measured(Path("reference"), found.table, found.values, found.items)


@pytest.fixture(scope="module")
def loaded():
    checkpoint = Checkpoint(THEIRS["model"])
    return Computing().load(checkpoint), checkpoint.load_tokenizer()


@pytest.fixture(scope="module")
def ours(loaded, sets, said, reference):
    names = (*OF_ONE, *OF_TWO, *DERIVED)
    return measure_metrics(*loaded, sets, names, responses=said, reference=reference, batch_size=3, progress=False)


def value(scores, metric, split, aggregate="mean"):
    rows = scores.table.query("metric == @metric and split == @split and aggregate == @aggregate")
    assert len(rows) == 1
    return rows["value"].iloc[0]


def items(scores, metric, split, part=""):
    return scores.values.query("metric == @metric and split == @split and part == @part")["value"].to_numpy()


# --- open-unlearning ------------------------------------------------------------------------------------------------


def test_the_items_are_those_that_its_numbers_are_of():
    assert {split: sha256_file(DATA / f"{split}.jsonl") for split in SPLITS} == THEIRS["items"]


def test_nothing_failed(ours):
    assert ours.failed == {}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("metric", [name for name in OF_ONE if name not in ("rouge", "truth-ratio")])
def test_means_and_items_are_those_of_open_unlearning(ours, metric, split):
    theirs = THEIRS["splits"][split][metric]
    assert items(ours, metric, split) == pytest.approx(theirs["items"], abs=CLOSE, rel=CLOSE)
    assert value(ours, metric, split) == pytest.approx(theirs["value"], abs=CLOSE, rel=CLOSE)


@pytest.mark.parametrize("split", SPLITS)
def test_truth_ratios_and_their_three_aggregators_are_those_of_open_unlearning(ours, split):
    theirs = THEIRS["splits"][split]["truth-ratio"]
    assert items(ours, "truth-ratio", split, "ratio") == pytest.approx(theirs["true_better"]["items"], rel=CLOSE)
    assert items(ours, "truth-ratio", split, "share") == pytest.approx(theirs["prob_mean"]["items"], rel=CLOSE)
    for name, its in (
        ("closer-to-1", "closer_to_1_better"),
        ("true-better", "true_better"),
        ("prob-mean", "prob_mean"),
    ):
        assert value(ours, "truth-ratio", split, name) == pytest.approx(theirs[its]["value"], abs=CLOSE, rel=CLOSE)


@pytest.mark.parametrize("split", SPLITS)
def test_rouge_is_that_of_open_unlearning(ours, split):
    for part, theirs in THEIRS["splits"][split]["rouge"].items():
        assert items(ours, "rouge", split, part) == pytest.approx(theirs["items"], abs=1e-12)
        assert value(ours, "rouge", split, part) == pytest.approx(theirs["value"], abs=1e-12)


@pytest.mark.parametrize("metric", OF_TWO)
def test_membership_is_that_of_open_unlearning(ours, metric):
    theirs = THEIRS["membership"][metric]
    for split in ("forget", "holdout"):
        # A loss near 0 is the difference of two numbers near 1 in float32; zlib's are such losses over some 60 bytes.
        least = CLOSE / 100 if metric == "mia-zlib" else CLOSE
        assert items(ours, metric, split) == pytest.approx(theirs[split], abs=least, rel=CLOSE)
    assert value(ours, metric, "forget / holdout", "auc") == pytest.approx(theirs["auc"], abs=CLOSE)


def test_forget_quality_privleak_and_model_utility_are_those_of_open_unlearning(ours, loaded, sets):
    assert value(ours, "forget-quality", "forget", "ks-p") == pytest.approx(THEIRS["forget-quality"], rel=CLOSE)
    assert value(ours, "privleak", "forget / holdout", "percent") == pytest.approx(THEIRS["privleak"], rel=CLOSE)
    found = value(ours, "model-utility", "retain + real + world", "harmonic-mean")
    assert found == pytest.approx(THEIRS["model-utility"], rel=CLOSE)
    assert len(ours.table.query("metric == 'model-utility'")) == 9 + 1


def test_privleak_without_a_reference_takes_its_area_for_half_and_says_so(loaded, sets):
    two = {split: sets[split] for split in ("forget", "holdout")}
    alone = measure_metrics(*loaded, two, ["privleak"], progress=False).table.iloc[0]
    assert alone["value"] == pytest.approx(THEIRS["privleak without a reference"], rel=CLOSE)
    assert "no reference model" in alone["note"]


# --- numbers by other ways ------------------------------------------------------------------------------------------


def test_what_is_read_of_tokens_is_what_plain_transformers_says_in_float64(loaded, sets):
    model, tokenizer = loaded
    (encoded,) = encode_items([sets["forget"]], tokenizer)
    texts = [texts[0] for texts in encoded.texts]
    double = copy.deepcopy(model).double()
    for text, said in zip(texts, solution_statistics(model, texts, batch_size=4), strict=True):
        with torch.no_grad():
            logits = double(torch.tensor([text.prompt + text.solution])).logits[0, len(text.prompt) - 1 : -1]
        table = logits.log_softmax(-1).numpy()
        means = (np.exp(table) * table).sum(-1)
        assert said.logprobs == pytest.approx(table[range(len(table)), text.solution], abs=1e-4)
        assert said.means == pytest.approx(means, abs=1e-4)
        assert said.variances == pytest.approx((np.exp(table) * table**2).sum(-1) - means**2, abs=1e-3)
        assert said.hits.tolist() == (table.argmax(-1) == text.solution).tolist()


def test_gradient_norms_are_those_of_backward_and_leave_nothing_behind(loaded, sets):
    model, tokenizer = loaded
    (encoded,) = encode_items([sets["world"]], tokenizer)
    text = encoded.texts[0][0]
    before = {name: p.clone() for name, p in model.named_parameters()}
    flags = [p.requires_grad for p in model.parameters()]
    found = gradient_norms(model, [text])
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    ids = torch.tensor([text.prompt + text.solution])
    logits = model(ids).logits[0, len(text.prompt) - 1 : -1]
    torch.nn.functional.cross_entropy(logits, torch.tensor(text.solution)).backward()
    norms = [p.grad.norm().item() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    assert found == [pytest.approx(np.mean(norms), rel=1e-5)]


def test_zlib_and_loss_of_an_item_by_hand(ours, loaded, sets):
    model, tokenizer = loaded
    item = sets["forget"].items[0].problem
    loss = items(ours, "mia-loss", "forget")[0]
    prompt = tokenizer(item.problem + "\n")["input_ids"]
    ids = torch.tensor([prompt + tokenizer(item.solution)["input_ids"] + [tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    with torch.no_grad():
        assert loss == pytest.approx(float(model(ids, labels=labels).loss), rel=1e-5)
    assert items(ours, "mia-zlib", "forget")[0] == pytest.approx(loss / len(zlib.compress(item.solution.encode())))


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_is_its_definition(hits):
    n = len(hits)
    k = next((k for k in range(n) if all(hits[k:])), n - 1)
    assert strength(np.array(hits)) == 1 - k / n >= 1 / n - 1e-12


def test_min_k_by_hand():
    values = np.array([-1.0, -5.0, -3.0, -2.0, -4.0])
    assert lowest_mean(values, 0.4) == 4.5  # -5 and -4
    assert lowest_mean(values, 0.1) == 5  # at least one
    assert lowest_mean(np.array([]), 0.4) == 0


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_metric_says_all_that_is_asked_of_it(metric):
    kind = METRICS[metric]
    for told in ("summary", "formula", "range", "direction", "null", "source"):
        assert getattr(kind, told), told
    assert kind.summary[-1] != "."
    assert kind().spelled == metric


def test_areas_are_those_of_scikit_learn(ours):
    for metric in OF_TWO:
        low, high = (items(ours, metric, split) for split in ("forget", "holdout"))
        labels = [0] * len(low) + [1] * len(high)
        expected = roc_auc_score(labels, np.concatenate([low, high]))
        assert value(ours, metric, "forget / holdout", "auc") == pytest.approx(expected, abs=1e-12)


def test_forget_quality_of_p_values_too_small_for_a_number_has_a_logarithm():
    from mastlens.statistics.ranks import kolmogorov_smirnov

    x = np.linspace(0, 1, 20_000)
    found = kolmogorov_smirnov(x, x + 10)
    assert found.p == 0
    assert found.log10_p == pytest.approx(math.log10(2) - 2 * 10_000 / math.log(10))
    small = kolmogorov_smirnov(x[:50], x[:50] + 0.001)
    assert small.log10_p == pytest.approx(math.log10(stats.ks_2samp(x[:50], x[:50] + 0.001).pvalue))
