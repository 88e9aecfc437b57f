"""Greedy responses against one prompt at a time, without cache and without padding."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

import mastlens as m

from .plain import encode_file, greedy, load_model, load_tokenizer

LIMIT = 10
COLUMNS = {
    "split", "item", "prompt", "response", "gold", "correct", "correct_strict", "logprob_solution",
    "solution_tokens", "logprob_answer", "answer_tokens", "truncated",
}  # fmt: skip


@pytest.fixture(scope="module")
def ending(tiny, tmp_path_factory):
    """The RLVR checkpoint with the end of sequence made likely, so that some responses end before the limit."""
    folder = tmp_path_factory.mktemp("ending") / "rlvr"
    shutil.copytree(tiny.rlvr, folder)
    tensors = load_file(folder / "model.safetensors")
    frequent = load_tokenizer(folder).encode("\x1d")[0]  # what these weights like to write after a while
    tensors["model.embed_tokens.weight"][0] = 1.05 * tensors["model.embed_tokens.weight"][frequent]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def expected(tiny, ending):
    model, tokenizer = load_model(ending), load_tokenizer(ending)
    return [
        greedy(model, tokenizer, prompt, LIMIT)
        for path in (tiny.forget, tiny.retain)
        for prompt, _ in encode_file(path, ending)
    ]


def responses(tiny, folder, **changes):
    settings = {"max_new_tokens": LIMIT, "progress": False} | changes
    return m.evaluate(model=folder, splits={"forget": tiny.forget, "retain": tiny.retain}, **settings).table


def test_responses_equal_a_loop_over_single_prompts(tiny, ending, expected):
    table = responses(tiny, ending)
    assert set(table.columns) >= COLUMNS
    assert list(table["response"]) == [text for text, _, _ in expected]
    assert list(table["truncated"]) == [cut for _, _, cut in expected]
    assert len({cut for _, _, cut in expected}) == 2  # both ways of ending occur
    assert len({tokens for _, tokens, _ in expected}) > 2  # at different lengths, within one batch
    assert list(table["split"]) == ["forget"] * 12 + ["retain"] * 10
    assert list(table["item"]) == [*range(12), *range(10)]


@pytest.mark.parametrize("batch_size", [1, 3, 22])
def test_batch_size_does_not_matter(tiny, ending, expected, batch_size):
    table = responses(tiny, ending, batch_size=batch_size)
    assert list(table["response"]) == [text for text, _, _ in expected]
    assert list(table["truncated"]) == [cut for _, _, cut in expected]


def test_accuracy_counts_the_table(tiny, ending):
    made = m.evaluate(
        model=ending, splits={"forget": tiny.forget, "retain": tiny.retain}, max_new_tokens=2, progress=False
    )
    accuracy = made.accuracy.set_index("split")
    for split, rows in made.table.groupby("split"):
        assert accuracy.loc[split, "n"] == len(rows)
        assert accuracy.loc[split, "correct"] == rows["correct"].sum()
        assert accuracy.loc[split, "truncated"] == rows["truncated"].sum()


def test_an_edit_changes_the_responses_and_not_the_checkpoint(tiny, ending):
    name = "model.layers.1.self_attn.o_proj.weight"
    before = load_file(ending / "model.safetensors")
    edit = m.unlearn(
        rlvr=ending, forget=tiny.forget, objective="ga", steps=1, lr=0.05, names=[name], progress=False
    ).edit
    plain, edited = responses(tiny, ending), responses(tiny, ending, edit=edit)
    assert list(plain["response"]) != list(edited["response"])
    model = load_model(ending)
    model.get_parameter(name).data.copy_(edit.after[name])
    tokenizer = load_tokenizer(ending)
    for row, (prompt, _) in zip(edited.itertuples(), encode_file(tiny.forget, ending), strict=False):
        assert row.response == greedy(model, tokenizer, prompt, LIMIT)[0]
    after = load_file(ending / "model.safetensors")
    assert all(before[n].equal(after[n]) for n in before)
    assert list(responses(tiny, ending)["response"]) == list(plain["response"])
