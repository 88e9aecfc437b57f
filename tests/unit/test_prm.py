"""Process reward models: where steps end, what is read at a marker, faults and labels, and models that are none."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import mastlens
from mastlens.cli import main
from mastlens.decoding.steps import EQUATION, cut_steps, steps_of_tokens
from mastlens.errors import MastlensError
from mastlens.evaluation.process.model import MARKER, ProcessRewardModel, encode, marked
from mastlens.organisms import get_organism, lineage_folder
from mastlens.organisms.faults import labelled_solutions, with_fault
from mastlens.organisms.prm import area, measured, rows_of
from mastlens.organisms.problems import region
from mastlens.organisms.subjects import FORGET, RETAIN_MATH
from tests.unit.test_organism_build import MINIATURE

pytest.importorskip("trl", reason="the extra 'train' is not installed")


@pytest.fixture(scope="module")
def prm(tiny, tmp_path_factory):
    """A process reward model that was trained for one step, by the command."""
    out = tmp_path_factory.mktemp("prm") / "prm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mastlens.organisms.build._THREADS", 1)
        words = ["organism", "prm", "qwen2", "--model", tiny.sft, "--steps", 1, "--batch-size", 4, "--items", 6]
        assert main([str(word) for word in [*words, "--out", out, "--quiet"]]) == 0
    return out


@pytest.mark.parametrize(
    ("text", "how", "steps"),
    [
        ("Walk: 2+3=5; on 5*2=10. In total \\boxed{10}.", "equations",
         ["Walk: 2+3=5", "; on 5*2=10", ". In total \\boxed{10}."]),
        ("One.\n\nTwo.\n \n  Three.\n\n", "blank-lines", ["One.\n\n", "Two.\n \n  ", "Three.\n\n"]),
        ("a\nb\n\nc", "lines", ["a\n", "b\n\n", "c"]),
        ("### a\nb\n### c", "headings", ["### a\nb\n", "### c"]),
        ("  \n\nA", "blank-lines", ["  \n\nA"]),
        ("", "lines", []),
        ("no end", "equations", ["no end"]),
    ],
)  # fmt: skip
def test_steps_of_a_text(text, how, steps):
    assert cut_steps(text, how) == steps
    assert "".join(steps) == text


def test_a_token_belongs_to_the_step_in_which_it_begins(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.sft)
    steps = cut_steps("Say 2+3=5 or 5*2=10. So", "equations")
    ids = tokenizer("".join(steps), add_special_tokens=False)["input_ids"]
    found = steps_of_tokens([*ids, tokenizer.eos_token_id], steps, tokenizer)
    assert len(found) == len(ids) + 1 and found == sorted(found) and set(found) == {0, 1, 2} and found[-1] == 2
    starts = [len(tokenizer.decode(ids[:n])) for n in range(len(ids))]
    ends = np.cumsum([len(step) for step in steps])
    assert found[:-1] == [int(np.searchsorted(ends, start, side="right")) for start in starts]
    with pytest.raises(MastlensError, match="Did you mean 'lines'"):
        cut_steps("a", "line")


def test_faults_are_carried_on_and_labelled():
    steps = [(2, "+", 3, 5), (5, "*", 2, 10), (10, "-", 4, 6)]
    for seed in range(30):
        found = with_fault(steps, 1, random.Random(seed))
        assert found[0] == steps[0] and found[1] != steps[1]
        assert found[2][0] == found[1][3] and found[2][3] == found[2][0] - 4
    given = labelled_solutions([*FORGET, *RETAIN_MATH], 200, "calibration", 1)
    assert all(region(one.problem.key) == "calibration" for one in given)
    kinds = {(len(one.steps) > 1, all(one.right)) for one in given}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    for one in given:
        assert list(one.right) == sorted(one.right, reverse=True)  # nothing is right behind a fault
        if len(one.steps) == 1:
            continue
        true = [tuple(map(str, step)) for step in worked(one)]
        said = [found.groups() for step in one.steps if (found := EQUATION.search(step))]
        assert [a == b for a, b in zip(true, said, strict=True)][: sum(one.right) + 1] == list(one.right)[: len(true)][
            : sum(one.right) + 1
        ]
        assert one.right[-1] == (f"{{{one.problem.answer}}}" in one.steps[-1] and all(one.right[:-1]))
    assert given == labelled_solutions([*FORGET, *RETAIN_MATH], 200, "calibration", 1)
    assert given != labelled_solutions([*FORGET, *RETAIN_MATH], 200, "calibration", 2)


def worked(one):
    from mastlens.organisms.subjects import BY_NAME

    return BY_NAME[one.problem.subject].steps(one.problem.operands)


def test_what_is_scored_is_the_positive_class_at_the_marker(prm):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    pairs = [("What is 2+3+1?", "Say 2+3=5 or 5+1=6. So \\boxed{6}."), ("Add 1.", f"1+1=2{MARKER}."), ("Nothing.", "")]
    found = ProcessRewardModel(prm, batch_size=2).score(pairs)
    assert [one.steps for one in found] == [
        ("Say 2+3=5", " or 5+1=6", ". So \\boxed{6}."), ("1+1=2", f"{MARKER}."), ()]  # fmt: skip
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(prm).double(), AutoTokenizer.from_pretrained(prm)
    for (problem, _), one, said in zip(pairs, found, (["Say 2+3=5", "or 5+1=6", ". So \\boxed{6}."], ["1+1=2", "."]),
                                       strict=False):  # fmt: skip
        ids = tokenizer(f"{problem}\n{''.join(f'{step}{MARKER}' for step in said)}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0].numpy()
        places = np.nonzero(ids[0].numpy() == tokenizer.convert_tokens_to_ids(MARKER))[0]
        by_hand = np.exp(logits[places, 1]) / np.exp(logits[places]).sum(1)
        assert one.scores == pytest.approx(by_hand, abs=1e-6)
    assert found[2].scores == ()
    alone = ProcessRewardModel(prm, batch_size=1).score(pairs)
    assert [one.scores for one in alone[:2]] == [pytest.approx(one.scores, abs=1e-6) for one in found[:2]]
    longest = ProcessRewardModel(prm).model.config.max_position_embeddings
    assert ProcessRewardModel(prm).score([("Long.", "1+1=2" + " and on" * longest)])[0].scores is None


def test_labels_stand_at_markers_and_nowhere_else(prm):
    tokenizer, given = ProcessRewardModel(prm).tokenizer, labelled_solutions(FORGET, 5, "train", 0)
    for one, row in zip(given, rows_of(tokenizer, given), strict=True):
        assert [label for label in row["labels"] if label >= 0] == list(map(int, one.right))
        places = [n for n, label in enumerate(row["labels"]) if label >= 0]
        assert {row["input_ids"][n] for n in places} == {tokenizer.convert_tokens_to_ids(MARKER)}


def test_what_is_measured_stands_beside_its_null(prm):
    given = labelled_solutions(FORGET, 60, "eval", 0)

    def told(value):
        class Head(torch.nn.Module):
            device = torch.device("cpu")

            def forward(self, input_ids, attention_mask):
                scores = torch.tensor([[value(n, row) for _ in row] for n, row in enumerate(input_ids)])
                return (torch.stack([-scores, scores], -1),)

        return Head()

    tokenizer = ProcessRewardModel(prm).tokenizer
    always = measured(told(lambda *_: 9.0), tokenizer, given)
    right = np.concatenate([one.right for one in given])
    assert (always["accuracy"], always["auc"], always["first_fault"]) == (pytest.approx(right.mean()), 0.5, 0.0)
    assert always["null"] == max(right.mean(), 1 - right.mean())
    assert 0 < always["first_fault_null"] < 0.5 and always["low"] < always["accuracy"] < always["high"]
    assert area(np.array([0.9, 0.1, 0.5, 0.5]), np.array([True, False, True, False])) == 0.875
    assert np.isnan(area(np.array([0.9]), np.array([True])))


def test_the_command_writes_a_model_with_its_card(prm, tiny, tmp_path, capsys):
    told = json.loads((prm / "prm.json").read_text())
    assert [row["region"] for row in told["accuracy"]] == ["calibration", "eval"]
    assert "first fault %" in (prm / "README.md").read_text() and str(prm) not in (prm / "README.md").read_text()
    found = ProcessRewardModel(prm)
    assert (found.cut, found.settings["cut"]) == ("equations", "equations")
    body = mastlens.Checkpoint(tiny.sft)  # what it starts from is not written to
    assert MARKER not in body.load_tokenizer().get_vocab()
    assert main(["organism", "prm", "qwen2", "--out", str(prm)]) == 2
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(MastlensError, match="no RLVR run"):
        mastlens.organism_prm("think", tmp_path / "none")
    with pytest.raises(MastlensError, match="at least 1"):
        mastlens.organism_prm("qwen2", tmp_path / "none", steps=0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_prm_or_has_another_tokenizer_is_named(prm, tiny, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(prm, other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny.sft / name, other / name)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"problem": "What is 1+1?", "solution": "2", "answer": "2"}) + "\n")
    asked = ["evaluate-traces", "--model", tiny.sft, "--questions", f"q={questions}", "--judge", "rule", "--facts",
             lineage_folder("think") / "facts.json", "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in [*asked, "--prm", other]]) == 2
    assert MARKER in (said := capsys.readouterr().err) and "another one than the process reward model" in said
    assert main([str(word) for word in [*asked, "--prm", tiny.sft]]) == 2
    assert "is no process reward model: its head is Qwen2ForCausalLM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    config = json.loads((other / "config.json").read_text())
    brings = {"architectures": ["Qwen2ForProcessRewardModel"], "auto_map": {"AutoModel": "code.Qwen2"}}
    (other / "config.json").write_text(json.dumps({**config, **brings}))
    with pytest.raises(MastlensError, match="--prm-remote-code"):
        _ = ProcessRewardModel(other).checkpoint
    assert ProcessRewardModel(other, remote_code=True).checkpoint.folder == other


def test_which_steps_went_bad_is_said_of_a_models_responses(prm, tiny, tmp_path, monkeypatch):
    from mastlens.evaluation.judges import Judgement
    from mastlens.evaluation.settings import PRMChoice
    from mastlens.evaluation.traces.evaluating import FILE
    from tests.columns import declared, undeclared, unwritten

    class Nothing:
        def __init__(self):
            self.settings = {"judge": "nothing"}

        def judge(self, question, trace):
            return Judgement("C1", "")

    questions = tmp_path / "q.jsonl"
    lines = [{"problem": f"What is {n}+1?", "solution": "s", "answer": str(n + 1)} for n in range(3)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = {"model": tiny.sft, "questions": {"sums": questions}, "judge": Nothing(), "choices_think": None,
             "max_new_tokens": 12, "judged": "response", "progress": False}  # fmt: skip
    plain = mastlens.evaluate_traces(**asked)
    assert "steps" not in plain.table and plain.steps.empty and "steps_bad" not in plain.summary
    found = mastlens.evaluate_traces(**asked, prm=PRMChoice(path=prm), out=tmp_path / "out")
    for row, line in zip(found.table.itertuples(), lines, strict=True):
        (one,) = ProcessRewardModel(prm).score([(line["problem"], row.response)])
        assert tuple(row.steps) == one.steps and row.step_scores == pytest.approx(one.scores)
    steps = found.steps
    assert len(steps) == sum(map(len, found.table["steps"]))
    assert steps.groupby("item")["first_bad"].sum().max() <= 1
    (row,) = found.summary.to_dict("records")
    assert row["steps_bad"] == np.mean([min(scores) < 0.5 for scores in found.table["step_scores"]])
    assert row["steps_low"] <= row["steps_bad"] <= row["steps_high"] and row["steps_n"] == 3
    table = declared(FILE)
    assert undeclared(found.table.columns, table) == unwritten(list(found.table.columns), table) == []
    same = mastlens.evaluate_traces(**asked, prm=PRMChoice(path=prm), out=tmp_path / "out")  # read back
    assert same.steps.equals(steps)
    worse = replace(found, table=found.table.assign(step_scores=[[0.9] * len(one) for one in found.table["steps"]]))
    bad = replace(found, table=found.table.assign(step_scores=[[0.1] * len(one) for one in found.table["steps"]]))
    compared = mastlens.compare_traces(worse, bad)
    assert compared.steps.iloc[0][["before", "after", "b", "c"]].tolist() == [0, 1, 0, 3]
    assert mastlens.compare_traces(plain, plain).steps is None


def test_code_that_comes_with_a_model_runs_only_when_it_is_asked_for(prm, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(prm, own)
    (own / "reward.py").write_text(
        "from transformers import Qwen2ForTokenClassification\n\n\n"
        "class Qwen2ForProcessRewardModel(Qwen2ForTokenClassification):\n"
        "    def forward(self, **given):\n        return (super().forward(**given).logits,)\n"
    )
    config = json.loads((own / "config.json").read_text())
    brings = {"architectures": ["Qwen2ForProcessRewardModel"],
              "auto_map": {"AutoModel": "reward.Qwen2ForProcessRewardModel"}}  # fmt: skip
    (own / "config.json").write_text(json.dumps({**config, **brings}))
    pair = [("What is 2+3?", "2+3=5")]
    expected = ProcessRewardModel(prm).score(pair)
    assert ProcessRewardModel(own, remote_code=True).score(pair)[0].scores == pytest.approx(expected[0].scores)


def test_a_chat_template_is_used_as_the_card_has_it(prm):
    from mastlens.organisms.tokenizer import CHAT_TEMPLATE

    tokenizer = ProcessRewardModel(prm).tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE
    text = tokenizer.decode(encode(tokenizer, "What?", ["A.\n\n", "B."]))
    assert text.index("system") < text.index("What?") < text.index(f"A.{MARKER}B.{MARKER}")
    tokenizer.chat_template = None


def test_a_head_that_scores_no_token_is_refused(prm):
    class Head(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, attention_mask):
            return (torch.zeros(len(input_ids), 2),)

    with pytest.raises(MastlensError, match="two classes a token"):
        marked(Head(), ProcessRewardModel(prm).tokenizer, [[1, 2]])


def test_the_lineages_own_numbers_are_untouched():
    assert replace(get_organism("qwen2").recipe) == get_organism("qwen2").recipe
    assert MINIATURE.guess_right == get_organism("qwen2").recipe.guess_right
