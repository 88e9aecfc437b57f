"""The problem sets of MAST's protocol, drawn from MATH and GSM8K.

Forget = Counting & Probability, Geometry and Number Theory of MATH, 150; retain = the other subjects, 200, and GSM8K,
256. Which 150 is not published; here a seed decides.
"""

from collections.abc import Sequence
from pathlib import Path

from mastlens.errors import BadFile, BadSetting
from mastlens.evaluation.benchmarks import ProblemFiles, draw_problems, prompted, read_benchmark, write_problems
from mastlens.evaluation.settings import MastBenchmarksSettings
from mastlens.problems.reading import Problem
from mastlens.runs.calls import takes
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
SIZES = {"forget": 150, "retain-math": 200, "retain-gsm": 256}
"""Problems of each split in the paper."""


@takes(MastBenchmarksSettings)
def mast_benchmarks(settings: MastBenchmarksSettings) -> ProblemFiles:
    """Write the problem sets of MAST into ``out``.

    ``forget-eval``, ``retain-math-eval`` and ``retain-gsm-eval`` come from the test sets. With training sets there
    are also ``*-calibration`` and ``*-train`` of the same subjects; a problem that stands in an eval file is left out.
    Worked examples are drawn from the training set of the same benchmark. See ``read_benchmark`` for what a source is
    and ``prompted`` for the prompts.

    Raises:
        MastlensError: If a source lacks problems or names.
    """
    style, shots, seed = settings.style, settings.shots, settings.seed
    trains = {"math": settings.math_train, "gsm": settings.gsm8k_train}
    if settings.out is None:
        raise BadSetting("The sets need a folder to be written to: out (--out).")
    if shots and None in trains.values():
        raise BadSetting("Worked examples come from training sets: give --math-train and --gsm8k-train.")
    test = {"math": read_benchmark(settings.math), "gsm": read_benchmark(settings.gsm8k)}
    train = {key: [] if path is None else read_benchmark(path, split="train") for key, path in trains.items()}
    sizes = {"forget": settings.forget, "retain-math": settings.retain_math, "retain-gsm": settings.retain_gsm}
    splits: dict[str, list[Problem]] = {}
    for name, size in sizes.items():
        benchmark = "gsm" if name == "retain-gsm" else "math"
        eval_pool, train_pool = mast_pool(test[benchmark], name), mast_pool(train[benchmark], name)
        splits[f"{name}-eval"] = draw_problems(eval_pool, size, seed=seed, name=f"{name}-eval")
        if train_pool:
            seen = {p.problem for p in test[benchmark]}
            fresh = [p for p in train_pool if p.problem not in seen]
            chosen = draw_problems(fresh, settings.calibration, seed=seed, name=f"{name}-calibration")
            splits[f"{name}-calibration"] = chosen
            taken = {p.problem for p in chosen}
            splits[f"{name}-train"] = [p for p in fresh if p.problem not in taken]
    for name, problems in splits.items():
        examples = train["gsm" if name.startswith("retain-gsm") else "math"]
        splits[name] = prompted(problems, style=style, shots=shots, examples=examples, seed=seed)
    drawn = {**sizes, "calibration": settings.calibration, "style": style, "shots": shots, "seed": seed}
    files = {name: f"{name}.jsonl" for name in splits}
    inputs = {
        f"{part}-{key}": sha256_json([[p.problem, p.solution, p.answer] for p in problems])
        for part, of in (("test", test), ("train", train))
        for key, problems in of.items()
        if problems
    }
    with stage(
        settings.out,
        "mast",
        outputs=list(files.values()),
        inputs=inputs,
        settings=drawn,
        command=settings,
        overwrite=settings.overwrite,
    ) as current:
        if not current.done:
            for name, problems in splits.items():
                write_problems(current.folder / files[name], problems)
    return ProblemFiles.of({name: Path(settings.out) / file for name, file in files.items()}, splits, drawn)


def mast_pool(problems: Sequence[Problem], name: str) -> list[Problem]:
    """Return the problems that a split of MAST is drawn from.

    Args:
        problems: Those of MATH, or of GSM8K.
        name: ``forget``, ``retain-math`` or ``retain-gsm``.

    Raises:
        MastlensError: If no problem of MATH names its subject.
    """
    if name == "retain-gsm":
        return list(problems)
    if problems and not {p.subject for p in problems} & set(MATH_SUBJECTS):
        raise BadFile(
            f"None of the {len(problems)} problems names a subject of MATH under 'subject' or 'type' "
            f"({', '.join(MATH_SUBJECTS)}); without it, what to forget cannot be told from what to keep."
        )
    return [p for p in problems if (p.subject in FORGET_SUBJECTS) == (name == "forget")]
