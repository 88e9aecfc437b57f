"""The problem sets of MAST's protocol, drawn from MATH and GSM8K.

Forget = Counting & Probability, Geometry and Number Theory of MATH, 150; retain = the other subjects, 200, and GSM8K,
256. Which 150 is not published; here a seed decides.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mastlens.errors import BadSetting, MastlensError
from mastlens.evaluation.benchmarks import draw_problems, prompted, read_benchmark, write_problems
from mastlens.problems.reading import Problem
from mastlens.runs.files import sha256_json
from mastlens.runs.stages import stage

MATH_SUBJECTS = (
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
)
FORGET_SUBJECTS = ("Counting & Probability", "Geometry", "Number Theory")


@dataclass(frozen=True)
class Benchmark:
    """Problem files that were written.

    Attributes:
        files: Split to its file.
        table: One row a split and subject: ``split``, ``subject``, ``n``.
        settings: What they were drawn by.
    """

    files: Mapping[str, Path]
    table: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)


def write_mast(
    *,
    math: str | os.PathLike[str],
    gsm8k: str | os.PathLike[str],
    out: str | os.PathLike[str],
    math_train: str | os.PathLike[str] | None = None,
    gsm8k_train: str | os.PathLike[str] | None = None,
    forget: int = 150,
    retain_math: int = 200,
    retain_gsm: int = 256,
    calibration: int = 150,
    style: str = "boxed",
    shots: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> Benchmark:
    """Write the problem sets of MAST into ``out``.

    ``forget-eval``, ``retain-math-eval`` and ``retain-gsm-eval`` come from the test sets. With training sets there
    are also ``*-calibration`` and ``*-train`` of the same subjects; a problem that stands in an eval file is left out.

    Args:
        math: MATH's test set (see ``read_benchmark``).
        gsm8k: GSM8K's test set.
        out: Folder for the files.
        math_train: MATH's training set.
        gsm8k_train: GSM8K's training set.
        forget: Problems of the forget subjects.
        retain_math: Problems of the other subjects.
        retain_gsm: Problems of GSM8K.
        calibration: Problems of each calibration file.
        style: Of the prompts (see ``prompted``).
        shots: Worked examples in each prompt, drawn from the training set of the same benchmark.
        seed: Of every draw.
        overwrite: Replace files drawn from something else.

    Raises:
        MastlensError: If a source lacks problems or names.
    """
    trains = {"math": math_train, "gsm": gsm8k_train}
    if shots and (math_train is None or gsm8k_train is None):
        raise BadSetting("Worked examples come from training sets: give --math-train and --gsm8k-train.")
    test = {"math": read_benchmark(math), "gsm": read_benchmark(gsm8k)}
    train = {key: [] if path is None else read_benchmark(path, split="train") for key, path in trains.items()}
    sizes = {"forget": forget, "retain-math": retain_math, "retain-gsm": retain_gsm}
    splits: dict[str, list[Problem]] = {}
    for name, size in sizes.items():
        benchmark = "gsm" if name == "retain-gsm" else "math"
        eval_pool, train_pool = _pool(test[benchmark], name), _pool(train[benchmark], name)
        splits[f"{name}-eval"] = draw_problems(eval_pool, size, seed=seed, name=f"{name}-eval")
        if train_pool:
            seen = {p.problem for p in test[benchmark]}
            fresh = [p for p in train_pool if p.problem not in seen]
            chosen = draw_problems(fresh, calibration, seed=seed, name=f"{name}-calibration")
            splits[f"{name}-calibration"] = chosen
            taken = {p.problem for p in chosen}
            splits[f"{name}-train"] = [p for p in fresh if p.problem not in taken]
    for name, problems in splits.items():
        examples = train["gsm" if name.startswith("retain-gsm") else "math"]
        splits[name] = prompted(problems, style=style, shots=shots, examples=examples, seed=seed)
    settings = {**sizes, "calibration": calibration, "style": style, "shots": shots, "seed": seed}
    files = {name: f"{name}.jsonl" for name in splits}
    inputs = {
        f"{part}-{key}": sha256_json([[p.problem, p.solution, p.answer] for p in problems])
        for part, of in (("test", test), ("train", train))
        for key, problems in of.items()
        if problems
    }
    with stage(
        out, "mast", outputs=list(files.values()), inputs=inputs, settings=settings, overwrite=overwrite
    ) as current:
        if not current.done:
            for name, problems in splits.items():
                write_problems(current.folder / files[name], problems)
    table = pd.DataFrame([{"split": name, "subject": p.subject} for name, ps in splits.items() for p in ps])
    counts = table.groupby(["split", "subject"], sort=False).size().reset_index(name="n")
    return Benchmark({name: Path(out) / file for name, file in files.items()}, counts, settings)


def _pool(problems: Sequence[Problem], name: str) -> list[Problem]:
    """Return the problems that a split of MAST is drawn from."""
    if name == "retain-gsm":
        return list(problems)
    if problems and not {p.subject for p in problems} & set(MATH_SUBJECTS):
        raise MastlensError(
            f"None of the {len(problems)} problems names a subject of MATH under 'subject' or 'type' "
            f"({', '.join(MATH_SUBJECTS)}); without it, what to forget cannot be told from what to keep."
        )
    return [p for p in problems if (p.subject in FORGET_SUBJECTS) == (name == "forget")]
