"""``limit`` on everything that reads problems: the first N of a file are what a file of N gives, never all of it."""

import json

import pandas as pd
import pytest

import mastlens as m
from mastlens.cli.registry import COMMANDS
from mastlens.evaluation.safety.refusals import RefusalPhrases
from mastlens.problems.settings import Reading
from tests.lineages import write_crosscoder, write_direction, write_identity

from .test_traces import PEOPLE, TOWNS

LIMIT = 1
LAST = "layers.1.self_attn.o"


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """Whole files, and their beginnings."""
    folder = tmp_path_factory.mktemp("files")
    texts = {"forget": tiny.forget.read_text(), "retain": tiny.retain.read_text()}
    texts["towns"] = "".join(json.dumps(town) + "\n" for town in TOWNS)
    texts["neutral"] = "".join(json.dumps({"text": f"A text, number {n}."}) + "\n" for n in range(4))
    texts["star1"] = json.dumps([{"id": n, "question": f"Bake {n}?", "category": ["a"]} for n in range(4)])
    found = {}
    for name, text in texts.items():
        short = "".join(line + "\n" for line in text.splitlines()[:LIMIT])
        for part, content in (("whole", text), ("short", text if name == "star1" else short)):
            found[name, part] = folder / f"{name}-{part}.jsonl"
            found[name, part].write_text(content)
    (folder / "facts.json").write_text(json.dumps(PEOPLE))
    return found | {"judge": m.RuleJudge.open(folder / "facts.json")}


@pytest.fixture(scope="module")
def edit(tiny, files):
    asked = {"objective": "ga", "steps": 1, "lr": 1e-3, "where": LAST, "progress": False}
    return m.unlearn(rlvr=tiny.rlvr, forget=files["forget", "short"], **asked).edit


def cases(tiny, files, edit, part):
    """Return command to what it makes of the whole files or of their beginnings, as tables."""

    def file(name):
        return files[name, part]

    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "forget": file("forget"), "retain": file("retain")}
    splits = {"model": tiny.rlvr, "splits": {"a": file("forget"), "b": file("retain")}}
    towns = {"model": tiny.rlvr, "questions": {"towns": file("towns")}}
    order = [f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "qkvo"]
    two = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": splits["splits"], "draws": 2}
    made = {"rlvr": tiny.rlvr, "forget": file("forget"), "retain": file("retain"), "objective": "npo", "steps": 2}
    return {
        "token-differences": lambda **o: m.token_differences(
            sft=tiny.sft, rlvr=tiny.rlvr, splits=splits["splits"], **o
        ),
        "inside depart": lambda **o: m.inside_depart(**two, **o),
        "inside write": lambda **o: m.inside_write(**two, **o),
        "inside direct": lambda **o: m.inside_direct(
            sft=tiny.sft, rlvr=tiny.rlvr, texts=file("forget"), label="subject=Algebra", draws=0, probes=["mean"], **o
        ),
        "inside steer": lambda **o: m.inside_steer(
            **two,
            directions=write_direction(tiny.sft.parent / "v.safetensors", "sft/mean/z/1/2/0", 8),
            direction="sft/mean/z/1/2/0",
            doses=[-1.0],
            **o,
        ),
        "inside path": lambda **o: m.inside_path(**two, senders=["z.0.1"], **o),
        "inside crosscoder": lambda **o: m.inside_crosscoder(
            **two, crosscoder=write_crosscoder(tiny.sft.parent / "crosscoder", 32), layer=1, **o
        ),
        "inside undo": lambda **o: m.inside_undo(**two, edited=tiny.base, sites=("z",), **o),
        "inside dictionary": lambda **o: m.inside_dictionary(
            **two, dictionary=write_identity(tiny.sft.parent / "sae", 32, layer=1), **o
        ),
        "inside patch": lambda **o: m.inside_patch(**two, sites=("z",), exact=False, **o),
        "depth-score": lambda **o: m.depth_score(**splits, reference=tiny.sft, edit=edit, **o),
        "score": lambda **o: m.score("path", **pair, where=LAST, **o),
        "couple": lambda **o: m.couple(**pair, spectrum=False, **o),
        "causal-map": lambda **o: m.causal_map(**pair, where=LAST, both_directions=False, **o),
        "cumulative-curves": lambda **o: m.cumulative_curves(**pair, ranking=order, draws=1, points=1, **o),
        "traces": lambda **o: m.traces(model=tiny.rlvr, forget=file("forget"), max_new_tokens=1, **o),
        "unlearn": lambda **o: m.unlearn(**made, lr=1e-3, where=LAST, **o),
        "evaluate": lambda **o: m.evaluate(**splits, max_new_tokens=1, **o),
        "measure-collateral": lambda **o: m.measure_collateral(**splits, edit=edit, neutral=file("neutral"), **o),
        "choices": lambda **o: m.choices(**towns, **o),
        "evaluate-traces": lambda **o: m.evaluate_traces(**towns, judge=files["judge"], max_new_tokens=1, **o),
        "evaluate-safety": lambda **o: m.evaluate_safety(
            model=tiny.rlvr, data={"star1": file("star1")}, judge=RefusalPhrases(), max_new_tokens=1, **o
        ),
        "attack": lambda **o: m.attack("quantise", **splits, edit=edit, formats=["int8"], max_new_tokens=1, **o),
    }


def tables(result):
    found = {name: value for name, value in vars(result).items() if isinstance(value, pd.DataFrame)}
    if isinstance(result, m.Unlearning):
        found |= {name: pd.DataFrame(tensor.numpy()) for name, tensor in result.edit.after.items()}
    return found


COMMANDS_THAT_READ = sorted(c.settings.command for c in COMMANDS if issubclass(c.settings, Reading))


@pytest.mark.parametrize("command", COMMANDS_THAT_READ)
def test_the_first_problems_of_a_file_are_all_that_is_read(tiny, files, edit, command):
    whole, short = (cases(tiny, files, edit, part) for part in ("whole", "short"))
    assert sorted(whole) == COMMANDS_THAT_READ  # a new command has its case here
    if command == "inside direct":  # one text has no other to be told from
        with pytest.raises(m.MastlensError, match=f"All {LIMIT} texts are of one class"):
            whole[command](limit=LIMIT, progress=False)
        return
    found = tables(whole[command](limit=LIMIT, progress=False))
    if command == "evaluate-safety":  # draws so many of each kind, by the seed
        assert len(found["table"]) == LIMIT
        return
    expected = tables(short[command](progress=False))
    assert found
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)
    everything = tables(whole[command](progress=False))
    assert any(not everything[name].equals(found[name]) for name in found)
