"""Checkpoints of strangers: enormous, damaged or malicious, they are refused at once and by name, or read rightly."""

import json
import os
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mastlens as m
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.export import export
from mastlens.checkpoints.folders import MANIFEST
from tests.reference.test_read_is_loaded import write_adapter

SECONDS = 30


@contextmanager
def within(seconds=SECONDS):
    """Fail, instead of waiting for ever."""

    def late(number, frame):
        raise AssertionError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(call):
    """Return what a call was refused with, in at most so many seconds; empty where it was not."""
    with within():
        try:
            call()
        except m.MastlensError as error:
            return str(error)
    return ""


def told(said):
    """Whether a refusal says something, or there was none."""
    return not said or len(said) > 20


@pytest.fixture
def model(tiny, tmp_path):
    return shutil.copytree(tiny.rlvr, tmp_path / "model")


def edit(path, **changes):
    said = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in (said | changes).items() if v is not ...}))


def looks(folder):
    """What reads a checkpoint without its problems."""
    checkpoint = Checkpoint(folder)
    m.inspect(checkpoint)
    assert checkpoint.behaviour_digest
    checkpoint.load_model()
    checkpoint.load_tokenizer()


COUNTS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "vocab_size")


@pytest.mark.parametrize("number", [10**6 + 10**5, 10**9, 2**63, 10**400], ids=["1e6", "1e9", "2^63", "1e400"])
@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("listed", [True, False], ids=["with layer types", "without"])
def test_more_than_the_files_can_hold_is_refused_at_once(model, key, number, listed):
    edit(model / "config.json", **{key: number}, **({} if listed else {"layer_types": ...}))
    with within(5), pytest.raises(m.MastlensError, match=f"{key} as"):
        Checkpoint(model)


@pytest.mark.parametrize("place", ["text_config", "vision_config"])
def test_and_inside_a_multimodal_configuration(model, place):
    edit(model / "config.json", **{place: {"num_hidden_layers": 10**9}})
    with within(5), pytest.raises(m.MastlensError, match="num_hidden_layers as 1000000000"):
        Checkpoint(model)


FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("file", [*FILES, "model.safetensors.index.json", "adapter_config.json", "chat_template.jinja"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(model, file):
    (model / file).unlink(missing_ok=True)
    os.mkfifo(model / file)
    said = refusal(lambda: looks(model))
    assert told(said) and bool(said) >= (file in ("config.json", "model.safetensors")) and bool(said) <= (file in FILES)


def test_a_pipe_in_place_of_an_adapters_settings(tiny, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", tiny.sft)
    (adapter / "adapter_model.safetensors").unlink()
    os.mkfifo(adapter / "adapter_model.safetensors")
    with within(), pytest.raises(m.MastlensError):
        Checkpoint(adapter)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**9) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KEYS = [
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "model_type",
    "architectures",
    "layer_types",
    "rope_parameters",
    "rope_theta",
    "tie_word_embeddings",
    "quantization_config",
    "dtype",
    "auto_map",
    "attn_implementation",
    "text_config",
    "transformers_weights",
    "sliding_window",
    "hidden_act",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
    "max_position_embeddings",
    "rms_norm_eps",
]


@given(key=st.sampled_from(KEYS), value=JUNK)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_in_a_configuration(tiny, tmp_path_factory, key, value):
    folder = shutil.copytree(tiny.rlvr, tmp_path_factory.mktemp("junk") / "m")
    edit(folder / "config.json", **{key: value})
    assert told(refusal(lambda: looks(folder)))
    shutil.rmtree(folder.parent)


@given(
    file=st.sampled_from([*FILES[:1], *FILES[2:], "model.safetensors.index.json", "chat_template.jinja"]),
    content=st.binary(max_size=40) | JUNK.map(json.dumps).map(str.encode) | st.just(b"[" * 100_000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_content_of_a_file_beside_the_weights(tiny, tmp_path_factory, file, content):
    folder = shutil.copytree(tiny.rlvr, tmp_path_factory.mktemp("junk") / "m")
    (folder / file).write_bytes(content)
    if file == "model.safetensors.index.json":
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert told(refusal(lambda: looks(folder)))
    shutil.rmtree(folder.parent)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_byte_of_a_header(tiny, tmp_path_factory, data):
    folder = shutil.copytree(tiny.rlvr, tmp_path_factory.mktemp("junk") / "m")
    whole = bytearray((folder / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.integers(0, header - 1) | st.integers(0, 7))
    whole[place] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(whole)
    assert told(refusal(lambda: Checkpoint(folder).load_model()))
    shutil.rmtree(folder.parent)


ADAPTER_KEYS = [
    "r",
    "lora_alpha",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "peft_type",
    "base_model_name_or_path",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "init_lora_weights",
    "use_rslora",
    "revision",
    "fan_in_fan_out",
    "modules_to_save",
    "bias",
    "anything",
]


@given(key=st.sampled_from(ADAPTER_KEYS), value=JUNK)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_in_an_adapters_settings(tiny, tmp_path_factory, key, value):
    adapter = write_adapter(tmp_path_factory.mktemp("junk"), tiny.sft, **{key: value})
    assert told(refusal(lambda: Checkpoint(adapter).tensor("model.layers.0.self_attn.q_proj.weight")))
    shutil.rmtree(adapter)


BROKEN = ["{% for", "{{ raise_exception(1) }}", "{{ 1 + messages }}", "{{ 1 / 0 }}", "{{ nothing.at.all }}"]


@pytest.mark.parametrize("template", BROKEN)
def test_a_broken_chat_template_is_refused_by_name(tiny, model, template):
    (model / "chat_template.jinja").write_text(template)
    asked = {"model": model, "splits": {"f": tiny.forget}, "max_new_tokens": 1, "progress": False}
    with within(), pytest.raises(m.MastlensError, match="chat template"):
        m.evaluate(**asked)
    assert len(m.evaluate(**asked, chat_template=False).table)


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "trainer_state.json"])
def test_a_link_out_of_the_folder_is_not_copied(model, tmp_path, name):
    (tmp_path / "key").write_text("PRIVATE")
    (model / name).symlink_to(tmp_path / "key")
    (model / "inside.txt").symlink_to(model / "config.json")
    with pytest.warns(m.MastlensWarning, match=f"{name} is a link to .*key.*left out"):
        out = export(Checkpoint(model), {}, tmp_path / "out")
    assert not (out / name).exists()
    assert (out / "inside.txt").read_bytes() == (model / "config.json").read_bytes()
    assert not any("PRIVATE" in file.read_text(errors="replace") for file in out.iterdir())


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_a_file_that_the_model_needs_is_no_link_out_of_the_folder(model, tmp_path, name):
    (tmp_path / "key").write_text("PRIVATE")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "key")
    with pytest.raises(m.MastlensError, match=f"{name} is a link"):
        export(Checkpoint(model), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_links_of_the_hubs_cache_are_the_checkpoints_own(model, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    out = export(Checkpoint(snapshot), {}, tmp_path / "out")
    written = {f.name: f.read_bytes() for f in out.iterdir() if f.name != MANIFEST}
    assert written == {f.name: f.read_bytes() for f in model.iterdir()}
    assert not any(file.is_symlink() for file in out.iterdir())


def test_weights_named_by_the_configuration_lie_in_the_folder(model, tmp_path):
    (model / "model.safetensors").rename(model / "other.safetensors")
    with pytest.raises(m.MastlensError, match="no weights"):
        Checkpoint(model)
    edit(model / "config.json", transformers_weights="other.safetensors")
    assert torch.equal(Checkpoint(model).load_model().model.norm.weight, Checkpoint(model).tensor("model.norm.weight"))
    for wrong in (
        "../model/other.safetensors",
        "nowhere.safetensors",
        7,
        str(model / "other.safetensors"),
        "config.json",
    ):
        edit(model / "config.json", transformers_weights=wrong)
        with pytest.raises(m.MastlensError, match="as its weights"):
            Checkpoint(model)
