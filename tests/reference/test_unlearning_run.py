"""A run that is light, can be killed, and looks at itself: against plain runs, bit for bit where it must be."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mastlens as m
from mastlens.models.weights import snapshot, write_weights
from mastlens.plots import token_weights_html
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import read_problems
from mastlens.unlearning import ProbeSettings, TokenWeights, Unlearner, editing, resuming
from mastlens.unlearning.objectives import OBJECTIVES, SteeringObjective, make_objective
from mastlens.unlearning.probes import Look, Prober, knee, non_dominated
from mastlens.unlearning.refusals import read_refusals, with_refusals
from mastlens.unlearning.vanishing import vanishing_share

from ..conftest import write_lineage
from . import plain
from .test_unlearning import BATCH, LR, SELECTED, bits

UPPER = ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]
STEPS = 6


@pytest.fixture(scope="module")
def parts(tiny):
    checkpoint = m.Checkpoint(tiny.rlvr)
    tokenizer = checkpoint.load_tokenizer()
    problems = read_problems(tiny.forget)
    encoded = [encode_problems(p, tokenizer) for p in (problems, read_problems(tiny.retain), with_refusals(problems))]
    return checkpoint, encoded


def steps_of(parts, objective, names, *, retain=True, **settings):
    """Return (records, edited weights, whether passes were cut) of a run in memory."""
    checkpoint, (forget, kept, refusals) = parts
    model = checkpoint.load_model()
    made = (
        objective
        if not isinstance(objective, str)
        else make_objective(objective, layer=1 if issubclass(OBJECTIVES[objective], SteeringObjective) else None)
    )
    sides = {
        "traces": [[problem, refusal] for problem, refusal in zip(forget, refusals, strict=True)],
        "cot": kept,
        "reflection": (5, 7),
    }
    words = isinstance(made, SteeringObjective) and made.reflection_words
    wanted = {"traces": made.needs.traces, "cot": made.needs.cot, "reflection": words}
    settings = {side: sides[side] for side in sides if wanted[side]} | settings
    given = {"lr": LR, "steps": STEPS, "batch_size": BATCH} | settings
    run = Unlearner(model, names, made, forget, kept if retain else None, alternatives=refusals, **given)
    records = []
    while (step := run.step()) is not None:
        records.append(step)
    run.close()
    return records, {name: p.detach().clone() for name, p in model.named_parameters()}, run


# Gates need the SFT model's tensors as well: test_gates.py.
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "gates"])
def test_passes_that_begin_above_give_what_whole_ones_give(parts, objective):
    source = {name: p.detach().clone() for name, p in parts[0].load_model().named_parameters()}
    short, cut, run = steps_of(parts, objective, UPPER)
    whole, full, other = steps_of(parts, objective, UPPER, cache_mb=0.0)
    assert (run.passes.cached, other.passes.cached) == (True, False)
    assert run.passes.start == 1
    assert [s.forget_loss for s in short] == pytest.approx([s.forget_loss for s in whole], rel=1e-3, abs=1e-4)
    for name, tensor in source.items():
        assert (bits(cut[name]) != bits(tensor)) == (name in UPPER), name
        if name in UPPER:
            moved = float((full[name] - tensor).norm())
            assert float((cut[name] - full[name]).norm()) <= 0.02 * moved  # AdamW divides rounding by |g|


def test_below_a_selected_embedding_nothing_is_skipped(parts):
    _, _, run = steps_of(parts, "ga", ["model.embed_tokens.weight"], retain=False, steps=2)
    assert (run.passes.start, run.passes.cached) == (0, False)


def test_kl_to_the_source_is_zero_at_the_source_and_holds_it_back(parts):
    objective = make_objective("ga", retain_loss="kl", retain_weight=50.0)
    held, at, _ = steps_of(parts, objective, SELECTED)
    loose, away, _ = steps_of(parts, "ga", SELECTED)
    assert held[0].retain_loss == pytest.approx(0, abs=1e-6)
    assert held[-1].retain_loss > 1e-4
    with pytest.raises(m.MastlensError, match="kl needs retain"):
        steps_of(parts, objective, SELECTED, retain=False)
    assert any(bits(at[n]) != bits(away[n]) for n in SELECTED)
    assert loose[0].retain_loss > 1  # the likelihood term of a random model is not zero


def test_rmu_against_plain_activations(parts):
    checkpoint, (forget, kept, _) = parts
    model = checkpoint.load_model()
    layer, names = 1, ["model.layers.0.mlp.down_proj.weight"]
    objective = make_objective("rmu", layer=layer, steering=3.0, gamma=1.0, retain_weight=0.7)
    run = Unlearner(model, names, objective, forget, kept, lr=LR, steps=1, batch_size=4, seed=5)

    def states(items):
        found = []
        for item in items:
            ids = torch.tensor([list(item.prompt + item.solution)])
            found.append(model(input_ids=ids, output_hidden_states=True).hidden_states[layer + 1][0])
        return torch.cat(found)

    # The last entry of hidden_states is behind the final norm: the layer's own output is read by a hook instead.
    grabbed = []
    handle = model.model.layers[layer].register_forward_hook(lambda m_, a, o: grabbed.append(o[0]))

    def plain_states(items):
        grabbed.clear()
        states(items)
        return [found if found.ndim == 2 else found[0] for found in grabbed]

    def mean(values):
        return sum(values) / len(values)

    rows = {side: schedule[0] for side, schedule in run.schedules.items()}
    with torch.no_grad():
        norms = torch.cat(plain_states(kept)).norm(dim=1)
        anchors = plain_states([kept[i] for i in rows["retain"]])
    u = torch.rand(32, generator=torch.Generator().manual_seed(5))
    control = 3.0 * norms.median() * u / u.norm()
    weight = dict(model.named_parameters())[names[0]]
    steered = plain_states([forget[i] for i in rows["forget"]])
    forget_loss = mean([(text - control).square().mean() for text in steered])
    retained = plain_states([kept[i] for i in rows["retain"]])
    retain_loss = mean([(a - b).square().mean() for a, b in zip(retained, anchors, strict=True)])
    (gradient,) = torch.autograd.grad(forget_loss + 0.7 * retain_loss, [weight])
    handle.remove()
    record = run.step()
    assert record.forget_loss == pytest.approx(float(forget_loss.detach()), rel=1e-4)
    assert record.retain_loss == pytest.approx(0, abs=1e-9)
    assert record.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-3)
    with pytest.raises(m.MastlensError, match="1 selected tensors lie above layer 0"):
        Unlearner(
            checkpoint.load_model(),
            ["model.layers.1.mlp.up_proj.weight"],
            make_objective("rmu", layer=0),
            forget,
            kept,
            lr=LR,
            steps=1,
        )


def test_a_model_in_bfloat16_learns_in_float32_masters(parts):
    """Steps far below the spacing of bfloat16 add up; without masters none of them would."""
    checkpoint, (forget, _, _) = parts
    model = checkpoint.load_model(dtype=torch.bfloat16)
    before = snapshot(model, SELECTED)
    run = Unlearner(model, SELECTED, make_objective("ga"), forget, lr=1e-6, steps=3, batch_size=4)
    while run.step() is not None:
        pass
    for name, master in run.masters.tensors().items():
        assert master.dtype == torch.float32
        moved = (master - before[name].float()).abs()
        assert 0 < float(moved.max()) < 1e-5
        assert torch.equal(dict(model.named_parameters())[name].detach(), master.to(torch.bfloat16))


def settings(tiny, tmp_path, **changes):
    given = {"objective": "npo", "steps": STEPS, "lr": LR, "batch_size": BATCH, "progress": False, "names": SELECTED}
    return given | {"rlvr": tiny.rlvr, "forget": tiny.forget, "retain": tiny.retain, "out": tmp_path} | changes


@pytest.mark.parametrize("extra", [{}, {"objective": "wga", "token_weights": TokenWeights(every=2)}, "probes"])
def test_killed_at_any_step_and_run_again_gives_the_same_bytes(tiny, tmp_path, monkeypatch, extra):
    if extra == "probes":
        probes = ProbeSettings(
            tiny.forget, tiny.retain, every=2, items=4, max_kl=1e9, max_repetition=1e9, choose="pareto", new_tokens=6
        )
        extra = {"probes": probes, "allow_overlap": True}
    m.unlearn(**settings(tiny, tmp_path / "whole", **extra))
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(resuming, "_SHARE", 0)
    step = Unlearner.step
    for last in (1, 4):  # twice: the second time it begins in the middle

        def dying(self, last=last):
            if self.done == last:
                raise RuntimeError("killed")
            return step(self)

        monkeypatch.setattr(Unlearner, "step", dying)
        with pytest.raises(RuntimeError, match="killed"):
            m.unlearn(**settings(tiny, tmp_path / "torn", **extra))
    taken = []
    monkeypatch.setattr(Unlearner, "step", lambda self: taken.append(self.done) or step(self))
    m.unlearn(**settings(tiny, tmp_path / "torn", **extra))
    assert taken[0] == 4
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "torn").iterdir()} == names  # and no state is left behind
    for name in names - {"run.json"}:
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_state_of_another_run_is_not_taken_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(resuming, "_SHARE", 0)
    step = Unlearner.step
    monkeypatch.setattr(Unlearner, "step", lambda self: step(self) if self.done < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        m.unlearn(**settings(tiny, tmp_path, seed=1))
    monkeypatch.setattr(Unlearner, "step", step)
    with pytest.raises(m.MastlensError, match="unfinished run with other inputs or settings"):
        m.unlearn(**settings(tiny, tmp_path, seed=2))
    taken = []
    monkeypatch.setattr(Unlearner, "step", lambda self: taken.append(self.done) or step(self))
    m.unlearn(**settings(tiny, tmp_path, seed=2, overwrite=True))
    assert taken[0] == 0


def test_ctrl_c_waits_for_the_step_and_keeps_it(tiny, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    step = Unlearner.step

    def interrupted(self):
        if self.done == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Unlearner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        m.unlearn(**settings(tiny, tmp_path / "torn"))
    assert signal.getsignal(signal.SIGINT) is before
    taken = []
    monkeypatch.setattr(Unlearner, "step", lambda self: taken.append(self.done) or step(self))
    m.unlearn(**settings(tiny, tmp_path / "torn"))
    assert taken[0] == 3
    monkeypatch.undo()
    m.unlearn(**settings(tiny, tmp_path / "whole"))
    assert (tmp_path / "torn" / "edit.safetensors").read_bytes() == (
        tmp_path / "whole" / "edit.safetensors"
    ).read_bytes()


def test_probes_against_plain_numbers(tiny, tmp_path):
    probes = ProbeSettings(tiny.forget, tiny.retain, every=4, items=3, max_kl=1e9, max_repetition=1e9, new_tokens=5)
    made = m.unlearn(**settings(tiny, tmp_path, probes=probes, allow_overlap=True))
    looked = made.table.dropna(subset=["retain_probe_kl"])
    assert looked["step"].tolist() == [4, 6]
    assert made.chosen == 6
    source, model = plain.load_model(tiny.rlvr), plain.load_model(tiny.rlvr)
    write_weights(model, made.edit.after)
    items = plain.encode_file(tiny.retain, tiny.rlvr)[:3]
    total = count = 0.0
    with torch.no_grad():
        for prompt, solution in items:
            ids = torch.tensor([prompt + solution])
            p, q = (net(input_ids=ids).logits[0].double().log_softmax(-1) for net in (source, model))
            kl = (p.exp() * (p - q)).sum(-1)[len(prompt) - 1 : -1]
            total, count = total + float(kl.sum()), count + len(solution)
        nll = float(plain.token_mean_nll(model, items))
    assert looked["retain_probe_kl"].iloc[-1] == pytest.approx(total / count, rel=1e-3)
    assert looked["retain_probe_logprob"].iloc[-1] == pytest.approx(-nll, rel=1e-4)


def test_a_guard_stops_and_takes_the_last_step_inside(tiny, tmp_path):
    wild = {"objective": "ga", "lr": 0.2, "all_parameters": True, "names": None, "retain": None}
    probes = ProbeSettings(tiny.forget, tiny.retain, every=1, items=3, max_kl=0.05, max_repetition=1e9, new_tokens=5)
    with pytest.warns(m.MastlensWarning, match=r"Stopped after step 1: KL.*holds step 0"):
        made = m.unlearn(**settings(tiny, tmp_path, probes=probes, allow_overlap=True, **wild))
    assert made.chosen == 0
    assert not made.edit.after
    assert len(made.table) == 1


def look(step, logprob, kl):
    return Look(step, float(logprob), 0.0, kl, 0.0, [])


def test_the_pareto_choice_by_hand():
    looks = [look(0, -1, 0.0), look(1, -3, 0.1), look(2, -2, 0.2), look(3, -3.4, 1.0)]
    front = non_dominated(looks)
    assert [found.step for found in front] == [0, 1, 3]  # step 2 forgets less than step 1 and costs more
    # scaled: (0, 0), (2 / 2.4, 0.1), (1, 1); forgetting minus cost: 0, 0.73, 0
    assert knee(front).step == 1
    assert knee([look(4, -1, 0.5)]).step == 4
    assert knee([look(0, -1, 0.0), look(2, -2, 0.5)]).step == 2  # the source is an extreme and no choice


def test_what_is_not_a_number_breaks_a_guard(tiny, tmp_path, monkeypatch):
    """A comparison with NaN is false: it must not pass for being inside."""
    measure = Prober._measure
    monkeypatch.setattr(
        Prober, "_measure", lambda self: replace(measure(self), retain_kl=float("nan") if self.run.done else 0.0)
    )
    probes = ProbeSettings(tiny.forget, tiny.retain, every=2, items=3, max_kl=1e9, max_repetition=1e9, new_tokens=5)
    with pytest.warns(m.MastlensWarning, match="not a number"):
        made = m.unlearn(**settings(tiny, tmp_path, probes=probes, allow_overlap=True))
    assert made.chosen == 0


def test_a_guard_that_stopped_stays_shut_when_the_run_goes_on(tiny, tmp_path, monkeypatch):
    """Killed after the look that broke a guard, the run must not go past it."""
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(resuming, "_SHARE", 0)
    probes = ProbeSettings(tiny.forget, tiny.retain, every=2, items=3, max_kl=1e-9, max_repetition=1e9, new_tokens=5)
    given = {"probes": probes, "allow_overlap": True}
    choose = editing.choose_step
    monkeypatch.setattr(editing, "choose_step", lambda prober: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        m.unlearn(**settings(tiny, tmp_path, **given))
    monkeypatch.setattr(editing, "choose_step", choose)
    with pytest.warns(m.MastlensWarning, match="Stopped after step 2"):
        made = m.unlearn(**settings(tiny, tmp_path, **given))
    assert len(made.table) == 2


def test_a_last_update_that_breaks_the_model_is_taken_back(parts):
    checkpoint, (forget, _, _) = parts
    model = checkpoint.load_model()
    before = snapshot(model, SELECTED)
    run = Unlearner(model, SELECTED, make_objective("ga"), forget, lr=3e37, steps=1, batch_size=4)
    with pytest.warns(m.MastlensWarning, match=r"last step, 1, give no finite loss.*last good step, 0"):
        assert run.step().step == 1
    assert (run.held, run.step()) == (0, None)
    assert all(bits(tensor) == bits(before[name]) for name, tensor in snapshot(model, SELECTED).items())


def test_a_float32_checkpoint_is_not_rounded_by_a_model_in_bfloat16(tiny, tmp_path):
    """Masters begin at what is stored: a step of next to nothing changes next to nothing."""
    made = m.unlearn(**settings(tiny, tmp_path, dtype="bfloat16", lr=1e-12, steps=1))
    for name, after in made.edit.after.items():
        assert float((after - made.edit.before[name]).abs().max()) < 1e-9


def test_settings_that_would_change_nothing_are_refused(tiny, tmp_path):
    for given, told in (
        ({"beta2": 1.0}, "npo has no beta2"),
        ({"refusals": tiny.forget}, "dpo does"),
        ({"retain": None, "retain_weight": 2.0}, "give --retain"),
    ):
        with pytest.raises(m.MastlensError, match=told):
            m.unlearn(**settings(tiny, tmp_path, **given))


def test_a_tied_matrix_that_is_stored_twice_changes_in_both(tmp_path):
    lineage = write_lineage(tmp_path / "tied")
    path = lineage.rlvr / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    made = m.unlearn(**settings(lineage, tmp_path / "out", names=["model.embed_tokens.weight"], steps=1))
    assert set(made.edit.after) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert torch.equal(*made.edit.after.values())
    everything = m.unlearn(**settings(lineage, tmp_path / "all", names=None, all_parameters=True, steps=1))
    assert torch.equal(*(everything.edit.after[name] for name in made.edit.after))


def test_token_weights_are_told_for_every_forget_token(tiny, tmp_path):
    made = m.unlearn(**settings(tiny, tmp_path, objective="simnpo", token_weights=TokenWeights(every=1)))
    table = made.token_weights
    encoded = plain.encode_file(tiny.forget, tiny.rlvr)
    for item, rows in table.groupby("item"):
        assert rows["token"].tolist() == encoded[item][1]
        assert rows["position"].tolist() == list(range(len(rows)))
    assert table["weight"].between(0, 1).all()
    assert table["weight"].std() > 0
    assert {"text", "logprob"} <= set(table)
    first = int(table["item"].iloc[0])
    html = token_weights_html(table, items=[first])
    assert html.count('<span style="background') == int((table["item"] == first).sum())
    with pytest.raises(m.MastlensError, match="no item 99"):
        token_weights_html(table, items=[99])
    again = m.unlearn(**settings(tiny, tmp_path, objective="simnpo", token_weights=TokenWeights(every=1)))
    assert again.token_weights.equals(table)


def test_overlap_is_counted_and_refused_unless_told(tiny, tmp_path):
    with pytest.raises(m.MastlensError, match=r"12 problems are in both.*--allow-overlap"):
        m.unlearn(**settings(tiny, tmp_path, retain=tiny.forget))
    made = m.unlearn(**settings(tiny, tmp_path, retain=tiny.forget, allow_overlap=True, steps=1))
    assert made.edit.after


def test_refusals(tiny, tmp_path):
    problems = read_problems(tiny.forget)
    drawn = with_refusals(problems, ["No.", "I pass."], seed=3)
    assert {p.solution for p in drawn} == {"No.", "I pass."}
    assert [p.problem for p in drawn] == [p.problem for p in problems]
    assert drawn == with_refusals(problems, ["No.", "I pass."], seed=3)
    assert drawn != with_refusals(problems, ["No.", "I pass."], seed=4)
    (tmp_path / "idk.txt").write_text("No.\n\n  I pass. \n")
    assert read_refusals(tmp_path / "idk.txt") == ["No.", "I pass."]
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "missing.txt"):
        with pytest.raises(m.MastlensError, match=name):
            read_refusals(tmp_path / name)


def test_the_vanishing_share_is_of_half_spacings(tmp_path):
    lineage = write_lineage(tmp_path, dtype="bfloat16")
    checkpoint, name = m.Checkpoint(lineage.rlvr), SELECTED[0]
    stored = checkpoint.tensor(name).float().numpy()
    reach = 2e-4
    spacing = 2.0 ** (np.floor(np.log2(np.abs(stored))) - 7)  # eight bits of significand, one of them implicit
    assert vanishing_share(checkpoint, [name], reach) == pytest.approx(np.mean(spacing / 2 > reach))
    assert 0 < vanishing_share(checkpoint, [name], reach) < 1
