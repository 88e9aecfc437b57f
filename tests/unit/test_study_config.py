"""A study file is checked before anything runs: every mistake is told with its place and the nearest valid name."""

import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

import mastlens as m
from mastlens.analysis.scores import SCORERS
from mastlens.decoding.prompts import problem_prompts
from mastlens.errors import MastlensError
from mastlens.organisms import lineage_folder
from mastlens.organisms.organism import STUDIES
from mastlens.problems.reading import read_problems
from mastlens.selection import RULES
from mastlens.studies.arms import Arm
from mastlens.studies.bench import Bench
from mastlens.studies.planning import check_objectives, plan_arms
from mastlens.studies.reading import from_table
from mastlens.studies.runner import run_study
from mastlens.studies.selecting import check_selections, is_random, selection_settings
from mastlens.studies.settings import DecodingSettings, parse_study, read_study
from mastlens.unlearning.objectives import OBJECTIVES

GOOD = """
organism = "qwen2"
[[compare]]
objectives = ["ga"]
selections = ["all-parameters"]
"""


def test_an_organism_stands_for_its_lineage_and_files():
    settings = parse_study(tomllib.loads(GOOD))
    assert settings.lineage.reference == "organism:qwen2/rlvr-retain"
    folder = lineage_folder("qwen2")
    assert settings.train == {side: str(folder / f"{side}-train.jsonl") for side in ("forget", "retain")}
    for files, kind in ((settings.calibration, "calibration"), (settings.eval, "eval")):
        assert files == {s: str(folder / f"{s}-{kind}.jsonl") for s in ("forget", "retain-gsm", "retain-math")}
    assert settings.neutral == str(folder / "neutral-eval.jsonl")
    check_selections(settings)
    check_objectives(settings)


def test_the_three_kinds_of_files_do_not_mix():
    settings = parse_study(tomllib.loads(GOOD))
    kinds = [set(files.values()) for files in (settings.train, settings.calibration, settings.eval)]
    assert sum(map(len, kinds)) == len(set.union(*kinds))


def test_paths_are_relative_to_the_file(tmp_path):
    for name in ("f.jsonl", "r.jsonl"):
        (tmp_path / name).write_text("")
    files = 'forget = "f.jsonl"\nretain = "r.jsonl"\n'
    other = 'forget = "f.jsonl"\nkept = "r.jsonl"\n'
    (tmp_path / "rlvr").mkdir()
    study = tmp_path / "study.toml"
    study.write_text(
        'lineage = { rlvr = "rlvr", sft = "org/sft", base = "organism:qwen2/base" }\n'
        f"[train]\n{files}[calibration]\n{other}[eval]\n{other}"
        '[[negate]]\nselections = ["all-parameters"]\n'
    )
    settings = read_study(study)
    assert settings.lineage.rlvr == str(tmp_path / "rlvr")
    assert (settings.lineage.sft, settings.lineage.base) == ("org/sft", "organism:qwen2/base")  # no folders here
    assert settings.train["forget"] == str(tmp_path / "f.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sedes = [1]" + GOOD, ["the study", "'sedes'", "Did you mean 'seeds'"]),
        (
            GOOD + "\n[grid]\nlearning_rate = [1e-3]\nsteps = 4\nevery = 2",
            ["the study, grid", "Did you mean 'learning_rates'"],
        ),
        (GOOD + "\n[grid]\nlearning_rates = [1e-3]\nsteps = 4", ["grid", "every is missing"]),
        (GOOD + "\n[grid]\nlearning_rates = [0.0]\nsteps = 4\nevery = 2", ["grid", "above 0"]),
        (GOOD + "\n[grid]\nlearning_rates = 1e-3\nsteps = 4\nevery = 2", ["learning_rates", "a list is expected"]),
        ('seeds = ["a"]' + GOOD, ["seeds", "a whole number is expected"]),
        ("seeds = [1, 1]" + GOOD, ["different numbers"]),
        ("seeds = [true]" + GOOD, ["a whole number is expected"]),
        ('keep_edits = "some"' + GOOD, ["'some'", "chosen"]),
        ('organism = "qwen3"\n[[compare]]\nobjectives=["ga"]\nselections=["mast"]', ["'qwen3'", "qwen2"]),
        ('organism = "qwen2"', ["nothing to do"]),
        ('[[compare]]\nobjectives=["ga"]\nselections=["mast"]', ["[lineage] is missing"]),
        (GOOD + '\n[[compare]]\nobjectives = ["ga"]\nselections = []', ["compare 2", "at least one"]),
        (GOOD + "\n[selections.x]\ntop = 3", ["selections, x", "exactly one way"]),
        (GOOD + '\n[selections."a/b"]\nwhere = "x"', ["'a/b'", "names a folder"]),
        (GOOD + '\n[selections.x]\nrule = "mast"\namong = "("', ["selections, x", "no regular expression"]),
        (GOOD + '\n[selections.x]\nwhere = "."\namong = "q"', ["selections, x", "rule alone"]),
        ('candidates = "("' + GOOD, ["no regular expression"]),
        (GOOD + 'start = "base"', ["compare 1", "'base'", "sft"]),
        (GOOD + 'take = "last"', ["compare 1", "'last'", "best"]),
        ("own_responses = { temperature = 0 }" + GOOD, ["own_responses", "above 0"]),
        (GOOD + '\n[eval]\nforget = "x"', ["[eval]", "at least one retain split"]),
        (GOOD + '\n[eval]\nforget = "x"\nretain = "y"', ["'retain'", "Rename"]),
        (GOOD + '\n[train]\nforget = "x"\nkept = "y"', ["[train]", "one for 'retain'"]),
    ],
)
def test_mistakes_are_told_with_their_place(text, said):
    with pytest.raises(MastlensError) as caught:
        parse_study(tomllib.loads(text))
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"selections": ["mats"]}, "Did you mean 'mast'"),
        ({"objectives": ["gaa"]}, "Did you mean 'ga'"),
    ],
)
def test_unknown_rules_and_objectives_are_told_before_anything_is_measured(change, said, tmp_path):
    told = tomllib.loads(GOOD)
    told["compare"][0] |= change
    with pytest.raises(MastlensError, match=said):
        run_study(told, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_coefficient_that_no_objective_has(tmp_path):
    told = tomllib.loads(GOOD) | {"objectives": {"mine": {"name": "npo", "bta": 0.5}}}
    told["compare"][0]["objectives"] = ["mine"]
    with pytest.raises(MastlensError, match=r"objectives\.mine.*Did you mean 'beta'"):
        run_study(told, tmp_path / "out")


def test_a_study_names_its_grader_and_runs_no_code(tiny, tmp_path):
    told = tomllib.loads(GOOD)
    plain, exact = (parse_study(told | {"decoding": one}) for one in ({}, {"grader": "regex:(?s).*"}))
    assert "grader" not in plain.summary["decoding"]  # arms from before there were others stay valid
    assert exact.summary["decoding"]["grader"]["name"] == "regex"
    (tmp_path / "code.py").write_text("raise SystemExit('this was run')\ndef f(said, gold): return True\n")
    for grader, said in ((f"{tmp_path}/code.py:f", "only where you ask for it"), ("mathematic", "'mathematics'")):
        with pytest.raises(MastlensError, match=said):
            parse_study(told | {"decoding": {"grader": grader}})


def test_arms_are_graded_by_the_studys_grader(tiny):
    files = {"forget": tiny.forget, "retain": tiny.retain}
    whole, right = r"regex:(?s)\A.*\Z", {}
    for grader in ("mathematics", whole):
        decoding = DecodingSettings(max_new_tokens=8, grader=grader)
        bench = Bench(tiny.rlvr, train=files, calibration={"forget": tiny.forget}, decoding=decoding)
        problems = read_problems(tiny.forget)[:3]
        answered = bench.answer(bench.model, problem_prompts(problems, bench.tokenizer))
        said = [replace(problem, answer=one.response.text) for problem, one in zip(problems, answered, strict=True)]
        right[grader] = bench.correct(bench.model, said), bench.correct(bench.model, problems)
    assert right[whole] == (3, 0)
    assert right["mathematics"] != (3, 0)


def test_no_file_and_no_toml(tmp_path):
    with pytest.raises(MastlensError, match="no study file"):
        read_study(tmp_path / "study.toml")
    with pytest.raises(MastlensError, match="Did you mean 'unlearning'"):
        read_study("organism:unlearnin")
    (tmp_path / "study.toml").write_text("a = = 1")
    with pytest.raises(MastlensError, match=r"study\.toml is no TOML file"):
        read_study(tmp_path / "study.toml")


def test_one_arm_in_two_ways_is_refused(tmp_path):
    told = tomllib.loads(GOOD)
    again = dict(told["compare"][0], grid={"learning_rates": [1e-9], "steps": 1, "every": 1})
    from mastlens.checkpoints.checkpoint import Checkpoint

    source = Checkpoint("organism:qwen2/rlvr")
    once = parse_study({**told, "compare": [told["compare"][0], told["compare"][0]]})
    assert len(plan_arms(once, tmp_path, source, seed=0)) == 3 + 3  # three stages, three seeds
    with pytest.raises(MastlensError, match="in two ways"):
        plan_arms(parse_study({**told, "compare": [told["compare"][0], again]}), tmp_path, source, seed=0)
    apart = parse_study({**told, "compare": [told["compare"][0], {**again, "suffix": "-weak"}]})
    names = [arm.name for arm in plan_arms(apart, tmp_path, source, seed=0)]
    assert "ga/all-parameters/seed-2" in names
    assert "ga-weak/all-parameters/seed-2" in names


def test_a_retain_term_is_asked_for_or_needed(tmp_path):
    from mastlens.checkpoints.checkpoint import Checkpoint

    told = tomllib.loads(GOOD)
    told["seeds"] = [0]
    told["compare"] = [
        {"objectives": ["ga", "graddiff"], "selections": ["all-parameters"]},
        {"objectives": ["ga"], "selections": ["all-parameters"], "retain_weight": 3},
    ]
    arms = plan_arms(parse_study(told), tmp_path, Checkpoint("organism:qwen2/rlvr"), seed=0)
    retain = {arm.objective: arm.retain for arm in arms if arm.kind == "matched"}
    assert retain == {"ga": False, "graddiff": True, "ga+retain": True}
    assert arms[-1].making == {"name": "ga", "retain_weight": 3.0}


def test_gates_begin_at_the_source():
    settings = read_study("organism:unlearning")
    first = replace(settings.compare[0], objectives=("gates",), start="sft")
    with pytest.raises(m.NotSupported, match="gates begins at the source"):
        check_objectives(replace(settings, compare=(first,)))
    check_objectives(replace(settings, compare=(replace(first, start="source"),)))
    check_objectives(replace(settings, compare=(replace(first, objectives=("rewind",)),)))


def test_a_study_may_be_of_another_lineage(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('organism = "planted-scattered"\n[[negate]]\nselections = ["mast"]\n')
    settings = read_study(path, "qwen2")
    assert settings.lineage.rlvr == "organism:qwen2/rlvr"
    assert settings.name == "qwen2"
    assert settings.eval["forget"].endswith("qwen2/forget-eval.jsonl")
    whole = asdict(settings)
    with pytest.raises(m.MastlensError, match="no organism: leave --organism out"):
        parse_study({key: whole[key] for key in ("lineage", "train", "calibration", "eval")}, organism="qwen2")


def test_newer_settings_leave_older_arms_what_they_are(tmp_path):
    """A default that is new decides nothing: a run that was begun before goes on."""
    plain = Arm("ga/x/seed-0", "matched", "ga", making={"name": "ga"})
    assert not {"start", "take"} & set(plain.identity)
    for changed in (replace(plain, start="sft"), replace(plain, take="best")):
        assert changed.identity != plain.identity


def test_the_shipped_study_compares_everything_with_at_least_twenty_draws_and_three_seeds():
    settings = read_study("organism:unlearning")
    check_selections(settings)
    check_objectives(settings)
    assert len(settings.seeds) >= 3
    assert settings.draws >= 20
    assert all(part.seeds is None for part in settings.compare)
    # every objective meets random selections; where rules are compared, and with a retain term, at least twenty
    random = [part for part in settings.compare if "random-matched" in part.selections]
    assert {"ga", "npo", "graddiff"} <= {o for part in random if part.draws is None for o in part.objectives}
    met = {settings.objectives.get(o, {"name": o})["name"] for part in random for o in part.objectives}
    # those on traces have a table of their own (mastlens reasoning-table); the organism of this study writes none
    # and rewind and gates, which need the SFT model as well, are compared in benchmarks.rewind
    on_problems = {name for name in OBJECTIVES if not name.startswith(("r2mu", "rmu-", "rewind", "gates"))}
    assert met == on_problems
    assert min(part.draws or settings.draws for part in random) >= 3
    compared = {settings.objectives.get(o, {"name": o})["name"] for part in settings.compare for o in part.objectives}
    assert compared == on_problems
    selected = {label for part in settings.compare for label in part.selections}
    assert {"mast", "all-parameters", "embeddings", "mlp"} <= selected
    # those that need a measurement of their own are held against planted truth instead, in benchmarks.planted
    assert {name for name in RULES if name not in ("random", *SCORERS)} <= selected
    # what is drawn has draws, and what is not has none
    assert is_random(selection_settings(settings, "random-matched"))
    assert not is_random(selection_settings(settings, "mast"))


def test_the_studies_of_going_back_hold_every_selection_against_every_objective():
    for spec in ("organism:rewind", STUDIES / "planted.toml"):
        settings = read_study(spec, "qwen2")
        check_selections(settings)
        check_objectives(settings)
        chosen = [set(part.selections) - {"random-matched"} for part in settings.compare if len(part.selections) > 1]
        assert all(one == chosen[0] for one in chosen)
        assert ("truth" in chosen[0]) == (spec != "organism:rewind")
        assert {part.start for part in settings.compare} == {"source", "sft"}
        drawn = {objective for part in settings.compare for objective in part.objectives
                 if "random-matched" in part.selections}  # fmt: skip
        assert drawn == {"graddiff", "npo", "rewind"}
        assert settings.candidates == "."
        assert settings.drawn.max_new_tokens == settings.decoding.max_new_tokens


def test_lineages_of_one_kind_share_a_study_and_each_has_its_own(monkeypatch):
    monkeypatch.setattr("mastlens.organisms.organism.Organism.present", False)
    for name in ("planted-layer", "planted-vo"):  # neither is in this cache
        with pytest.raises(m.MastlensError, match=f"mastlens organism build {name}"):
            read_study(f"organism:{name}")


@dataclass(frozen=True)
class Inner:
    x: float = 0.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    several: tuple[Inner, ...] = ()
    word: str | None = None


def test_tables_become_dataclasses():
    made = from_table(Outer, {"inner": {"x": 1}, "several": [{"x": 2.5}, {}], "word": "a"}, "here")
    assert made == Outer(Inner(1.0), (Inner(2.5), Inner()), "a")
    assert isinstance(made.inner.x, float)
    with pytest.raises(MastlensError, match=r"here, several 2: .*'y'"):
        from_table(Outer, {"inner": {}, "several": [{}, {"y": 1}]}, "here")
    with pytest.raises(MastlensError, match="here: inner is missing"):
        from_table(Outer, {}, "here")


def test_the_shipped_study_is_in_the_package():
    import mastlens

    assert (Path(mastlens.__file__).parent / "organisms" / "studies" / "unlearning.toml").is_file()
