"""What misleads in a metric is said where it bites, and only there: each trap has a case and a counterexample."""

import numpy as np
import pandas as pd
import pytest

from mastlens.evaluation.metrics.catalogue import find_metric
from mastlens.evaluation.metrics.items import ItemSet, MetricItem
from mastlens.evaluation.metrics.metric import Part, Scores
from mastlens.evaluation.metrics.reading import EncodedItems, SplitReading
from mastlens.evaluation.metrics.tables import Measured
from mastlens.evaluation.metrics.traps import holdout_notes, note_of, reference_notes
from mastlens.evaluation.multiple_choice import ChoiceScores
from mastlens.models.distributions import TokenStatistics
from mastlens.problems.encoding import EncodedProblem
from mastlens.problems.reading import Problem
from mastlens.studies.protocol_items import ItemMeans, rows_of


def reading(logprobs, others=(), responses=(), paraphrased="") -> SplitReading:
    """What would have been read of a split: log-probabilities of each answer's tokens, losses of the other answers."""
    items = [MetricItem(Problem("q", "a b", "a"), paraphrased, ("c", "d")) for _ in logprobs]
    texts = tuple((EncodedProblem((1,), tuple(range(len(each)))),) for each in logprobs)
    encoded = EncodedItems(ItemSet("forget", tuple(items)), texts, None, tuple("a b" for _ in logprobs))
    said = [np.array(each, dtype=float) for each in logprobs]
    zeros = [np.zeros(len(each)) for each in said]
    answers = tuple(TokenStatistics(s, z, z, z > 0) for s, z in zip(said, zeros, strict=True))
    others = tuple(np.array(each, dtype=float) for each in others)
    return SplitReading(encoded, 100, answers, others, tuple(responses))


class Ratios(Scores):
    """Truth ratios of one split."""

    def __init__(self, values):
        self.values = values

    def splits(self, metric):
        return ["forget"]

    def of(self, metric, split, part=""):
        return Part(np.asarray(self.values))


def test_a_p_value_is_no_quality():
    quality = find_metric("forget-quality")
    wide, far = (
        {one.aggregate: one for one in quality.aggregates(Ratios(x), Ratios(x + 5))}
        for x in (np.linspace(0, 1, 30), np.linspace(0, 1, 3000))
    )
    assert all("order by ks-statistic" in one.note for one in (*wide.values(), *far.values()))
    # Equally far apart: the statistic says so, the p-value says how many items there are.
    assert wide["ks-statistic"].number.value == far["ks-statistic"].number.value == 1
    assert far["ks-p"].number.value == 0 < wide["ks-p"].number.value
    assert far["ks-log10-p"].number.value < -1000


@pytest.mark.parametrize(("right", "said"), [(5, True), (19, False)])
def test_multiple_choice_near_chance_asks_for_an_open_twin(right, said):
    correct = np.arange(20) < right
    table = pd.DataFrame({"split": "forget", "correct": correct, "logprobs": [[0.0] * 4] * 20})
    assert bool(ChoiceScores(table, {"ask": "letter"}).hints) is said
    assert not ChoiceScores(table, {"ask": "text"}).hints  # that is the twin
    row = rows_of("a", [ItemMeans("choices", "forget", "letter", correct.astype(float), 0.25, options=True)]).iloc[0]
    assert ("letters may be broken" in row["note"]) is said


@pytest.mark.parametrize(("wrong", "said"), [(1.0, True), (9.0, False)])
def test_options_near_chance_ask_for_what_the_model_writes(wrong, said):
    read = reading([[-1.0]] * 6, [[wrong + (-1) ** n / 5] for n in range(6)])
    told = find_metric("probability-with-options").note(read)
    assert ("read ROUGE beside it" in told) is said


def test_empty_and_repeated_responses_are_counted():
    note = find_metric("rouge").note
    assert note(reading([[-1.0]] * 3, responses=["", "no " * 40, "a b"])) == (
        "1 of 3 responses are empty; 1 of 3 repeat themselves"
    )
    assert note(reading([[-1.0]] * 2, responses=["a b", "b a"])) == ""


def items(tokens, losses=None):
    rows = [(split, n, size) for split, each in tokens.items() for n, size in enumerate(each)]
    table = pd.DataFrame(rows, columns=["split", "item", "tokens"])
    return table.assign(loss=np.arange(len(table), dtype=float) if losses is None else losses)


@pytest.mark.parametrize(("holdout", "said"), [(range(30, 50), True), (range(10, 30), False)])
def test_a_holdout_of_other_lengths_is_named(holdout, said):
    table = items({"forget-a": list(range(10, 30)), "holdout-a": list(holdout)})
    notes = holdout_notes(table, ["forget-a", "holdout-a", "retain"])
    pair = "forget-a / holdout-a"
    assert [*notes] == [("membership", pair)] * said
    assert note_of(find_metric("min-k"), pair, notes) == [*notes.values()]
    assert note_of(find_metric("privleak"), pair, notes) == [*notes.values()]
    assert note_of(find_metric("rouge"), "forget-a", notes) == []


@pytest.mark.parametrize(("lost", "said"), [(-12.0, True), (-0.3, False)])
def test_a_token_that_the_length_hides_is_shown(lost, said):
    told = find_metric("probability").note(reading([[-0.01] * 60 + [lost]] * 2))
    assert ("normalised by length" in told) is said
    if said:
        assert f"{np.exp(lost):.2g}" in told


@pytest.mark.parametrize(("wrong", "said"), [((0.5, 6.0), True), ((3.0, 3.0), False)])
def test_the_truth_ratio_of_the_other_definition_stands_beside_it(wrong, said):
    read = reading([[-1.0]] * 2, [wrong] * 2)
    told = find_metric("truth-ratio").note(read)
    assert bool(told) is said
    if said:
        ratio = np.exp(-np.array(wrong)).mean() / np.exp(-1.0)
        assert told.endswith(f"closer-to-1 is {min(ratio, 1 / ratio):.3g}")


@pytest.mark.parametrize(
    ("model", "losses", "said"),
    [
        ({"type": "llama", "parameters": 10}, [5.0, 6.0], ""),
        ({"type": "llama", "parameters": 99}, [5.0, 6.0], "another kind of model (llama, 99 parameters; this one is"),
        ({"type": "llama", "parameters": 10}, [0.0, 1.0], "it is the same model"),
        ({}, [5.0, 6.0], ""),  # a folder from before this was recorded
    ],
)
def test_a_reference_that_is_another_model_or_none_is_named(tmp_path, model, losses, said):
    own = items({"forget": [4, 5]})
    theirs = Measured(tmp_path, own, own, own.assign(loss=losses), model)
    notes = reference_notes(own, theirs, {"type": "llama", "parameters": 10})
    found = note_of(find_metric("forget-quality"), "forget", notes)
    assert len(found) == bool(said)
    assert said in "".join(found)
    assert note_of(find_metric("probability"), "forget", notes) == []
