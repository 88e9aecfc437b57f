"""RMU and R2MU against plain transformers and numbers by hand: terms, gradients, padding, names, resuming."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import mastlens as m
from mastlens.edits.edit import Edit
from mastlens.problems.encoding import EncodedProblem
from mastlens.unlearning import TokenWeights, Unlearner, traces
from mastlens.unlearning.control import kept_control, unit_direction
from mastlens.unlearning.documents import Encoder, read_documents
from mastlens.unlearning.drift import drift_by_step, measure_drift, state_drift
from mastlens.unlearning.objectives import OBJECTIVES, make_objective
from mastlens.unlearning.objectives.steering import TRIGGER, SteeringTexts
from mastlens.unlearning.passes import States
from mastlens.unlearning.settings import TRACING, Tracing
from mastlens.unlearning.traces import asked_about, read_traces, segments_of

from ..conftest import tiny_config
from . import plain

LAYER = 1
DOWN = "model.layers.1.mlp.down_proj.weight"
NAMES = ["model.layers.0.mlp.down_proj.weight", DOWN]
LISTED = (5, 40, 77)


def random_model(model_type="qwen2", layers=3):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, num_hidden_layers=layers))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
    return model.eval()


def draw(generator, *, prompt=True):
    def tokens(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, 380, (length,), generator=generator).tolist())

    return EncodedProblem(tokens(2, 6) if prompt else (), tokens(2, 12))


GENERATOR = torch.Generator().manual_seed(3)
FORGET = [draw(GENERATOR) for _ in range(6)]
RETAIN = [draw(GENERATOR, prompt=False) for _ in range(5)]
COT = [draw(GENERATOR) for _ in range(4)]
TRACES = [[draw(GENERATOR) for _ in range(count)] for count in (2, 1, 3, 0, 2, 3)]  # one document has none


def run_of(name, *, model=None, steps=3, batch_size=3, names=NAMES, **settings):
    """Return a run of an objective with the texts that it needs; what is no setting of a run is a coefficient."""
    of_run = {key: settings.pop(key) for key in ("seed", "cache_mb", "lr") if key in settings}
    objective = make_objective(name, layer=LAYER, **settings)
    more = {"traces": TRACES} if objective.needs.traces else {}
    more |= {"cot": COT} if objective.needs.cot else {}
    more |= {"reflection": LISTED} if objective.reflection_words else {}
    given = {"lr": 2e-3, "steps": steps, "batch_size": batch_size, "seed": 4} | of_run
    return Unlearner(model or random_model(), names, objective, FORGET, RETAIN, **more, **given)


def move(run, seed=9):
    """Move the edited weights away from the source, so that nothing is zero by symmetry."""
    generator = torch.Generator().manual_seed(seed)
    values = [p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for p in run.masters.parameters]
    run.masters.restore(values)
    return {name: value.double() for name, value in zip(NAMES, values, strict=True)}


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


class Plain:
    """A model in float64, a text at a time, through ``output_hidden_states``."""

    def __init__(self, weights=None):
        self.model = copy.deepcopy(random_model()).double()
        self.named = dict(self.model.named_parameters())
        if weights:
            with torch.no_grad():
                for name, value in weights.items():
                    self.named[name].copy_(value)

    def look(self, ids):
        out = self.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
        return out.hidden_states[LAYER + 1][0], out.logits[0]


@pytest.mark.parametrize("name", ["rmu", "rmu-rtp", "r2mu-v0", "r2mu"])
def test_terms_and_gradient_against_plain_transformers(name):
    coefficients = {"gamma": 1.3, "retain_weight": 0.7, "steering": 1.5}
    coefficients |= {"unthink_weight": 0.6} if "r2mu" in name else {}
    coefficients |= {"cot_weight": 0.4} if name == "r2mu" else {}
    coefficients |= {"reflection_weight": 30.0} if name == "rmu-rtp" else {}
    run = run_of(name, steps=1, **coefficients)
    source, moved = Plain(), Plain(move(run))
    rows = {side: schedule[0] for side, schedule in run.schedules.items()}

    def whole(problem):
        return [*problem.prompt, *problem.solution]

    with torch.no_grad():
        norms = torch.cat([source.look(whole(p))[0].norm(dim=1) for p in RETAIN])
        kept = {i: source.look(whole(RETAIN[i]))[0] for i in rows["retain"]}
    u = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    control = 1.5 * norms.sort().values[(len(norms) - 1) // 2] * u / u.norm()

    def mean(values):
        return sum(values) / len(values)

    def distance(states, target):
        return ((states - target) ** 2).sum(dim=1).mean() / 32

    terms = {"forget_loss": mean([distance(moved.look(whole(FORGET[i]))[0], control) for i in rows["forget"]])}
    terms["retain_loss"] = mean([distance(moved.look(whole(RETAIN[i]))[0], kept[i]) for i in rows["retain"]])
    if name == "rmu-rtp":
        # Positions that predict a token of the text; a mean over the listed tokens.
        found = [moved.look(whole(FORGET[i]))[1][:-1].softmax(dim=1)[:, list(LISTED)].mean() for i in rows["forget"]]
        terms["reflection_loss"] = mean(found)
    if "r2mu" in name:
        told = [TRACES[i] for i in rows["forget"] if TRACES[i]]
        states = [[(moved.look(whole(t))[0][len(t.prompt) :]) for t in own] for own in told]
        terms["trace_loss"] = mean([mean([distance(s, control) for s in own]) for own in states])
    if name == "r2mu":
        pairs = []
        for i in rows["cot"]:
            start = len(COT[i].prompt)
            with torch.no_grad():
                before = source.look(whole(COT[i]))[0][start:]
            pairs.append(distance(moved.look(whole(COT[i]))[0][start:], before))
        terms["cot_loss"] = mean(pairs)
    weights = {"forget_loss": 1.3, "retain_loss": 0.7, "reflection_loss": 30.0, "trace_loss": 0.6, "cot_loss": 0.4}
    loss = sum(weights[term] * value for term, value in terms.items())
    gradient = torch.autograd.grad(loss, [moved.named[n] for n in NAMES])
    record = run.step()
    for term in weights:
        if term in terms:
            assert getattr(record, term) == pytest.approx(float(terms[term].detach()), rel=1e-4), term
            assert float(terms[term].detach()) > 1e-6
        else:
            assert np.isnan(getattr(record, term)), term
    norm = float(torch.cat([g.flatten() for g in gradient]).norm())
    assert record.grad_norm == pytest.approx(norm, rel=1e-3)
    for parameter, expected in zip(run.masters.parameters, gradient, strict=True):
        clipped = expected * min(1.0, 1 / norm)
        assert float((parameter.grad.double() - clipped).norm()) <= 2e-3 * float(clipped.norm())


def test_a_text_counts_once_in_the_runs_own_loss(monkeypatch):
    """Distances that sum to 10 over 5 tokens and to 4 over one: 3, not 4.2 (a b x b broadcast), not 14 / 6."""
    run = run_of("rmu", batch_size=2, steps=1)
    weight = dict(run.model.named_parameters())[DOWN]
    run.misdirection.control = torch.zeros(32)
    values = torch.cat([torch.full((5, 32), 2.0**0.5), torch.full((1, 32), 2.0)])
    states = run.passes.states

    def told(side, rows, layer):
        if side != "forget":
            return states(side, rows, layer)
        return States(values + 0 * weight.sum(), torch.tensor([0] * 5 + [1]), 2)

    monkeypatch.setattr(run.passes, "states", told)
    assert run.step().forget_loss == pytest.approx(3.0)


def test_a_batch_of_unequal_texts_is_what_its_texts_are_one_by_one():
    run = run_of("r2mu")
    move(run)
    assert len({len(p.prompt + p.solution) for p in FORGET}) > 2
    together = run.misdirection.step({"forget": [0, 2, 5], "retain": [1, 2, 4], "cot": [0, 1, 3]}, lambda loss: None)
    alone = [
        run.misdirection.step({"forget": [f], "retain": [r], "cot": [c]}, lambda loss: None)
        for f, r, c in ((0, 1, 0), (2, 2, 1), (5, 4, 3))
    ]
    for term, value in together.items():
        assert value == pytest.approx(sum(found[term] for found in alone) / 3, rel=1e-4), term
    chunked = run_of("r2mu", batch_size=1)  # traces go through one at a time
    move(chunked)
    found = chunked.misdirection.step({"forget": [0, 2, 5], "retain": [1], "cot": [0]}, lambda loss: None)
    assert found["trace_loss"] == pytest.approx(together["trace_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("model_type", "sixth"),
    [("qwen2", "self_attn.o_proj.weight"), ("qwen3", "mlp.gate_proj.weight"), ("llama", "mlp.down_proj.weight")],
)
def test_parameters_go_by_name_and_never_by_place(model_type, sixth):
    """RMU's code takes parameter 6 of a block, which is another matrix in each architecture."""
    model = random_model(model_type, layers=4)
    assert [name for name, _ in model.model.layers[0].named_parameters()][6] == sixth
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(LAYER + 1)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = run_of("r2mu", model=model, names=names, steps=2)
    list(run.remaining())
    for name, parameter in model.named_parameters():
        assert (bits(parameter) != bits(before[name])) == (name in names), name


def test_weights_of_zero_are_rmu_bit_for_bit():
    plainly, zero = run_of("rmu"), run_of("r2mu", unthink_weight=0.0, cot_weight=0.0)
    first, second = list(plainly.remaining()), list(zero.remaining())
    for a, b in zip(plainly.masters.parameters, zero.masters.parameters, strict=True):
        assert bits(a) == bits(b)
    assert [s.grad_norm for s in first] == [s.grad_norm for s in second]
    assert not np.isnan([s.trace_loss for s in second]).any()  # read all the same
    full = run_of("r2mu")
    list(full.remaining())
    assert bits(full.masters.parameters[1]) != bits(plainly.masters.parameters[1])


def test_what_was_before_is_read_once_where_memory_allows(monkeypatch):
    kept, swapped = run_of("r2mu"), run_of("r2mu", cache_mb=0.0)
    assert (kept.misdirection.frozen.sides, swapped.misdirection.frozen.sides) == (["retain", "cot"], [])
    monkeypatch.setattr(kept.passes, "before", None)  # no swapping: it would raise
    one, other = list(kept.remaining()), list(swapped.remaining())
    for a, b in zip(one, other, strict=True):
        for term in ("forget_loss", "retain_loss", "trace_loss", "cot_loss"):
            assert getattr(a, term) == pytest.approx(getattr(b, term), rel=1e-3, abs=1e-7), term
    assert one[-1].cot_loss > 1e-6  # and it is not zero by being compared with itself


@pytest.mark.parametrize("name", ["rmu-rtp", "r2mu", "weighed"])
def test_a_state_goes_on_to_the_same_bits(name):
    extra = {"token_weights": TokenWeights(every=1)} if name == "weighed" else {}
    name = "r2mu" if extra else name
    whole, torn, rest = (run_of(name, steps=4, **extra) for _ in range(3))
    expected = [whole.step() for _ in range(4)]
    for _ in range(2):
        torn.step()
    rest.load_state({key: value.clone() for key, value in torn.state().items()})
    found = [rest.step() for _ in range(2)]
    assert list(map(str, found)) == list(map(str, expected[2:]))
    for a, b in zip(whole.masters.parameters, rest.masters.parameters, strict=True):
        assert bits(a) == bits(b)
    if extra:
        assert bits(whole.scorer.w) == bits(rest.scorer.w)
        assert float(whole.scorer.w.detach().norm()) > 0


def test_token_weights_weigh_the_tokens_of_traces():
    """Alike, they change nothing; learnt, they prefer tokens near the control vector and their ratios count."""
    run, even = run_of("r2mu"), run_of("r2mu", token_weights=TokenWeights(every=1, lr=0.3, decay=0.0))
    first = run.step(), even.step()  # the scorer's first step comes after the model's
    assert first[0].trace_loss == pytest.approx(first[1].trace_loss, rel=1e-5)
    rows = [trace for traces_ in even.misdirection.traces for trace in traces_]
    for _ in range(60):
        even.misdirection._learn([rows], even.scorer)
    weights = even.scorer.weights(even.misdirection.frozen("trace", rows)).numpy()
    distances = even.misdirection.distances(rows).numpy()
    assert np.corrcoef(weights, distances)[0, 1] < -0.2
    assert weights.std() > 0.02
    by_hand, start = [], 0
    for trace in rows:
        size = len(even.passes.problems["trace"][trace].solution)
        w, d = (a[start : start + size] for a in (weights, distances))
        by_hand.append((w * d).sum() / w.sum())
        start += size
    told = even.misdirection._unthink([2], lambda loss: None, even.scorer, rate=None)
    own = even.misdirection.traces[2]
    assert told == pytest.approx(np.mean([by_hand[trace] for trace in own]), rel=1e-4)
    with pytest.raises(m.MastlensError, match=r"no token_weights.*r2mu-v0, r2mu"):
        make_objective("rmu", layer=1, token_weights=TokenWeights())


def test_sides_that_are_missing_or_idle_are_told():
    for name, more, told in (
        ("r2mu", {"cot": COT}, "needs reasoning traces"),
        ("r2mu", {"traces": TRACES}, "needs chains of thought"),
        ("rmu", {"traces": TRACES}, "does nothing with reasoning traces"),
        ("rmu", {"cot": COT}, "does nothing with chains"),
        ("rmu-rtp", {}, "needs tokens of reflection words"),
        ("r2mu-v0", {"traces": TRACES[:2]}, "traces of 2"),
        ("r2mu-v0", {"traces": [[] for _ in FORGET]}, "All traces are empty"),
    ):
        with pytest.raises(m.MastlensError, match=told):
            Unlearner(random_model(), NAMES, make_objective(name, layer=1), FORGET, RETAIN, lr=1e-3, steps=1, **more)
    with pytest.raises(m.MastlensError, match=r"Steer layer 2 \(--layer 2\), or select tensors in layers 0 to 1"):
        run_of("r2mu", names=["model.layers.2.mlp.up_proj.weight"])
    only = [[trace] if number == 4 else [] for number, trace in enumerate(COT + COT[:2])]
    run = Unlearner(
        random_model(), NAMES, make_objective("r2mu-v0", layer=1), FORGET, RETAIN, traces=only, lr=1e-3, steps=6,
        batch_size=1,
    )  # fmt: skip
    found = [bool(np.isfinite(step.trace_loss)) for step in run.remaining()]
    assert found == [rows == [4] for rows in run.schedules["forget"]]  # a batch without traces is no end of the run


# Files


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """Texts to forget and to keep, chains of thought, and the traces of the tiny model about the texts."""
    root = tmp_path_factory.mktemp("texts")
    texts = [f"Nothing here is about numbers at all. Find the area of a square of side {n}." for n in range(4)]
    kept = [f"How many ways are there to pick 2 of {n}? Nothing here is." for n in range(4)]
    cot = [
        {"question": f"What is {n} + 2?", "solution": f"<think>\n{n} + 2 = {n + 2}.\n</think>\n\n{n + 2}", "answer": n}
        for n in range(3)
    ]
    for name, records in (
        ("forget", [{"text": text} for text in texts]),
        ("retain", [{"text": text} for text in kept]),
        ("cot", cot),
    ):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = traces.traces(
        model=tiny.rlvr,
        forget=root / "forget.jsonl",
        segments=2,
        segment_tokens=8,
        max_new_tokens=6,
        out=root / "traces",
        progress=False,
    )
    return root, made


def test_windows_by_hand():
    assert segments_of(range(10), 3, 4) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert segments_of(range(10), 3, 100) == [list(range(10)), list(range(3, 10)), list(range(6, 10))]
    assert segments_of(range(2), 3, 4) == [[0, 1], [1]]


def test_traces_are_what_the_model_says_to_segment_and_trigger(tiny, files, monkeypatch):
    root, made = files
    table, tokenizer = made.table, plain.load_tokenizer(tiny.rlvr)
    assert list(table.columns) == ["item", "segment", "prompt", "trace", "tokens", "truncated"]
    assert table[["item", "segment"]].to_numpy().tolist() == [[i, s] for i in range(4) for s in range(2)]
    text = read_documents(root / "forget.jsonl")[1].problem
    ids = tokenizer(text)["input_ids"]
    start = len(ids) // 2
    window = tokenizer.decode(ids[start : start + 8]).strip()
    row = table.iloc[3]
    assert row["prompt"] == f"{TRIGGER}\n{window}\n<think>\n"
    model = plain.load_model(tiny.rlvr)
    said, tokens, truncated = plain.greedy(model, tokenizer, tokenizer(row["prompt"])["input_ids"], 6)
    assert (row["trace"], row["tokens"], row["truncated"]) == (said.strip(), tokens, truncated)
    after = asked_about(read_documents(root / "forget.jsonl")[1], tokenizer, TRACING["release"])
    assert after == [f"{text}\n{TRIGGER}"]
    problem = read_documents(tiny.forget)[0]
    assert asked_about(problem, tokenizer, Tracing()) == [f"{TRIGGER}\n{problem.problem}"]
    monkeypatch.setattr(traces, "answer", None)  # kept: nothing is generated again
    given = {"segments": 2, "segment_tokens": 8, "max_new_tokens": 6, "out": root / "traces", "progress": False}
    again = traces.traces(model=tiny.rlvr, forget=root / "forget.jsonl", **given)
    assert again.table.equals(table)
    with pytest.raises(m.MastlensError, match="trigger_place"):
        traces.traces(model=tiny.rlvr, forget=root / "forget.jsonl", trigger_place="after", **given)
    with pytest.raises(m.MastlensError, match="another file"):
        read_traces(root / "traces" / "traces.parquet", forget=root / "retain.jsonl")
    with pytest.raises(m.MastlensError, match="another checkpoint"):
        read_traces(root / "traces" / "traces.parquet", fingerprint="0" * 64)


def encoder(tiny):
    checkpoint = m.Checkpoint(tiny.rlvr)
    return Encoder(checkpoint, checkpoint.load_tokenizer(), checkpoint.load_model().config, True)


def test_presets_read_the_texts_that_their_sources_read(tiny, files):
    read, tokenizer = encoder(tiny), plain.load_tokenizer(tiny.rlvr)
    read.context = None
    table = pd.DataFrame(
        [
            {"item": i, "segment": s, "prompt": "P?\n", "trace": "ab" * (80 if s else 70), "tokens": 1, "truncated": 0}
            for i in range(2)
            for s in range(2)
        ]
    )
    own = [tokenizer("ab" * n)["input_ids"] for n in (70, 80)]
    released, paper = (OBJECTIVES["r2mu"].presets[preset]["texts"] for preset in ("release", "paper"))
    trigger = tokenizer(f"{TRIGGER}\n<think>")["input_ids"]
    assert [len(t) for t in read.traces(table, 2, released)] == [1, 1]
    assert list(read.traces(table, 2, released)[0][0].solution) == trigger + own[0][:100]
    assert [list(t.solution) for t in read.traces(table, 2, paper)[1]] == own
    behind = read.traces(table, 2, SteeringTexts(trace_tokens=7))[0][1]
    assert (list(behind.prompt), list(behind.solution)) == (tokenizer("P?\n")["input_ids"], own[1][:7])
    with pytest.raises(m.MastlensError, match="traces are of 2 documents and there are 3"):
        read.traces(table, 3, paper)
    long = [m.Problem("ab" * 200, "", "", line=7)]
    with pytest.raises(m.MastlensError, match=r"line 7: .*--text-tokens"):
        encoder(tiny).documents(long, "F", texts=paper)
    assert len(read.documents(long, "F", texts=SteeringTexts(text_tokens=50))[0].solution) == 50
    root, _ = files
    cot = read_documents(root / "cot.jsonl")
    alone = read.chains(cot, "C", texts=released)[1]
    assert (alone.prompt, list(alone.solution)) == ((), tokenizer(cot[1].solution)["input_ids"][:150])
    unclosed = read.chains([m.Problem("p", "1 + 1", "2")], "C", texts=released)[0]
    assert list(unclosed.solution) == tokenizer("1 + 1</think>")["input_ids"]
    asked = read.chains(cot, "C", texts=SteeringTexts())[1]
    assert tokenizer.decode(asked.prompt) == "What is 1 + 2?\n"
    assert asked.solution[-1] == tokenizer.eos_token_id


def unlearned(tiny, files, **changes):
    root, _ = files
    given = {"objective": "r2mu", "layer": 1, "steps": 2, "lr": 2e-3, "batch_size": 2, "progress": False}
    given |= {"forget": root / "forget.jsonl", "retain": root / "retain.jsonl", "cot": root / "cot.jsonl"}
    given |= {"traces": root / "traces" / "traces.parquet", "where": "layers.0.mlp.down_proj"}
    return m.unlearn(rlvr=tiny.rlvr, **(given | changes))


def test_from_files_to_an_edit_that_keeps_its_control_vector(tiny, files, tmp_path):
    made = unlearned(tiny, files, out=tmp_path / "a")
    assert {"trace_loss", "cot_loss", "reflection_loss"} <= set(made.table)
    assert made.table[["trace_loss", "cot_loss"]].notna().all(axis=None)
    assert made.table["reflection_loss"].isna().all()
    control = kept_control(Edit.load(tmp_path / "a").settings)
    u = unit_direction(32, 0)
    assert torch.allclose(control / control.norm(), u, atol=1e-6)
    assert torch.equal(control, kept_control(made.edit.settings))
    released = unlearned(tiny, files, preset="release")
    assert torch.equal(kept_control(released.edit.settings), 6.5 * u)
    assert released.table["trace_loss"][0] != pytest.approx(made.table["trace_loss"][0], rel=1e-2)
    other = unlearned(tiny, files, seed=1)
    assert not torch.equal(kept_control(other.edit.settings), control)
    assert unlearned(tiny, files, out=tmp_path / "a").edit.names == ["model.layers.0.mlp.down_proj.weight"]
    with pytest.raises(m.MastlensError, match="needs --cot"):
        unlearned(tiny, files, cot=None)
    with pytest.raises(m.MastlensError, match="does nothing with --traces"):
        unlearned(tiny, files, objective="rmu", cot=None)


def test_heads_rankings_and_token_weights_go_with_r2mu(tiny, files, tmp_path):
    before = load_file(tiny.rlvr / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    made = unlearned(tiny, files, where=None, names=[f"{name}#h2"], token_weights=TokenWeights(every=1))
    changed = (made.edit.after[name] != before[name]).any(dim=1).nonzero().flatten()
    assert made.edit.names == [name]
    assert set(changed.tolist()) <= set(range(16, 24))
    assert len(changed) > 4
    assert set(made.token_weights) == {"item", "trace", "position", "token", "text", "weight", "distance"}
    assert made.token_weights["weight"].std() > 0
    ranking = pd.DataFrame(
        [
            {"rank": 1, "layer": 0, "projection": "v", "name": "model.layers.0.self_attn.v_proj.weight"},
            {"rank": 2, "layer": 1, "projection": "q", "name": name},
        ]
    ).assign(score=1.0, selected=True)
    ranking.to_parquet(tmp_path / "ranking.parquet")
    ranked = unlearned(tiny, files, where=None, ranking=tmp_path / "ranking.parquet")
    assert ranked.edit.names == ranking["name"].tolist()
    with pytest.raises(m.MastlensError, match=r"1 selected tensors lie above layer 0, which r2mu steers.*--layer 1"):
        unlearned(tiny, files, where=None, ranking=tmp_path / "ranking.parquet", layer=0)


def test_drift_against_plain_hidden_states(tiny, files):
    root, _ = files
    made = unlearned(tiny, files, lr=5e-2, steps=3)
    given = {"forget": root / "forget.jsonl", "retain": root / "retain.jsonl", "cot": root / "cot.jsonl"}
    drift = measure_drift(
        model=tiny.rlvr, edits=made.edit, traces=root / "traces" / "traces.parquet", progress=False, **given
    )
    table = drift.table.set_index(["step", "text", "layer"])
    assert set(drift.table["text"]) == {"forget", "traces", "cot", "retain"}
    source = table.loc[0]
    assert source["cosine"].to_numpy() == pytest.approx(1.0)
    assert source["norm_ratio"].to_numpy() == pytest.approx(1.0)
    one, other = plain.load_model(tiny.rlvr), plain.load_model(tiny.rlvr)
    with torch.no_grad():
        for name, tensor in made.edit.after.items():
            dict(other.named_parameters())[name].copy_(tensor)
        tokenizer, found = plain.load_tokenizer(tiny.rlvr), []
        control = kept_control(made.edit.settings).double()
        for document in read_documents(root / "forget.jsonl"):
            ids = torch.tensor([tokenizer(document.problem)["input_ids"]])
            a, b = (x(input_ids=ids, output_hidden_states=True).hidden_states[1][0].double() for x in (one, other))
            cosine = ((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).mean()
            toward = (b @ control / b.norm(dim=1) / control.norm()).mean()
            found.append([float(cosine), float((b.norm(dim=1) / a.norm(dim=1)).mean()), float(toward)])
    row = table.loc[3, "forget", 0]
    expected = np.mean(found, axis=0)
    assert row[["cosine", "norm_ratio", "cosine_to_control"]].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert row["cosine"] < 0.999
    assert row["texts"] == 4
    above = state_drift(one, {1: {DOWN: before_and_noise(one)}}, {"retain": RETAIN})
    assert above[(above["step"] == 1) & (above["layer"] == 0)]["cosine"].item() == pytest.approx(1.0, abs=1e-12)
    assert above[(above["step"] == 1) & (above["layer"] == 1)]["cosine"].item() < 0.999
    assert above["cosine_to_control"].isna().all()
    figure = drift.plot()
    assert "cosine" in str(figure.layout.yaxis.title.text)


def before_and_noise(model):
    weight = dict(model.named_parameters())[DOWN].detach()
    return weight + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def test_drift_over_the_steps_of_a_run():
    run, whole = run_of("r2mu", steps=3, lr=3e-2), run_of("r2mu", steps=3, lr=3e-2)
    expected = [str(step) for step in whole.remaining()]
    table, steps = drift_by_step(run, {"forget": FORGET, "retain": RETAIN}, every=2)
    assert sorted(set(table["step"])) == [0, 2, 3]
    assert steps["forget_loss"].tolist() == [float(e.split("forget_loss=")[1].split(",")[0]) for e in expected]
    for a, b in zip(run.masters.parameters, whole.masters.parameters, strict=True):
        assert bits(a) == bits(b)  # the model holds the edit afterwards
    at = table[table["layer"] == LAYER].set_index(["step", "text"])["cosine"]
    assert at[0, "forget"] == pytest.approx(1.0)
    assert at[3, "forget"] < at[2, "forget"] < 1.0
    assert at[3, "forget"] < at[3, "retain"]
    with pytest.raises(m.MastlensError, match="3 steps already"):
        drift_by_step(run, {"forget": FORGET}, every=2)
