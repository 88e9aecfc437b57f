"""The token view against plain transformers, log_softmax and numbers computed by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mastlens.analysis.tokens import token_differences, token_texts
from mastlens.errors import MastlensError
from mastlens.models.distributions import solution_tokens
from mastlens.plots.tokens import plot_token_differences, plot_token_entropy, token_text_html
from mastlens.problems.encoding import EncodedProblem
from mastlens.statistics import mean_interval

from .plain import encode_file, load_model, load_tokenizer


@pytest.fixture(scope="module")
def found(tiny):
    return token_differences(
        base=tiny.base,
        sft=tiny.sft,
        rlvr=tiny.rlvr,
        splits={"forget": tiny.forget, "retain": tiny.retain},
        batch_size=5,
        progress=False,
    )


@pytest.fixture(scope="module")
def plain(tiny):
    """(role, split, item) to (log-probabilities, entropies) of the solution tokens, float64, no batch, no padding."""
    scores = {}
    for role in ("base", "sft", "rlvr"):
        model = load_model(getattr(tiny, role))
        for split in ("forget", "retain"):
            for item, (prompt, solution) in enumerate(encode_file(getattr(tiny, split), tiny.rlvr)):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([prompt + solution])).logits[0].double()
                table = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
                picked = table[torch.arange(len(solution)), torch.tensor(solution)]
                entropy = -(table.exp() * table).sum(dim=-1)
                scores[role, split, item] = picked.numpy(), entropy.numpy()
    return scores


def test_every_token_agrees_with_plain_log_softmax(found, plain):
    pairs = {"sft": ("base", "sft"), "rlvr": ("sft", "rlvr")}
    assert set(found.table["increment"]) == set(pairs)
    seen = 0
    for (increment, split, item), part in found.table.groupby(["increment", "split", "item"]):
        before, after = (plain[role, split, item] for role in pairs[increment])
        assert part["position"].tolist() == list(range(len(before[0])))
        assert np.allclose(part["logprob_before"], before[0], atol=2e-5)
        assert np.allclose(part["logprob_after"], after[0], atol=2e-5)
        assert np.allclose(part["difference"], after[0] - before[0], atol=4e-5)
        assert np.allclose(part["entropy_before"], before[1], atol=2e-5)
        seen += len(part)
    assert seen == len(found.table) == 2 * sum(len(v[0]) for (role, _, _), v in plain.items() if role == "rlvr")
    sizes = found.table.groupby("increment")["difference"].std()
    assert sizes["sft"] > 2 * sizes["rlvr"]  # the steps of the fixture differ by a factor of 4


def test_summary_by_hand(found):
    for row in found.summary.itertuples():
        part = found.table[(found.table["increment"] == row.increment) & (found.table["split"] == row.split)]
        if row.entropy_quantile:
            part = part[part["entropy_quantile"] == row.entropy_quantile]
        d = part["difference"].tolist()
        assert row.tokens == len(d)
        assert row.items == len(set(part["item"]))
        assert row.mean == pytest.approx(sum(d) / len(d))
        assert row.median == pytest.approx(np.median(d))
        assert row.fraction_above == pytest.approx(sum(x > 1e-6 for x in d) / len(d))
        assert row.fraction_above + row.fraction_zero + row.fraction_below == pytest.approx(1)
        assert row.ci_low < row.mean < row.ci_high
        assert (row.entropy_low, row.entropy_high) == (part["entropy_before"].min(), part["entropy_before"].max())
    assert set(found.summary["entropy_quantile"]) == set(range(6))


def test_entropy_quantiles_are_equal_parts_of_all_tokens(found):
    for _, part in found.table.groupby("increment"):
        counts = part["entropy_quantile"].value_counts()
        assert sorted(counts.index) == [1, 2, 3, 4, 5]
        assert counts.max() - counts.min() <= 1 + len(part) // 50
        ends = part.groupby("entropy_quantile")["entropy_before"].agg(["min", "max"])
        assert (ends["max"].to_numpy()[:-1] < ends["min"].to_numpy()[1:]).all()


def test_batch_size_does_not_matter_and_neither_does_the_base(tiny, found):
    for size in (1, 64):
        other = token_differences(
            sft=tiny.sft,
            rlvr=tiny.rlvr,
            splits={"forget": tiny.forget, "retain": tiny.retain},
            batch_size=size,
            progress=False,
        ).table
        expected = found.table[found.table["increment"] == "rlvr"].reset_index(drop=True)
        assert other["token"].tolist() == expected["token"].tolist()
        assert np.allclose(other["difference"], expected["difference"], atol=2e-5)
        assert np.allclose(other["entropy_before"], expected["entropy_before"], atol=2e-5)


def test_pieces_join_to_the_solution(tiny, found):
    tokenizer = load_tokenizer(tiny.rlvr)
    for item, (_, solution) in enumerate(encode_file(tiny.forget, tiny.rlvr)):
        t = found.table
        part = t[(t["increment"] == "rlvr") & (t["split"] == "forget") & (t["item"] == item)]
        assert "".join(part["token"]) == tokenizer.decode(solution)
        assert part["token"].tolist()[-1] == "<|endoftext|>"


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_of_any_text_join(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_texts(ids, tokenizer)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny.rlvr)


def test_entropy_by_hand():
    """A model with two constant logits out of three known ones: entropies of (1/2, 1/4, 1/4) and of certainty."""
    from types import SimpleNamespace

    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()

    class Constant(torch.nn.Module):
        device = torch.device("cpu")

        def get_output_embeddings(self):
            return None

        def get_input_embeddings(self):
            return torch.nn.Embedding(2, 1)

        def forward(self, input_ids, attention_mask, use_cache):
            return SimpleNamespace(logits=logits[None].expand(len(input_ids), -1, -1))

    model = Constant()
    # Three tokens: the first is the prompt; the logits at positions 0 and 1 predict the two others.
    logits = torch.cat([logits, logits[:1]])
    (values,), (entropies,) = solution_tokens(model, [EncodedProblem((0,), (1, 0))])
    assert values.tolist() == pytest.approx([np.log(0.25), 0.0])
    assert entropies.tolist() == pytest.approx([1.5 * np.log(2), 0.0])


def test_interval_counts_items_not_tokens():
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(40), 50)
    within = rng.normal(size=40)[items]  # every token of an item has the item's value
    clustered = mean_interval(within, clusters=items)
    alone = mean_interval(within)
    assert (clustered.high - clustered.low) > 4 * (alone.high - alone.low)  # sqrt(50) = 7.1 in the long run
    expected = 2 * 1.96 * np.std(within[::50]) / 40**0.5
    assert clustered.high - clustered.low == pytest.approx(expected, rel=0.1)
    assert mean_interval(within, clusters=items) == clustered


def test_written_read_back_and_refused(tiny, tmp_path):
    asked = {"sft": tiny.sft, "rlvr": tiny.rlvr, "splits": {"f": tiny.forget}, "progress": False}
    first = token_differences(**asked, out=tmp_path / "run")
    again = token_differences(**asked, out=tmp_path / "run")
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.summary, again.summary)
    assert set(first.table["increment"]) == {"rlvr"}
    with pytest.raises(MastlensError, match="other"):
        token_differences(**{**asked, "quantiles": 3}, out=tmp_path / "run")
    with pytest.raises(MastlensError, match="nothing before RLVR"):
        token_differences(rlvr=tiny.rlvr, splits={"f": tiny.forget})
    with pytest.raises(MastlensError, match="no texts"):
        token_differences(sft=tiny.sft, rlvr=tiny.rlvr, splits={})


def test_figures_show_both_increments(found):
    fig = plot_token_differences(found.table)
    assert {trace.name for trace in fig.data} >= {"forget", "retain"}
    assert found.plot().to_json() == fig.to_json()
    assert len(plot_token_entropy(found.summary).data) >= 4
    assert found.plot_entropy().layout.title.text


def test_text_is_escaped_and_coloured_by_sign():
    table = pd.DataFrame(
        {
            "increment": "rlvr",
            "split": "s",
            "item": 0,
            "position": [0, 1, 2, 3],
            "token": ["<script>alert(1)</script>", " up\n", ' "down"', "\u202eflat"],
            "logprob_before": [-1.0, -1.0, -1.0, -1.0],
            "logprob_after": [-1.0, -0.5, -1.5, -1.0],
            "difference": [0.0, 0.5, -0.5, 0.0],
            "entropy_before": 1.0,
        }
    )
    html = token_text_html(table)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "\u202e" not in html
    colours = [part.split("background:")[1].split(";")[0] for part in html.split("<span")[1:] if "title=" in part]
    assert len(colours) == 4
    assert colours[0] == colours[3] != colours[1] != colours[2]
    assert token_text_html(table.assign(difference=-table["difference"])) != html
    with pytest.raises(MastlensError, match="no item 7"):
        token_text_html(table, items=[7])
    with pytest.raises(MastlensError, match="increment"):
        token_text_html(table, increment="sft")
