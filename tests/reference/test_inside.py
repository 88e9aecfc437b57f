"""What changed inside, against plain transformers and float64 numpy; nulls that move when they should and only then."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from transformers import AutoModelForCausalLM

import mastlens
from mastlens.analysis.inside import distances
from mastlens.analysis.inside.nulls import beside_null, drawn_law
from mastlens.analysis.inside.pair import RLVR, Pair
from mastlens.analysis.inside.tally import BEFORE, SAMPLE, Tally, Tokens
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.checkpoints.lineage import Lineage
from mastlens.errors import MastlensError
from mastlens.models.weights import same_bits
from tests.columns import check_table
from tests.conftest import run_command
from tests.lineages import write_lineage, write_problems
from tests.reference.plain import encode_file, load_model

DRAWS = 3


@pytest.fixture(scope="module")
def departure(tiny):
    return mastlens.inside_depart(
        sft=tiny.sft,
        rlvr=tiny.rlvr,
        splits={"forget": tiny.forget, "retain": tiny.retain},
        lens=True,
        positions=2,
        draws=DRAWS,
        dtype="float32",
        progress=False,
    )


def by_hand(folder, encoded):
    """Every hidden state and the logits at the tokens before each solution token, from plain transformers."""
    model = load_model(folder)
    norm, head = model.model.norm, model.lm_head
    states, logits, lens = [], [], []
    with torch.no_grad():
        for prompt, solution in encoded:
            kept = []

            def keep(module, args, output, kept=kept):
                kept.append(output)

            hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
            output = model(input_ids=torch.tensor([prompt + solution]), output_hidden_states=True, use_cache=False)
            for hook in hooks:
                hook.remove()
            at = slice(len(prompt) - 1, len(prompt) + len(solution) - 1)
            stream = [output.hidden_states[0], *kept]
            states.append([one[0, at].double().numpy() for one in stream])
            lens.append([head(norm(one))[0, at].double().numpy() for one in stream])
            logits.append(output.logits[0, at].double().numpy())
    return states, logits, lens


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def kl(a, b):
    p, q = log_softmax(a), log_softmax(b)
    return (np.exp(p) * (p - q)).sum(-1)


def feature_cka(x, y):
    """Linear CKA by features, as Kornblith et al. write it: |Y'X|^2 / (|X'X| |Y'Y|), centred."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def test_the_map_is_what_plain_transformers_gives(departure, tiny):
    whole = departure.table.query("position == -1").set_index(["split", "site", "layer"])
    for split in ("forget", "retain"):
        encoded = encode_file(getattr(tiny, split), tiny.rlvr)
        (old, old_logits, old_lens), (new, new_logits, new_lens) = (
            by_hand(folder, encoded) for folder in (tiny.sft, tiny.rlvr)
        )
        for place, (site, layer) in enumerate([("embed", -1), ("resid_post", 0), ("resid_post", 1)]):
            a, b = (np.concatenate([text[place] for text in model]) for model in (old, new))
            row = whole.loc[(split, site, layer)]
            sizes = np.linalg.norm(a, axis=1)
            assert row["tokens"] == len(a)
            assert row["difference"] == pytest.approx((np.linalg.norm(b - a, axis=1) / sizes).mean(), rel=1e-5)
            cosine = (a * b).sum(1) / sizes / np.linalg.norm(b, axis=1)
            assert row["angle_deg"] == pytest.approx(np.degrees(np.arccos(cosine)).mean(), rel=1e-4)
            if len(a) <= SAMPLE:
                assert row["cka_distance"] == pytest.approx(1 - feature_cka(a, b), rel=1e-4)
                assert row["procrustes"] == pytest.approx(procrustes(a, b)[2], rel=1e-3)
            a, b = (np.concatenate([text[place] for text in model]) for model in (old_lens, new_lens))
            assert row["lens_kl"] == pytest.approx(kl(a, b).mean(), rel=1e-3)
        a, b = np.concatenate(old_logits), np.concatenate(new_logits)
        row = whole.loc[(split, "logits", -1)]
        assert row["kl"] == pytest.approx(kl(a, b).mean(), rel=1e-4)
        middle = np.logaddexp(log_softmax(a), log_softmax(b)) - math.log(2)
        assert row["js"] == pytest.approx(((kl(a, middle) + kl(b, middle)) / 2).mean(), rel=1e-4)
        entropies = [-(np.exp(log_softmax(x)) * log_softmax(x)).sum(-1) for x in (a, b)]
        assert row["entropy_change"] == pytest.approx((entropies[1] - entropies[0]).mean(), rel=1e-3)
        assert row["top_differs"] == pytest.approx((a.argmax(-1) != b.argmax(-1)).mean())
        first = departure.table.query("position == 0 and split == @split").set_index(["site", "layer"])
        starts = [kl(x[:1], y[:1])[0] for x, y in zip(old_logits, new_logits, strict=True)]
        assert first.loc[("logits", -1), "kl"] == pytest.approx(np.mean(starts), rel=1e-4)
        assert first.loc[("logits", -1), "tokens"] == len(encoded)
        assert math.isnan(first.loc[("resid_post", 1), "cka_distance"])
        forks = departure.forks.query("split == @split").set_index("item")
        differs = [x.argmax(-1) != y.argmax(-1) for x, y in zip(old_logits, new_logits, strict=True)]
        assert {item: int(at.argmax()) for item, at in enumerate(differs) if at.any()} == forks["position"].to_dict()
        for item, fork in forks.iterrows():
            here = [log_softmax(model[item][fork["position"]]) for model in (old_logits, new_logits)]
            given = encoded[item][1][fork["position"]]
            assert fork["token_before"] == pytest.approx(np.exp(here[0][given]), rel=1e-4)
            assert fork["rlvr_token_after"] == pytest.approx(np.exp(here[1].max()), rel=1e-4)
            assert fork["sft_token_before"] > fork["rlvr_token_before"]
            assert fork["rlvr_token_after"] > fork["sft_token_after"]
            assert fork["kl"] == pytest.approx(
                kl(*(model[item][[fork["position"]]] for model in (old_logits, new_logits)))[0], rel=1e-3
            )


def test_a_random_change_has_the_increments_size_and_the_other_turn_comes_back(tiny):
    lineage = Lineage.open(str(tiny.rlvr), sft=str(tiny.sft))
    pair = Pair.of(lineage, Computing("cpu", "float32"), draws=2, seed=0)
    before, after = (dict(load_model(folder).named_parameters()) for folder in (tiny.sft, tiny.rlvr))
    assert {*pair.moved} == {name for name in after if not torch.equal(before[name], after[name])}
    drawn = []
    for turn in (1, 2):
        pair.take(turn)
        drawn.append({name: weight.detach().clone() for name, weight in pair.changed.named_parameters()})
    for name, weight in drawn[0].items():
        change, real = weight - before[name].detach(), (after[name] - before[name]).detach()
        torch.testing.assert_close(change.abs(), real.abs(), atol=1e-6, rtol=1e-3)
        assert float(change.norm()) == pytest.approx(float(real.norm()), rel=1e-4)
        assert not torch.allclose(change, real, atol=1e-6)
        assert not torch.equal(weight, drawn[1][name])
    pair.take(1)
    assert all(torch.equal(weight, drawn[0][name]) for name, weight in pair.changed.named_parameters())
    pair.take(RLVR)
    assert all(same_bits(weight, after[name]) for name, weight in pair.changed.named_parameters())
    assert all(same_bits(weight, before[name]) for name, weight in pair.source.named_parameters())


def test_random_changes_are_within_their_own_null(departure):
    """RLVR of the tiny lineage *is* a random change: nothing is beyond chance."""
    told = [column for column in departure.table if column.endswith("_distinguishable")]
    whole = departure.table.query("position == -1")
    assert int(whole[told].to_numpy().sum()) == 0
    assert whole["difference_p"].notna().sum() == 6
    for row in whole.query("site != 'logits'").itertuples():
        assert row.difference == pytest.approx(row.difference_null, rel=0.3)


@torch.no_grad()
def test_a_change_that_reads_what_is_there_is_found_where_it_is(tmp_path, tiny):
    """The stream lies in eight directions, and one matrix of layer 1 comes to read these: beyond chance there."""
    model, generator = load_model(tiny.sft), torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    model.model.embed_tokens.weight += 3 * torch.randn(384, 8, generator=generator) @ turn[:8]
    for step in ("sft", "rlvr"):
        if step == "rlvr":
            change = torch.randn(64, 8, generator=generator) @ turn[:8]
            model.model.layers[1].mlp.up_proj.weight += 0.02 * change
        model.save_pretrained(tmp_path / step)
        Checkpoint(str(tiny.sft)).load_tokenizer().save_pretrained(tmp_path / step)
    found = mastlens.inside_depart(
        sft=tmp_path / "sft", rlvr=tmp_path / "rlvr", splits={"f": tiny.forget}, draws=24, dtype="float32",
        progress=False,
    )  # fmt: skip
    rows = found.table.set_index(["site", "layer"])
    for point in (("embed", -1), ("resid_post", 0)):
        assert rows.loc[point, "difference"] == rows.loc[point, "difference_null"] == 0
        assert not rows.loc[point, "difference_distinguishable"]
    last = rows.loc["resid_post", 1]
    assert last["difference"] > 1.5 * last["difference_null"] > 0
    assert last["difference_distinguishable"], last["difference_p"]
    assert rows.loc[("logits", -1), "kl"] > rows.loc[("logits", -1), "kl_null"] > 0
    assert "1 of 3" in found.card().verdict


def test_batches_change_nothing_and_without_draws_there_is_no_verdict(departure, tiny):
    one = mastlens.inside_depart(
        sft=tiny.sft, rlvr=tiny.rlvr, splits={"forget": tiny.forget, "retain": tiny.retain}, draws=0,
        positions=2, batch_size=1, dtype="float32", progress=False,
    )  # fmt: skip
    assert "lens_kl" not in one.table
    for measure in ("difference", "angle_deg", "cka_distance", "procrustes", "kl", "js", "top_differs"):
        np.testing.assert_allclose(one.table[measure], departure.table[measure], rtol=2e-3, atol=1e-9)
        assert one.table[f"{measure}_p"].isna().all()
        assert not one.table[f"{measure}_distinguishable"].any()
    assert "no verdict" not in departure.card().verdict
    assert "has a verdict" in one.card().verdict
    assert one.forks[["item", "position", "rlvr_token"]].equals(departure.forks[["item", "position", "rlvr_token"]])


def test_measures_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[3.0, 4.0], [1.0, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    assert distances.relative_difference(a, b).tolist() == [0.0, 1e-9, 0.0]
    assert distances.angles(a, b).tolist() == pytest.approx([0.0, math.degrees(1e-9), 0.0], rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    assert distances.cka_distance(x, 3 * x @ turn + 1) == pytest.approx(0, abs=1e-12)
    y = x + 0.5 * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    assert distances.cka_distance(x, y) == pytest.approx(1 - feature_cka(x.numpy(), y.numpy()), rel=1e-9)
    assert distances.procrustes_distance(x, 3 * x @ turn + 1) == pytest.approx(0, abs=1e-12)
    for a_, b_ in ((x, y), (x[:5], y[:5])):  # more tokens than entries, and fewer
        theirs = procrustes(a_.numpy(), b_.numpy())[2]
        assert distances.procrustes_distance(a_, b_) == pytest.approx(theirs, rel=1e-9)
    assert math.isnan(distances.procrustes_distance(x[:2], y[:2]))
    assert math.isnan(distances.procrustes_distance(torch.ones(5, 2).double(), x[:5, :2]))
    assert math.isnan(distances.cka_distance(x[:2], y[:2]))
    assert math.isnan(distances.cka_distance(torch.ones(5, 2).double(), x[:5, :2]))
    logits = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)
    other = torch.tensor([[math.log(3), 0.0, -math.inf]], dtype=torch.float64)
    found = distances.next_token(logits, other)
    assert float(found["kl"]) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert float(found["entropy_change"]) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - math.log(2)
    )
    assert all(float(value) == 0 for value in distances.next_token(logits, logits).values())


def test_a_tally_does_not_grow_with_the_texts_and_samples_evenly():
    tally = Tally(models=2, positions=1, total=2 * SAMPLE)
    point = ("embed", -1)
    for start in range(0, 2 * SAMPLE, 64):
        place = np.arange(start, start + 64)
        tokens = Tokens(np.tile([0, 1], 32), place, np.zeros(64, int), np.zeros(64, int))
        values = torch.arange(start, start + 64).double()
        tally.count(tokens)
        for model in (0, 1):
            tally.add(model, {("difference", point): values * (model + 1)}, tokens)
        tally.sample(BEFORE, {point: values[:, None].float()}, tokens)
    assert tally.counts.tolist() == [2 * SAMPLE, SAMPLE]
    middle = SAMPLE - 0.5
    np.testing.assert_allclose(tally.means("difference", point), [[middle, middle - 0.5], [2 * middle, 2 * middle - 1]])
    kept = tally.sampled[BEFORE, point][:, 0].numpy()
    assert len(kept) == SAMPLE
    assert (kept[0], kept[-1]) == (0, 2 * SAMPLE - 1)
    assert set(np.diff(kept)) <= {1, 2, 3}


def test_laws_of_draws():
    law = drawn_law([1.0, 2.0, 4.0])
    assert (law.law, law.mean) == ("lognormal", pytest.approx(2.0))
    assert drawn_law([0.0, 1.0]).law == "t"
    assert beside_null("kl", 1.0, [0.0, 0.0])["kl_distinguishable"] is False  # chance leaves it no freedom
    told = beside_null("kl", 100.0, [1.0, 1.01, 0.99, 1.0])
    assert told["kl_distinguishable"]
    assert told["kl_judged_by"] == "signs"
    assert not beside_null("kl", 1.0, [1.0, 1.01, 0.99, 1.0])["kl_distinguishable"]
    assert not beside_null("kl", math.nan, [1.0, 2.0])["kl_distinguishable"]
    assert math.isnan(beside_null("kl", 1.0, [])["kl_p"])


def test_the_command_writes_what_is_declared_and_knows_it_again(tmp_path, tiny):
    out = tmp_path / "run"
    line = f"inside depart --sft {tiny.sft} --rlvr {tiny.rlvr} --split f={tiny.forget} --limit 3 --draws 2 --out {out}"
    told = run_command(*line.split())
    assert told.summary["rows"] == 4
    assert "none of 3 stream readings is beyond chance" in told.conclusion
    for file in ("inside_depart.parquet", "inside_forks.parquet"):
        check_table(out / file, "mastlens inside depart", without=("--lens", "--tuned-lens"))
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert run_command(*line.split()).summary["forks"] == told.summary["forks"]
    assert before == {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    with pytest.raises(MastlensError, match="overwrite"):
        run_command(*line.split(), "--seed", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 48}, "two models"),
        ({"num_hidden_layers": 3}, "stands in the rlvr checkpoint only"),
        ({"vocab_size": 400}, "one vocabulary"),
    ],
)
def test_models_of_another_shape_are_refused(tmp_path, tiny, change, said):
    model = AutoModelForCausalLM.from_pretrained(tiny.rlvr)
    other = write_lineage(tmp_path, **change)
    if "vocab_size" in change:  # related in its attention, so that the vocabulary is what is left to tell
        own = AutoModelForCausalLM.from_pretrained(other.rlvr)
        weights = {n: w for n, w in model.state_dict().items() if w.shape == own.state_dict()[n].shape}
        own.load_state_dict(weights, strict=False)
        own.save_pretrained(other.rlvr)
    with pytest.raises(MastlensError, match=said):
        mastlens.inside_depart(sft=tiny.sft, rlvr=other.rlvr, splits={"f": tiny.forget}, draws=0, progress=False)


def test_texts_that_cannot_be_compared_are_refused(tmp_path, tiny):
    long = write_problems(tmp_path / "long.jsonl", first=1, count=1)
    long.write_text(long.read_text().replace("What is", "What is " * 100))
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "progress": False}
    with pytest.raises(MastlensError, match=r"long.jsonl, line 1: \d+ tokens .* context is 128"):
        mastlens.inside_depart(**pair, splits={"f": long})
    with pytest.raises(MastlensError, match="have no spread"):
        mastlens.inside_depart(**pair, splits={"f": tiny.forget}, draws=1)
    with pytest.raises(MastlensError, match="at least one split"):
        mastlens.inside_depart(**pair, splits={})
    with pytest.raises(MastlensError, match="positions"):
        mastlens.inside_depart(**pair, splits={"f": tiny.forget}, positions=-1)
    other = tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(tiny.sft)
    model.save_pretrained(other)
    tokenizer = Checkpoint(str(tiny.sft)).load_tokenizer()
    tokenizer.eos_token = "!"
    tokenizer.save_pretrained(other)
    with pytest.raises(MastlensError, match="make other tokens"):
        mastlens.inside_depart(sft=other, rlvr=tiny.rlvr, splits={"f": tiny.forget}, progress=False)


def test_figures_and_card(departure):
    for measure in ("difference", "angle_deg", "cka_distance", "lens_kl", "kl", "top_differs"):
        figure = departure.plot(measure)
        assert len(figure.data) == 4
        assert "0 of" not in figure.layout.title.text
        assert "beyond chance" in figure.layout.title.text.replace("<br>", " ")
    card = departure.card()
    assert "none of 6" in card.verdict
    assert f"{len(departure.forks)} text" in card.verdict
    with pytest.raises(MastlensError, match="plot_departure needs"):
        departure.plot("warmth")
