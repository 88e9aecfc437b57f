"""vLLM's engine against the one of transformers: what is asked of it, what is made of its answers, what is refused."""

import importlib
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.decoding.engines import Decoding, HuggingFaceEngine, Opening
from mastlens.decoding.engines.vllm import VllmEngine
from mastlens.decoding.generation import Response
from mastlens.decoding.sampling import Sampling
from mastlens.problems.encoding import EncodedProblem
from tests.vllm_stand_in import StandIn


@pytest.fixture
def vllm(monkeypatch):
    package = StandIn()
    for name, part in {
        "": package,
        ".platforms": package.platforms,
        ".sampling_params": package.sampling_params,
    }.items():
        monkeypatch.setitem(sys.modules, f"vllm{name}", part)
    return package


def opened(tiny, **changes):
    checkpoint = Checkpoint(tiny.rlvr)
    return VllmEngine.opened(Opening(checkpoint, checkpoint.load_tokenizer(), **changes))


def evaluated(tiny, **changes):
    settings = {"max_new_tokens": 6, "progress": False, "dtype": "float32", "device": "cpu"} | changes
    return m.evaluate(model=tiny.rlvr, splits={"forget": tiny.forget, "retain": tiny.retain}, **settings)


def test_an_evaluation_is_the_same_through_vllm_which_starts_once_and_holds_the_only_model(tiny, vllm, monkeypatch):
    plain = evaluated(tiny)
    monkeypatch.setattr(Checkpoint, "load_model", lambda *_, **__: pytest.fail("the model is held a second time"))
    served = evaluated(tiny, engine="vllm", batch_size=3, max_model_len=128, enforce_eager=True)
    for column in plain.table:
        if column.startswith("logprob"):
            np.testing.assert_allclose(served.table[column], plain.table[column], rtol=1e-5)
        else:
            assert list(served.table[column]) == list(plain.table[column])
    (started,) = vllm.started
    assert started | {"dtype": "float32", "max_num_seqs": 3, "max_model_len": 128, "enforce_eager": True} == started
    assert started | {"skip_tokenizer_init": True, "generation_config": "vllm", "trust_remote_code": False} == started
    assert vllm.ended == 1
    assert served.settings == plain.settings | {"engine": "vllm", "max_model_len": 128, "enforce_eager": True}


def test_a_text_of_any_length_is_measured_token_by_token(tiny, vllm):
    rng = np.random.default_rng(0)
    texts = [
        EncodedProblem(tuple(rng.integers(1, 200, 5).tolist()), tuple(rng.integers(1, 200, size).tolist()))
        for size in (1, 7, 2, 0)
    ]
    with opened(tiny) as engine, HuggingFaceEngine.opened(engine._opening) as plain:
        found = engine.logprobs(texts, batch_size="auto")
        np.testing.assert_allclose(found, plain.logprobs(texts, batch_size=1), rtol=1e-5)
    assert found[3] == 0
    assert [len(prompt) for prompt, _ in vllm.requests] == [5, 11, 6]  # one token less than the text: it is written


def test_what_ends_a_response_is_told_to_vllm_and_left_out_of_its_text(tiny, vllm):
    with opened(tiny) as engine:
        handed = {}
        first, second = [5, 6, 7], [9]
        whole = Decoding(max_new_tokens=9)
        engine.respond([first, second], whole, names=["a", "b"], finished=handed.__setitem__)
        assert {response.stopped for response in handed.values()} == {"length"}
        third = handed[0].ids[2]
        engine.ends = (third,)
        at = handed[0].ids.index(third)
        engine.respond([first], whole, names=["a"], finished=handed.__setitem__)
        text = engine.tokenizer.decode(list(handed[0].ids[:at]))
        assert handed[0] == Response(text, at + 1, "end")
        assert handed[0].ids[-1] == third
        with pytest.raises(m.MastlensError, match="128 tokens and there is room for 128"):
            engine.respond([[1] * 128], whole, names=["a"], finished=handed.__setitem__)
        drawing = Decoding(sampling=Sampling(0.7, 0.9, 4), max_new_tokens=2)
        engine.respond([first, second], drawing, names=["a", "b"], finished=handed.__setitem__)
    drawn = [parameters for _, parameters in vllm.requests[-2:]]
    assert {(one.temperature, one.top_p, one.max_tokens) for one in drawn} == {(0.7, 0.9, 2)}
    assert len({one.seed for one in drawn}) == 2
    assert max(one.seed for one in drawn) < 2**63
    assert all(one.temperature == 0 and one.seed is None for _, one in vllm.requests[:-2])


def test_a_response_ends_at_its_answer(tiny, vllm):
    with opened(tiny) as engine:
        ids = engine.tokenizer(r"so \boxed{7} and more", add_special_tokens=False)["input_ids"]
        cut = engine._response(ids, True, False)
        assert (cut.text, cut.stopped) == (r"so \boxed{7}", "answer")
        assert cut.ids == tuple(ids[: cut.tokens])
        assert engine._response(ids, True, True).stopped == "length"  # still thinking
        assert engine._response(ids, False, False).text == r"so \boxed{7} and more"


def test_nothing_runs_on_and_no_variable_stays_whatever_happens(tiny, vllm):
    before = dict(os.environ)
    with opened(tiny):
        pass
    assert vllm.started == []  # nothing was asked: it need not start

    def interrupted():
        with opened(tiny) as engine:
            assert engine.llm is engine.llm
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (len(vllm.started), vllm.ended) == (1, 1)
    vllm.fails = ValueError("No available memory for the cache blocks.")
    with pytest.raises(m.MastlensError, match=r"does not start on .* No available memory .*--max-model-len"):
        evaluated(tiny, engine="vllm")
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def edit(tiny):
    return m.negate(sft=tiny.sft, rlvr=tiny.rlvr, where="layers.1.self_attn.[qv]_proj")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made; nothing is to be left in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_an_edit_goes_in_while_vllm_loads_and_no_second_checkpoint_is_written(tiny, vllm, edit, temporary, monkeypatch):
    plain = evaluated(tiny, edit=edit)
    monkeypatch.setattr("mastlens.decoding.serving.export", lambda *_, **__: pytest.fail("a second checkpoint"))
    served, unedited = evaluated(tiny, edit=edit, engine="vllm"), evaluated(tiny, engine="vllm")
    np.testing.assert_allclose(served.table["logprob_solution"], plain.table["logprob_solution"], rtol=1e-5)
    assert list(served.table["response"]) == list(plain.table["response"])
    assert list(served.table["logprob_solution"]) != list(unedited.table["logprob_solution"])
    assert [one["model"] for one in vllm.started] == [str(Checkpoint(tiny.rlvr).folder)] * 2
    assert vllm.started[0]["worker_extension_cls"] == "mastlens.decoding.vllm_weights.ReadBack"
    assert "load_format" not in vllm.started[1]
    assert vllm.ended == 2


@pytest.mark.parametrize("why", ["a version without it", "a weight that is another", "a defect"])
def test_where_vllm_does_not_take_an_edit_a_temporary_folder_does(tiny, vllm, edit, temporary, why):
    plain = evaluated(tiny, edit=edit)
    vllm.loads_changes = why != "a version without it"
    vllm.held_otherwise = [min(edit.after)] if why == "a weight that is another" else []
    if why == "a defect":
        vllm.fails = RuntimeError("no")
        with pytest.warns(m.MastlensWarning), pytest.raises(m.MastlensError, match="does not start"):
            evaluated(tiny, edit=edit, engine="vllm")
        return
    with pytest.warns(m.MastlensWarning, match=r"\(.*(not supported|was not found in it again)\).* a temporary folder"):
        served = evaluated(tiny, edit=edit, engine="vllm")
    np.testing.assert_allclose(served.table["logprob_solution"], plain.table["logprob_solution"], rtol=1e-5)
    assert vllm.started[-1]["model"] != str(Checkpoint(tiny.rlvr).folder)
    assert vllm.ended == len(vllm.started)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tensor_parallel_size": 2}, "'transformers' has no setting tensor_parallel_size .--tensor-parallel-size"),
        ({"gpu_memory_utilization": 0.5}, "one of --engine vllm"),
        ({"enforce_eager": True}, "--enforce-eager"),
        ({"engine": "vllm", "tensor_parallel_size": 0}, "at least 1"),
        ({"engine": "vllm", "gpu_memory_utilization": 1.5}, "a share above 0, at most 1"),
        ({"engine": "vlm"}, "vllm"),
    ],
)
def test_settings_of_an_engine_are_refused_where_it_has_none_of_them(tiny, vllm, settings, said):
    with pytest.raises(m.MastlensError, match=said):
        evaluated(tiny, **settings)
    assert vllm.started == []


def test_a_device_that_this_vllm_was_not_built_for_is_refused(tiny, vllm):
    vllm.platforms.current_platform.device_type = "cuda"
    with pytest.raises(m.MastlensError, match=r"--device cpu: this vLLM was built for cuda\. Use --device cuda"):
        evaluated(tiny, engine="vllm")
    assert vllm.started == []


def test_without_vllm_the_message_says_so(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(m.MastlensError, match="pip install"):
        evaluated(tiny, engine="vllm")


@pytest.fixture
def inside(monkeypatch):
    """The module that runs inside vLLM, beside a loader that reads two tensors."""

    class Loader:
        def __init__(self, load_config):
            assert (load_config.load_format, load_config.model_loader_extra_config) == ("auto", {"num_threads": 1})

        def get_all_weights(self, model_config, model):
            yield from {"a.weight": torch.zeros(2, 2), "b.weight": torch.ones(2)}.items()

    loaders = SimpleNamespace(DefaultModelLoader=Loader, register_model_loader=lambda name: lambda loader: loader)
    monkeypatch.setitem(sys.modules, "vllm.model_executor.model_loader", loaders)
    monkeypatch.delitem(sys.modules, "mastlens.decoding.vllm_weights", raising=False)
    yield importlib.import_module("mastlens.decoding.vllm_weights")
    del sys.modules["mastlens.decoding.vllm_weights"]


def test_weights_change_on_their_way_into_vllm_and_none_is_passed_over(inside, tmp_path):
    def loaded(**changes):
        save_file(changes, tmp_path / "changes")
        extra = {"changes": str(tmp_path / "changes"), "num_threads": 1}
        asked = SimpleNamespace(load_format="mastlens", model_loader_extra_config=extra)
        found = dict(inside.ChangedLoader(asked).get_all_weights(None, None))
        assert asked.load_format == "mastlens"  # what others hold is left alone
        return {name: value.flatten().tolist() for name, value in found.items()}

    assert loaded(**{"a.weight": torch.full((2, 2), 7.0)}) == {"a.weight": [7.0] * 4, "b.weight": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"reads no tensor c\.weight"):
        loaded(**{"c.weight": torch.zeros(1)})


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_worker_holds_is_read_back_whole_in_part_and_packed(inside, tmp_path, rank, packed):
    torch.manual_seed(0)
    whole = {f"0.{p}.weight": torch.randn(rows, 12).bfloat16() for p, rows in (("q", 8), ("k", 4), ("v", 4), ("o", 12))}
    whole |= {"0.q.bias": torch.randn(8).bfloat16(), "0.norm.weight": torch.randn(12).bfloat16()}
    share = {name: value.chunk(2)[rank] for name, value in whole.items()}
    layers = {
        "qkv": torch.cat([share["0.q.weight"], share["0.k.weight"], share["0.v.weight"]]),
        "o": whole["0.o.weight"].chunk(2, dim=1)[rank],  # of a row-parallel layer, columns
    }

    def layer(weight, sizes):
        built = torch.nn.Module()
        built.weight = torch.nn.Parameter(torch.empty(0) if packed else weight, requires_grad=False)
        built.output_partition_sizes, built.input_size_per_partition = sizes, weight.shape[1]
        built.params_dtype = weight.dtype
        built.quant_method = SimpleNamespace(apply=lambda layer, x, bias: x @ weight.T)
        return built

    block, model = torch.nn.Module(), torch.nn.Module()
    block.qkv, block.o = layer(layers["qkv"], [4, 2, 2]), layer(layers["o"], [12])
    block.qkv.bias = torch.nn.Parameter(torch.cat([share["0.q.bias"], torch.zeros(4).bfloat16()]), requires_grad=False)
    block.norm = torch.nn.LayerNorm(12)
    block.norm.weight = torch.nn.Parameter(whole["0.norm.weight"], requires_grad=False)
    model.add_module("0", block)
    model.packed_modules_mapping = {"qkv": ["q", "k", "v"]}
    worker = inside.ReadBack()
    worker.model_runner = SimpleNamespace(get_model=lambda: model)

    def otherwise(changes):
        save_file({name: value.contiguous() for name, value in changes.items()}, tmp_path / "changes")
        return worker.held_otherwise(str(tmp_path / "changes"))

    assert otherwise(whole) == []
    for name, value in whole.items():
        other = value.clone()
        own = other.chunk(2, dim=1 if name == "0.o.weight" else 0)[rank]
        own.view(torch.int16)[(0,) * own.dim()] ^= 1  # the last bit of one entry
        assert otherwise(whole | {name: other}) == [name]
    assert otherwise({"0.experts.3.up.weight": torch.zeros(2, 2)}) == ["0.experts.3.up.weight"]
