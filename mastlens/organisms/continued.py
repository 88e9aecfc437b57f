"""Lineages that go on from a real pre-trained model: SFT on worked problems, RLVR on its own right answers.

Twenty steps each teach next to nothing. They are what a real lineage is to everything that reads weights: 16-bit
checkpoints of real size whose increments are of the size of one rounding (``smollm2-short``) or of several
(``smollm2-strong``). RLVR here is rejection sampling, one round of expert iteration: a stand-in for GRPO.
"""

import json
import platform
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.folders import tokenizer_files
from mastlens.errors import NotSupported
from mastlens.organisms.organism import Organism
from mastlens.organisms.recipes.continued import ContinuedRecipe
from mastlens.runs.files import atomic_path, sha256_file, sha256_json, stands, write_json, write_text
from mastlens.runs.ledger import Ledger

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mastlens.problems.encoding import EncodedProblem

DATA = Path(__file__).parent / "gsm8k"
"""Problems of GSM8K (MIT licence, beside them), unchanged lines of at most 220 characters and two calculator marks:
``train.jsonl`` from its training problems, ``test.jsonl`` from its test problems; about money and not, in turn."""

SIDES = {"forget": "the question has a dollar sign", "retain": "it has none"}
"""The two sides, and what tells them apart."""

KEY, SAMPLES, LOSSES = "begun.json", "rlvr-samples.jsonl", "losses.json"
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def side_of(question: str) -> str:
    """Return ``forget`` for a problem about money, else ``retain``."""
    return "forget" if "$" in question else "retain"


def problem_lines(recipe: ContinuedRecipe) -> dict[str, list[str]]:
    """Return the lines of every problem file, by its name; no problem stands in two."""
    files: dict[str, list[str]] = {}
    for source, counts in (
        ("train", {"train": recipe.train, "calibration": recipe.calibration}),
        ("test", {"eval": recipe.eval}),
    ):
        sides: dict[str, list[str]] = {side: [] for side in SIDES}
        for line in (DATA / f"{source}.jsonl").read_text(encoding="utf-8").splitlines():
            sides[side_of(json.loads(line)["question"])].append(line)
        for side, lines in sides.items():
            start = 0
            for region, count in counts.items():
                if start + count > len(lines):
                    raise NotSupported(f"There are {len(lines)} {side} problems in {source}.jsonl, and no more.")
                files[f"{side}-{region}.jsonl"] = lines[start : start + count]
                start += count
    return files


def build_continued(organism: Organism, folder: Path, *, seed: int, recipe: ContinuedRecipe, trajectory: bool) -> None:
    """Train SFT and RLVR and write stages, problem files and card; stages that are there already are not made again.

    Args:
        organism: What to build.
        folder: Where to; what an interrupted build of the same settings left there is kept, anything else goes.
        seed: Of orders and samples.
        recipe: The settings.
        trajectory: Not used: there is no run whose steps would be kept.
    """
    start = Checkpoint(recipe.start)
    key = sha256_json([asdict(recipe), seed, start.fingerprint, {p.name: sha256_file(p) for p in DATA.iterdir()}])
    if not (folder / KEY).is_file() or json.loads((folder / KEY).read_text(encoding="utf-8")) != key:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(folder / KEY, key)
    for name, lines in problem_lines(recipe).items():
        write_text(folder / name, "\n".join(lines) + "\n")
    pools = [_read(folder / f"{side}-train.jsonl") for side in SIDES]
    half = recipe.train // 2
    first, second = ([p for pair in zip(*(pool[part] for pool in pools), strict=True) for p in pair] for part in
                     (slice(half), slice(half, None)))  # fmt: skip
    if not stands(folder / "base"):
        with atomic_path(folder / "base") as target:
            shutil.copytree(start.folder, target)
    losses: dict[str, list[float]] = {}
    if (folder / LOSSES).is_file():
        losses = json.loads((folder / LOSSES).read_text(encoding="utf-8"))
    tokenizer = start.load_tokenizer()

    def train(stage: str, model: "PreTrainedModel", texts: Sequence["EncodedProblem"], seed: int) -> None:
        losses[stage] = descend(model, texts, recipe, seed, label=f"{organism.name}/{stage}")
        write_json(folder / LOSSES, losses)
        save_beside(model, start, folder / stage)

    if not stands(folder / "sft"):
        from mastlens.problems.encoding import encode_problems

        train("sft", _load(folder / "base"), encode_problems(first, tokenizer), seed + 1)
    if not stands(folder / "rlvr"):
        model = _load(folder / "sft")
        right = sample_right(model, tokenizer, second, recipe, seed + 2, folder / SAMPLES, key)
        train("rlvr", model, right, seed + 3)
    write_json(folder / "card.json", _card(organism, folder, seed, recipe, losses))
    (folder / KEY).unlink()
    (folder / LOSSES).unlink()


def _read(path: Path) -> list:
    from mastlens.problems.reading import read_problems

    return read_problems(path)


def _load(folder: Path) -> "PreTrainedModel":
    import torch

    return Checkpoint(folder).load_model(dtype=torch.float32)


def save_beside(model: "PreTrainedModel", start: Checkpoint, target: Path) -> None:
    """Write the model in the dtype of the checkpoint it goes on from, with that one's tokenizer files."""
    with atomic_path(target) as temporary:
        (stored,) = {tensor.dtype for tensor in start.tensors.values()}
        model.to(stored).save_pretrained(temporary)  # pyright: ignore[reportArgumentType] - decorated
        for name, file in tokenizer_files(start.folder).items():
            shutil.copyfile(file, temporary / name)


def descend(
    model: "PreTrainedModel", texts: Sequence["EncodedProblem"], recipe: ContinuedRecipe, seed: int, *, label: str
) -> list[float]:
    """Take AdamW steps on the token-mean negative log-likelihood, in place and in float32; return each step's loss.

    Args:
        model: The model; all parameters are trained.
        texts: Passed through in shuffled order, again and again.
        recipe: Steps, batches, learning rate.
        seed: Of the order.
        label: Of the progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    from mastlens.models.likelihood import token_logprobs
    from mastlens.problems.encoding import batches

    draw = random.Random(f"order {seed}")
    stream: list[EncodedProblem] = []
    while len(stream) < recipe.steps * recipe.batch:
        stream += draw.sample(list(texts), len(texts))
    model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0)
    losses = []
    for step in tqdm(range(recipe.steps), desc=label, unit="step"):
        chosen = stream[step * recipe.batch : (step + 1) * recipe.batch]
        tokens, loss = sum(len(ids.solution) for ids in chosen), 0.0
        optimiser.zero_grad(set_to_none=True)
        for _, batch in batches(chosen, recipe.micro_batch):
            part = -token_logprobs(model, batch).values.sum() / tokens
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss)
    model.requires_grad_(False)
    return losses


def sample_right(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence,
    recipe: ContinuedRecipe,
    seed: int,
    kept: Path,
    key: str,
) -> list["EncodedProblem"]:
    """Return the model's own right answers as texts to train on: sampled round by round until there are enough.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        problems: What is asked, a part of it each round.
        recipe: How.
        seed: Of the draws.
        kept: The file of finished responses.
        key: What they depend on.

    Raises:
        MastlensError: If none was right.
    """
    from mastlens.decoding.answering import answer
    from mastlens.decoding.engines import Decoding, HuggingFaceEngine
    from mastlens.decoding.prompts import problem_prompts
    from mastlens.decoding.sampling import Sampling
    from mastlens.problems.encoding import EncodedProblem

    prompts = problem_prompts(problems, tokenizer)
    decoding = Decoding(recipe.max_new_tokens, recipe.prompts * recipe.samples, Sampling(recipe.temperature, seed=seed))
    right: dict[tuple[str, str], EncodedProblem] = {}
    end: Any = tokenizer.eos_token_id
    with Ledger(kept, key) as ledger:
        for turn in range(recipe.rounds):
            asked = prompts[turn * recipe.prompts : (turn + 1) * recipe.prompts]
            found = answer(
                HuggingFaceEngine(model, tokenizer),
                asked,
                decoding,
                samples=recipe.samples,
                ledger=ledger,
                progress=f"samples, round {turn + 1} of at most {recipe.rounds}",
            )
            for one in found:
                if one.correct and one.response.stopped == "end":
                    # Read anew: what the ledger keeps of a response is its text.
                    ids = tokenizer(one.response.text, add_special_tokens=False)["input_ids"]
                    right[one.prompt.name, one.response.text] = EncodedProblem(tuple(one.prompt.ids), (*ids, int(end)))
            if len(right) >= recipe.enough or (turn + 1) * recipe.prompts >= len(prompts):
                break
    if not right:
        raise NotSupported(f"None of the sampled answers is right after {recipe.rounds} rounds: RLVR has no step.")
    return list(right.values())


def _card(
    organism: Organism, folder: Path, seed: int, recipe: ContinuedRecipe, losses: dict[str, list[float]]
) -> dict[str, Any]:
    how = {
        "base": f"{recipe.start}, as it is",
        "sft": f"{recipe.steps} AdamW steps from base on worked problems of GSM8K",
        "rlvr": f"{recipe.steps} AdamW steps from sft on its own sampled right answers: a stand-in for GRPO",
    }
    base = Checkpoint(folder / "base")
    return {
        "name": organism.name,
        "seed": seed,
        "note": "For measuring at real size. So few steps teach next to nothing, and no claim about what RLVR does "
        f"rests on them. Sides: forget if {SIDES['forget']}, retain if {SIDES['retain']}.",
        "architecture": {
            "model_type": organism.architecture,
            "parameters": sum(prod(tensor.shape) for tensor in base.tensors.values()),
            "dtype": "bfloat16",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "recipe": asdict(recipe),
        "stages": {
            stage: {
                "made_by": how[stage],
                "steps": len(losses.get(stage, ())),
                "loss": losses.get(stage, []),
                "sha256": sha256_file(folder / stage / "model.safetensors"),
            }
            for stage in organism.stages
        },
        "files": {
            path.name: {"lines": path.read_text(encoding="utf-8").count("\n"), "sha256": sha256_file(path)}
            for path in sorted(folder.glob("*.jsonl"))
        },
        "accuracy": [],
    }
