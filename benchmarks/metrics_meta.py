"""Which metric of unlearning to believe, on models of which it is known whether they have what was to be forgotten.

After OpenUnlearning's meta-evaluation (arXiv:2506.12618), on the shipped lineage, where RLVR taught the forget side or
did not. *Faithfulness*: the area under the curve that tells models that solve the forget problems from models that do
not. *Robustness*: whether a metric of an unlearned model rises when the model is fine-tuned a little on other problems
of the forget side, beyond what it rises of a model that never had it, and when its weights are rounded to 4 bits.

    python -m benchmarks.metrics_meta
"""

import argparse
import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import mastlens
from benchmarks.common import interleaved, surroundings, table, version_line, write_results
from mastlens.attacks.formats import find_format
from mastlens.attacks.quantising import quantise
from mastlens.attacks.relearning import relearning_steps
from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.engines import Decoding
from mastlens.evaluation.metrics.items import ItemSet, MetricItem
from mastlens.evaluation.metrics.measuring import MetricScores, measure_metrics
from mastlens.evaluation.metrics.reading import encode_items
from mastlens.evaluation.metrics.tables import Measured
from mastlens.evaluation.responses import evaluate_model
from mastlens.models.likelihood import sequence_logprobs
from mastlens.models.weights import swapped
from mastlens.organisms import lineage_folder
from mastlens.problems.encoding import encode_problems
from mastlens.problems.reading import Problem, read_problems
from mastlens.statistics import auc_functional, auc_interval

WITH, WITHOUT = ("base", "rlvr"), ("sft", "rlvr-retain")
"""Stages that solve the forget problems, and stages that do not; the accuracies below say how far."""
REFERENCE = "rlvr-retain"
NAMES = (
    *("probability", "probability-with-options", "rouge", "truth-ratio", "exact-memorisation", "extraction-strength"),
    *("mia-loss", "mia-zlib", "mia-reference", "min-k", "min-k++", "mia-gradnorm", "privleak", "forget-quality"),
)
FALLING = ("closer-to-1", "percent", "ks-p", "ks-log10-p")
"""Aggregates that are lower where there is more knowledge."""
TOKENS = 56


def items_of(problems: Sequence[Problem]) -> tuple[MetricItem, ...]:
    """Return problems with wrong answers: the last number of the working and the box moved by as much."""
    found = []
    for problem in problems:
        wrong = []
        for by in (1, 2, 5):
            moved = str(int(problem.answer) + by)
            text = re.sub(r"\\boxed\{.*\}", lambda _, moved=moved: rf"\boxed{{{moved}}}", problem.solution)
            wrong.append(re.sub(rf"\b{re.escape(problem.answer)}\b(?=[^\d]*\\boxed)", moved, text))
        found.append(MetricItem(problem, rf"The answer is \boxed{{{problem.answer}}}.", tuple(wrong)))
    return tuple(found)


def whole_numbers(name: str, count: int, skip: int = 0) -> list[Problem]:
    """Return problems of the lineage with a whole number for an answer."""
    problems = read_problems(lineage_folder("qwen2") / f"{name}.jsonl")
    return [one for one in problems if re.fullmatch(r"\d+", one.answer)][skip : skip + count]


@contextmanager
def disturbed(model: Any, scale: float, seed: int) -> Iterator[None]:
    """Within, every weight matrix has noise of ``scale`` times its root mean square; after it, its own bits again."""
    generator, kept = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and scale:
            kept[name] = parameter.detach().clone()
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise * parameter.square().mean().sqrt() * scale)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data.copy_(kept[name])


class Meter:
    """Measures models on the same items.

    Args:
        count: Items of each of the two splits.
    """

    def __init__(self, count: int):
        self.tokenizer = Checkpoint("organism:qwen2/rlvr").load_tokenizer()
        problems = {"forget": whole_numbers("forget-train", count), "holdout": whole_numbers("forget-eval", count)}
        self.problems = problems
        self.sets = {name: ItemSet(name, items_of(own), f"{name} of the lineage") for name, own in problems.items()}
        self.reference: Measured | None = None

    def measure(self, model: Any) -> tuple[dict[str, float], MetricScores]:
        """Return metric and aggregate to the number, accuracy among them, and all of it."""
        said = evaluate_model(
            model,
            self.tokenizer,
            self.problems,
            Decoding(TOKENS, 64),
            solution_logprob=False,
            progress=False,
        )
        responses = {name: said.loc[said["split"] == name, "response"].tolist() for name in self.sets}
        names = [
            name for name in NAMES if self.reference is not None or name not in ("mia-reference", "forget-quality")
        ]
        scores = measure_metrics(
            model,
            self.tokenizer,
            self.sets,
            names,
            responses=responses,
            reference=self.reference,
            batch_size=64,
            progress=False,
        )
        rows = scores.table[scores.table["split"].str.startswith("forget")]
        values = {f"{row.metric} {row.aggregate}": float(row.value) for row in rows.itertuples()}
        return {"accuracy": float(said.loc[said["split"] == "forget", "correct"].mean())} | values, scores


def load(stage: str) -> Any:
    """Return a stage of the lineage."""
    return Computing().load(Checkpoint(f"organism:qwen2/{stage}"))


def rising(name: str) -> int:
    """Return 1 where a number is higher with more knowledge, else -1."""
    return -1 if name.split()[-1] in FALLING else 1


def relearnt(model: Any, meter: Meter, steps: int) -> Any:
    """Return a copy of a model that was fine-tuned on other problems of the forget side."""
    other = copy.deepcopy(model)
    problems = encode_problems(whole_numbers("forget-train", 64, skip=64), meter.tokenizer)
    for _ in relearning_steps(other, problems, lr=3e-4, steps=steps, batch_size=8):
        pass
    return other.requires_grad_(False)


@torch.no_grad()
def rounded(model: Any) -> Any:
    """Return a copy of a model whose matrices in the blocks went through NF4."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if parameter.ndim == 2 and "layers" in name:
            parameter.copy_(quantise(parameter, find_format("nf4")).weight)
    return other


def robustness(meter: Meter, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return model to state to its numbers: unlearned and never learnt, as they are, relearnt and rounded."""
    source = load("rlvr")
    files = {side: lineage_folder("qwen2") / f"{side}-train.jsonl" for side in ("forget", "retain")}
    edit = mastlens.unlearn(
        rlvr="organism:qwen2/rlvr",
        where="layers",
        forget=files["forget"],
        retain=files["retain"],
        objective="npo",
        steps=12,
        lr=1e-3,
        progress=False,
    ).edit
    found = {}
    with swapped(source, edit.after):
        models = {"unlearned": source, "never learnt": load(REFERENCE)}
        for name, model in models.items():
            states = {"as it is": model, "relearnt": relearnt(model, meter, steps), "4 bits": rounded(model)}
            found[name] = {state: meter.measure(one)[0] for state, one in states.items()}
    return found


def times(meter: Meter, model: Any, rounds: int = 3) -> dict[str, float]:
    """Return seconds of a generation, of one pass over every text, and of all metrics but those with gradients."""
    encoded = encode_items(meter.sets.values(), meter.tokenizer)
    texts = [text for one in encoded for item in one.texts for text in item]
    said = {name: ["some words"] * len(one.items) for name, one in meter.sets.items()}
    arms = {
        "generation": lambda: evaluate_model(
            model, meter.tokenizer, meter.problems, Decoding(TOKENS, 64), solution_logprob=False, progress=False
        ),
        "one pass": lambda: sequence_logprobs(model, texts, batch_size=64),
        "metrics": lambda: measure_metrics(
            model,
            meter.tokenizer,
            meter.sets,
            [name for name in NAMES if name != "mia-gradnorm"],
            responses=said,
            reference=meter.reference,
            batch_size=64,
            progress=False,
        ),
    }
    found = {arm: float(np.median(each)) for arm, each in interleaved(arms, rounds).items()}
    return found | {"ratio": (found["generation"] + found["metrics"]) / (found["generation"] + found["one pass"])}


def judged(with_it: list[dict[str, float]], without: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return name to the area that tells models with the knowledge from models without it, and its interval."""
    found = {}
    for name in with_it[0]:
        low, high = ([rising(name) * one[name] for one in side] for side in (without, with_it))
        area = auc_functional(low, high)
        interval = auc_interval(area)
        found[name] = {"auc": area.value, "ci_low": interval.low, "ci_high": interval.high}
    return found


def kept(states: Mapping[str, Mapping[str, Mapping[str, float]]], name: str) -> dict[str, float]:
    """Return how far a number stands an attack, 0 to 1, after arXiv:2506.12618; NaN where nothing is to be told.

    Relearning: the rise of the model that never had it over that of the unlearned one. Rounding: the unlearned model's
    number over that after it, for numbers above 0.
    """
    sign = rising(name)
    own, other = states["unlearned"], states["never learnt"]
    rise = sign * (own["relearnt"][name] - own["as it is"][name])
    usual = sign * (other["relearnt"][name] - other["as it is"][name])
    before, after = own["as it is"][name], own["4 bits"][name]
    return {
        "relearning": min(1.0, max(0.0, usual / rise)) if rise > 0 else 1.0,
        "rounding": min(1.0, before / after) if sign > 0 and before > 0 and after > 0 else math.nan,
        "unlearned": before,
        "relearnt": own["relearnt"][name],
        "rounded": after,
    }


def as_page(result: Mapping[str, Any]) -> list[str]:
    """Return the page of a result."""
    n = result["models"]
    lines = [
        "# Which metric to believe",
        "",
        f"The shipped lineage (0.9 M parameters): {n} models that solve the forget problems ({', '.join(WITH)}, each "
        f"with {result['draws']} draws of noise in its weights, {result['noise']:g} of their root mean square) and {n} "
        f"that do not ({', '.join(WITHOUT)}, likewise); {result['items']} forget problems and as many of a holdout. "
        "All descend from one training run. Accuracy on the forget problems: "
        + "; ".join(f"{stage} {low:.2f} to {high:.2f}" for stage, (low, high) in result["accuracy"].items())
        + ".",
        "",
        "Faithfulness: the area under the curve that tells the two kinds apart by the metric; 0.5 is chance, below it "
        "the metric points the wrong way. Robustness to relearning (fine-tuning an unlearned model on other forget "
        "problems) and to 4-bit rounding: 1 where it does not move more than it should, 0 where it was fooled; one "
        "model each.",
        "",
        f"Command: `{result['command']}`",
    ]
    rows = [
        (
            f"`{row['name']}`",
            f"{_cell(row['auc'])} [{_cell(row['ci_low'])}, {_cell(row['ci_high'])}]",
            *(_cell(row[key]) for key in ("relearning", "rounding", "unlearned", "relearnt", "rounded")),
        )
        for row in result["metrics"]
    ]
    header = ("metric", "faithfulness", "relearning", "4 bits", "unlearned", "relearnt", "rounded")
    took = result["seconds"]
    said = (
        f"All of them but the gradient norm took {took['metrics']:.2f} s beside a generation of "
        f"{took['generation']:.2f} s and {took['one pass']:.2f} s of one pass over every text (medians of three rounds "
        f"in turns): {took['ratio']:.2f} times generation and one pass."
    )
    return [*lines, *table(header, rows), "", said, "", version_line(result)]


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--draws", type=int, default=3, help="models of each stage; the first has no noise")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=10, help="of relearning")
    asked = parser.parse_args(arguments)
    meter = Meter(asked.items)
    _, scores = meter.measure(load(REFERENCE))
    meter.reference = Measured(Path(REFERENCE), scores.table, scores.values, scores.items)
    sides: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    accuracy: dict[str, tuple[float, float]] = {}
    for side, stages in (("with", WITH), ("without", WITHOUT)):
        for stage in stages:
            model, own = load(stage), []
            for draw in range(asked.draws):
                with disturbed(model, asked.noise if draw else 0.0, draw):
                    own.append(meter.measure(model)[0])
                print(json.dumps({"stage": stage, "draw": draw, "accuracy": own[-1]["accuracy"]}), flush=True)
            accuracy[stage] = (min(one["accuracy"] for one in own), max(one["accuracy"] for one in own))
            sides[side] += own
    areas = judged(sides["with"], sides["without"])
    states, seconds = robustness(meter, asked.steps), times(meter, load("rlvr"))
    rows = [{"name": name, **area, **kept(states, name)} for name, area in areas.items()]
    ordered = pd.DataFrame(rows).sort_values(["auc", "relearning"], ascending=False, kind="stable")
    result = {
        "command": f"python -m benchmarks.metrics_meta --items {asked.items} --draws {asked.draws} "
        f"--noise {asked.noise:g} --steps {asked.steps}",
        **surroundings(),
        "items": asked.items,
        "draws": asked.draws,
        "noise": asked.noise,
        "models": len(sides["with"]),
        "accuracy": accuracy,
        "metrics": ordered.replace({np.nan: None}).to_dict("records"),
        "states": states,
        "seconds": seconds,
        "values": sides,
    }
    write_results(asked.out, "metrics_meta", result, as_page(result))


if __name__ == "__main__":
    main()
