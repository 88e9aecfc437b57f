"""Imitation of the model before RLVR: its responses, its distributions, its weights; against plain transformers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import mastlens as m
from mastlens.decoding.engines import HuggingFaceEngine
from mastlens.decoding.sampling import Sampling
from mastlens.unlearning import Unlearner, editing
from mastlens.unlearning.objectives import make_objective
from mastlens.unlearning.rewinding import COLUMNS, PARTIAL, imitated

from ..conftest import run_command
from .test_objectives_plain import FORGET, UPPER, look
from .test_unlearning import bits

NAME = "model.layers.1.self_attn.q_proj.weight"
SEED, TOKENS, END = 3, 6, 0


def rewind(tiny, out, *more, objective="rewind", sft=True, lr=1e-3):
    return run_command(
        *("unlearn", "--rlvr", tiny.rlvr, "--where", "layers.1.self_attn.q_proj"),
        *(("--sft", tiny.sft) if sft else ()),
        *("--forget", tiny.forget, "--retain", tiny.retain, "--objective", objective, "--steps", 2, "--lr", lr),
        *(("--own-tokens", TOKENS) if objective == "rewind" else ()),
        *("--batch-size", 4, "--seed", SEED, "--out", out, *more),
    )


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("rewind")
    rewind(tiny, out)
    return out


def drawn_by(model, prompt, name):
    """Return the token ids that plain transformers gives under a response's own random numbers."""
    ids, written = list(prompt), []
    for number in Sampling(seed=SEED).uniforms(name, TOKENS):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        chances = np.exp(logits - logits.max())
        cumulated = np.cumsum(chances / chances.sum())
        token = int(np.searchsorted(cumulated, number * cumulated[-1], side="right"))
        written.append(token)
        ids.append(token)
        if token == END:
            break
    return written


@torch.no_grad()
def test_each_side_gets_the_responses_of_its_own_model(tiny, made):
    table = pd.read_parquet(made / "rewind.parquet")
    assert tuple(table.columns) == COLUMNS
    assert table["side"].value_counts().to_dict() == {"forget": 12, "retain": 10}
    tokenizer = m.Checkpoint(tiny.rlvr).load_tokenizer()
    assert tokenizer.eos_token_id == END
    models = {side: m.Checkpoint(path).load_model() for side, path in (("forget", tiny.sft), ("retain", tiny.rlvr))}
    digests = {"forget": m.Checkpoint(tiny.sft).behaviour_digest, "retain": m.Checkpoint(tiny.rlvr).behaviour_digest}
    other = {"forget": models["retain"], "retain": models["forget"]}
    same = 0
    for row in table.itertuples():
        name = f"{row.side}/{row.item}/{row.sample}"
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        assert list(row.ids) == drawn_by(models[row.side], prompt, name), name
        same += list(row.ids) == drawn_by(other[row.side], prompt, name)
        assert row.digest == digests[row.side]
    assert same < len(table)  # the models differ, and the test can tell


def plain_loss(kind, now, wanted, tokens):
    p, q = wanted.double().log_softmax(-1), now.double().log_softmax(-1)
    between = torch.log((p.exp() + q.exp()) / 2)
    return {
        "nll": -q[torch.arange(len(tokens)), tokens],
        "forward_kl": (p.exp() * (p - q)).sum(-1),
        "reverse_kl": (q.exp() * (q - p)).sum(-1),
        "jensen_shannon": ((p.exp() * (p - between)).sum(-1) + (q.exp() * (q - between)).sum(-1)) / 2,
    }[kind]


@pytest.mark.parametrize("kind", ["nll", "forward_kl", "reverse_kl", "jensen_shannon"])
def test_loss_and_gradient_are_those_of_plain_torch(tiny, kind):
    model, sft = m.Checkpoint(tiny.rlvr).load_model(), m.Checkpoint(tiny.sft).load_model()
    objective = make_objective("rewind", imitation=kind)
    run = Unlearner(
        model, UPPER, objective, FORGET, lr=1e-12, steps=1, batch_size=5, imitated=imitated(sft, FORGET, batch_size=2)
    )
    record = run.step()
    own = m.Checkpoint(tiny.rlvr).load_model()
    for name, parameter in own.named_parameters():
        parameter.requires_grad_(name in UPPER)
    values = []
    for problem in FORGET:
        now, _, tokens = look(own, problem)
        with torch.no_grad():
            wanted, _, _ = look(sft, problem)
        values.append(plain_loss(kind, now, wanted, tokens))
    loss = torch.cat(values).mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for n, p in own.named_parameters() if n in UPPER]).norm()
    assert record.forget_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert record.grad_norm == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("objective", ["rewind", "npo"])
def test_put_back_is_the_sft_models_tensor_and_nothing_else(tiny, tmp_path, objective):
    rewind(tiny, tmp_path, "--start", "sft", objective=objective, lr=1e-14)  # too small a step for any bit to change
    sft, rlvr = (load_file(path / "model.safetensors") for path in (tiny.sft, tiny.rlvr))
    edit = m.Edit.load(tmp_path / "edit.safetensors")
    assert list(edit.after) == [NAME]
    assert bits(edit.after[NAME]) == bits(sft[NAME]) != bits(rlvr[NAME]) == bits(edit.before[NAME])


def test_a_head_is_put_back_alone(tiny):
    head = f"{NAME}#h1"
    edit = m.unlearn(
        rlvr=tiny.rlvr, sft=tiny.sft, names=[head], forget=tiny.forget, objective="npo", steps=1, lr=1e-14, start="sft"
    ).edit
    sft, rlvr = (load_file(path / "model.safetensors")[NAME] for path in (tiny.sft, tiny.rlvr))
    after, size = edit.after[NAME], len(rlvr) // 4
    assert bits(after[size : 2 * size]) == bits(sft[size : 2 * size]) != bits(rlvr[size : 2 * size])
    assert bits(after[:size]) == bits(rlvr[:size])
    assert bits(after[2 * size :]) == bits(rlvr[2 * size :])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_noise_goes_that_share_of_the_way(tiny, share):
    def started(seed):
        given = {"rlvr": tiny.rlvr, "names": [NAME], "forget": tiny.forget, "objective": "npo", "steps": 1, "lr": 1e-14}
        return m.unlearn(**given, start="noise", noise=share, seed=seed).edit.after[NAME]

    source = load_file(tiny.rlvr / "model.safetensors")[NAME]
    after = started(0)
    noise = (after - (1 - share) * source) / (share * source.square().mean().sqrt())
    assert float(noise.mean()) == pytest.approx(0, abs=0.15)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert bits(after) == bits(started(0)) != bits(started(1))


def test_an_interrupted_run_keeps_its_responses(tiny, tmp_path, made, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(editing, "Unlearner", stop)
        with pytest.raises(KeyboardInterrupt):
            rewind(tiny, tmp_path)
    assert (tmp_path / PARTIAL).is_file()
    with monkeypatch.context() as patched:
        patched.setattr(HuggingFaceEngine, "respond", stop)  # nothing is asked a second time
        rewind(tiny, tmp_path)
    for name in ("edit.safetensors", "steps.parquet", "rewind.parquet"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name
    assert not (tmp_path / PARTIAL).exists()


def test_responses_of_an_earlier_run_are_taken(tiny, tmp_path, made, monkeypatch):
    def drawn(*args, **kwargs):
        raise AssertionError("nothing is to be drawn")

    monkeypatch.setattr(HuggingFaceEngine, "respond", drawn)
    given = {"rlvr": tiny.rlvr, "where": "layers.1.self_attn.q_proj", "objective": "rewind", "steps": 2, "lr": 1e-3}
    given |= {"forget": tiny.forget, "retain": tiny.retain, "batch_size": 4, "seed": SEED}
    given["responses"] = made / "rewind.parquet"
    edit = m.unlearn(**given, sft=tiny.sft).edit
    assert bits(edit.after[NAME]) == bits(m.Edit.load(made / "edit.safetensors").after[NAME])
    with pytest.raises(m.NotTogether, match="another model's than"):
        m.unlearn(**given, sft=tiny.base)
    with pytest.raises(m.NotTogether, match="other retain problems"):
        m.unlearn(**given | {"retain": shorter(tiny.retain, tmp_path)}, sft=tiny.sft)


def shorter(path, folder):
    (folder / "few.jsonl").write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    return folder / "few.jsonl"


def test_other_runs_are_recorded_as_they_were(tiny, tmp_path, made):
    rewind(tiny, tmp_path, objective="npo", sft=False)
    record = json.loads((tmp_path / "run.json").read_text())["stages"]["unlearn"]
    own = json.loads((made / "run.json").read_text())["stages"]["unlearn"]
    assert not {"own_responses", "start"} & set(record["settings"])
    assert not {key for key in record["settings"]["objective"] if "own" in key}
    assert own["settings"]["own_responses"] == {"samples": 1, "temperature": 1.0, "max_new_tokens": TOKENS}
    assert own["settings"]["objective"]["needs_own_responses"] is True
    assert (set(own["lineage"]), set(record["lineage"])) == ({"rlvr", "sft"}, {"rlvr"})


@pytest.mark.parametrize(
    ("objective", "sft", "more", "said"),
    [
        ("rewind", False, (), "rewind needs --sft PATH"),
        ("npo", False, ("--start", "sft"), "--start sft needs --sft PATH"),
        ("npo", True, (), "npo does nothing with --sft"),
        ("npo", False, ("--own-samples", 2), "learns from no responses of models' own"),
        ("npo", False, ("--start", "noise", "--start-noise", 0), "above 0 and at most 1"),
        ("npo", False, ("--start", "sfd"), "sft"),
        ("rewind", True, ("--own-temperature", 0), "above 0"),
        ("rewind", True, ("--own-samples", 0), "at least one response"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tiny, tmp_path, objective, sft, more, said):
    with pytest.raises((m.MastlensError, SystemExit), match=said if objective else ""):
        rewind(tiny, tmp_path / "out", *more, objective=objective, sft=sft)
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny.sft, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    moved = type(tiny)(tiny.base, other, tiny.rlvr, tiny.forget, tiny.retain)
    with pytest.raises(m.NotTogether, match="another tokenizer"):
        rewind(moved, tmp_path / "out")
