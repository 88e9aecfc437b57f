r"""The metrics of open-unlearning on the items of ``tests/data/metrics``: the numbers that ours are held against.

    git clone https://github.com/locuslab/open-unlearning
    git -C open-unlearning checkout d3d7cf9e6b3c125d16687d4232680d8d83548f1a
    python -m benchmarks.metrics_open_unlearning open-unlearning

Its metric functions, attacks and collator are imported from the checkout and called as they are; what stands in for
what they import beside (``SHIMS``) is made here at run time. Token ids are ours: both read the same.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.evaluation.metrics.items import read_items
from mastlens.evaluation.metrics.reading import EncodedItems, encode_items
from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.files import sha256_file, write_json
from mastlens.runs.stages import versions

COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
MODEL, REFERENCE = "organism:qwen2/rlvr", "organism:qwen2/sft"
ITEMS = Path(__file__).parents[1] / "tests" / "data" / "metrics"
FILE = ITEMS / "open_unlearning.json"
SPLITS = ("forget", "holdout", "retain", "real", "world")
SHIMS = (
    "empty packages `evals`, `evals.metrics` and `data` stand in for their `__init__.py`, which import lm_eval, hydra",
    "`omegaconf.OmegaConf.to_container` returns the dictionary that it is given",
)
BATCH, NEW_TOKENS, K = 3, 24, (0.2, 0.4)


def open_checkout(checkout: Path) -> Any:
    """Make the checkout's metrics importable, and return its module of memorisation.

    Raises:
        SystemExit: If there is no such checkout.
    """
    source = checkout / "src"
    if not (source / "evals" / "metrics" / "memorization.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of open-unlearning: it has no src/evals/metrics/memorization.py.")
    for name, folder in (("evals", "evals"), ("evals.metrics", "evals/metrics"), ("data", "data")):
        package = ModuleType(name)
        package.__path__ = [str(source / folder)]
        sys.modules[name] = package
    sys.modules["data"].get_datasets = sys.modules["data"].get_collators = None  # type: ignore[attr-defined]
    omegaconf = ModuleType("omegaconf")
    omegaconf.OmegaConf = type("OmegaConf", (), {"to_container": staticmethod(lambda given, resolve: dict(given))})  # type: ignore[attr-defined]
    sys.modules["omegaconf"] = omegaconf
    return importlib.import_module("evals.metrics.memorization")


def row(text: EncodedProblem, index: int) -> dict[str, Any]:
    """Return a text as its data sets hold it."""
    ids = torch.tensor(text.prompt + text.solution)
    labels = ids.clone()
    labels[: len(text.prompt)] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "index": index}


def answers(encoded: EncodedItems) -> list[dict[str, Any]]:
    """Return the answers of a split."""
    return [row(texts[0], index) for index, texts in enumerate(encoded.texts)]


def paraphrased(encoded: EncodedItems) -> list[dict[str, Any]]:
    """Return the paraphrased answers of a split, or its answers where it has none."""
    pairs = zip(encoded.items.items, encoded.texts, strict=True)
    return [row(texts[1 if item.paraphrased else 0], index) for index, (item, texts) in enumerate(pairs)]


def perturbed(encoded: EncodedItems) -> list[dict[int, dict[str, Any]]]:
    """Return the wrong answers of a split."""
    pairs = zip(encoded.items.items, encoded.texts, strict=True)
    return [
        {place: row(text, index) for place, text in enumerate(texts[1 + bool(item.paraphrased) :])}
        for index, (item, texts) in enumerate(pairs)
    ]


def asked(encoded: EncodedItems) -> list[dict[str, Any]]:
    """Return the prompts of a split, as it generates from them."""
    rows = []
    for index, texts in enumerate(encoded.texts):
        ids = torch.tensor(texts[0].prompt)
        whole = torch.tensor(texts[0].prompt + texts[0].solution)
        rows.append({"input_ids": ids, "labels": whole, "attention_mask": torch.ones_like(ids), "index": index})
    return rows


def measured(checkout: Path) -> dict[str, Any]:
    """Return what its metrics say of the model, with a reference model beside it."""
    memorisation = open_checkout(checkout)
    collators = importlib.import_module("data.collators")
    privacy = importlib.import_module("evals.metrics.privacy")
    utility = importlib.import_module("evals.metrics.utility")
    attack = importlib.import_module("evals.metrics.mia.utils").mia_auc
    checkpoint, other = Checkpoint(MODEL), Checkpoint(REFERENCE)
    tokenizer = checkpoint.load_tokenizer()
    model, reference = (Computing().load(one) for one in (checkpoint, other))
    sets = [read_items(split, ITEMS / f"{split}.jsonl") for split in SPLITS]
    encoded = {one.items.split: one for one in encode_items(sets, tokenizer)}
    right = collators.DataCollatorForSupervisedDataset(tokenizer, "right", "index")
    left = collators.DataCollatorForSupervisedDataset(tokenizer, "left", "index")

    def call(metric: Any, of: Any, data: Any = None, **more: Any) -> dict[str, Any]:
        return metric._metric_fn(of, data=data, collators=right, batch_size=BATCH, **more)

    def ratios(of: Any, split: str, aggregator: str) -> dict[str, Any]:
        sides = {"correct": paraphrased(encoded[split]), "wrong": perturbed(encoded[split])}
        made = {side: call(memorisation.probability, of, data) for side, data in sides.items()}
        return call(memorisation.truth_ratio, of, pre_compute=made, aggregator=aggregator)

    def area(of: Any, name: str, kind: str, **more: Any) -> dict[str, Any]:
        kind_of = getattr(importlib.import_module(f"evals.metrics.mia.{name}"), kind)
        data = {split: answers(encoded[split]) for split in ("forget", "holdout")}
        return attack(kind_of, of, data, right, 1 if name == "gradnorm" else BATCH, **more)  # as its configurations do

    found: dict[str, Any] = {}
    nine: dict[str, Any] = {}
    for split in SPLITS:
        one = encoded[split]
        probability = call(memorisation.probability, model, answers(one))
        options = call(
            memorisation.probability_w_options,
            model,
            pre_compute={"correct": probability, "wrong": call(memorisation.probability, model, perturbed(one))},
        )
        said = {}
        for kind in ("rouge1_recall", "rougeL_recall", "rougeL_f1"):
            made = memorisation.rouge._metric_fn(
                model,
                tokenizer=tokenizer,
                data=asked(one),
                collators=left,
                batch_size=BATCH,
                generation_args={"max_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True},
                rouge_type=kind,
            )
            values = made["value_by_index"]
            said[kind] = {"items": [values[i][kind] for i in sorted(values)], "value": made["agg_value"]}
            generations = [values[i]["generation"] for i in sorted(values)]
        by_aggregator = {
            name: ratios(model, split, name) for name in ("closer_to_1_better", "true_better", "prob_mean")
        }
        found[split] = {
            "probability": _told(probability, "prob"),
            "probability-with-options": _told(options, "prob"),
            "rouge": said,
            "generations": generations,
            "truth-ratio": {name: _told(one, "score") for name, one in by_aggregator.items()},
            "exact-memorisation": _told(call(memorisation.exact_memorization, model, answers(one)), "score"),
            "extraction-strength": _told(call(memorisation.extraction_strength, model, answers(one)), "score"),
        }
        if split not in ("forget", "holdout"):
            nine[f"{split} probability"] = probability if split == "retain" else options
            nine[f"{split} rouge"] = {"agg_value": said["rougeL_recall"]["value"]}
            nine[f"{split} truth-ratio"] = by_aggregator["true_better"]
    areas = {
        "mia-loss": area(model, "loss", "LOSSAttack"),
        "mia-zlib": area(model, "zlib", "ZLIBAttack", tokenizer=tokenizer),
        "mia-reference": area(model, "reference", "ReferenceAttack", reference_model=reference),
        **{f"min-k:k={k:g}" if k != K[0] else "min-k": area(model, "min_k", "MinKProbAttack", k=k) for k in K},
        "min-k++": area(model, "min_k_plus_plus", "MinKPlusPlusAttack", k=K[0]),
        "mia-gradnorm": area(model.requires_grad_(True), "gradnorm", "GradNormAttack", p=2),
    }
    model.requires_grad_(False)
    of_reference = {
        "truth-ratio": ratios(reference, "forget", "closer_to_1_better"),
        "min-k:k=0.4": area(reference, "min_k", "MinKProbAttack", k=K[1]),
    }
    logs = {name: {"retain_model_logs": {"retain": value}} for name, value in of_reference.items()}
    ratio, least = ratios(model, "forget", "closer_to_1_better"), areas["min-k:k=0.4"]
    return {
        "splits": found,
        "membership": {
            name: {
                **{
                    split: [
                        made[split]["value_by_index"][str(i)]["score"]
                        for i in range(len(made[split]["value_by_index"]))
                    ]
                    for split in ("forget", "holdout")
                },
                "auc": made["auc"],
            }
            for name, made in areas.items()
        },
        "forget-quality": call(
            privacy.ks_test, model, pre_compute={"forget": ratio}, reference_logs=logs["truth-ratio"]
        )["agg_value"],
        "privleak": call(
            privacy.privleak, model, pre_compute={"forget": least}, reference_logs=logs["min-k:k=0.4"], ref_value=0.5
        )["agg_value"],
        "privleak without a reference": call(
            privacy.privleak, model, pre_compute={"forget": least}, reference_logs=None, ref_value=0.5
        )["agg_value"],
        "model-utility": call(utility.hm_aggregate, model, pre_compute=nine)["agg_value"],
    }


def _told(made: Mapping[str, Any], key: str) -> dict[str, Any]:
    values = made["value_by_index"]
    return {"items": [values[i][key] for i in sorted(values)], "value": made["agg_value"]}


def plain(value: Any) -> Any:
    """Return numbers as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return float(value) if isinstance(value, np.floating | float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("checkout", type=Path, help="folder of open-unlearning at the commit above")
    checkout = parser.parse_args(arguments).checkout
    record = {
        "source": "https://github.com/locuslab/open-unlearning",
        "commit": COMMIT,
        "made_by": "python -m benchmarks.metrics_open_unlearning CHECKOUT",
        "shims": list(SHIMS),
        "versions": {
            name: version for name, version in versions().items() if name in ("torch", "transformers", "numpy")
        },
        "model": MODEL,
        "reference": REFERENCE,
        "new_tokens": NEW_TOKENS,
        "items": {split: sha256_file(ITEMS / f"{split}.jsonl") for split in SPLITS},
    }
    write_json(FILE, plain(record | measured(checkout)))
    print(json.dumps({"wrote": FILE.name}))


if __name__ == "__main__":
    main()
