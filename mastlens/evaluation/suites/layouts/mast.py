"""MAST: MATH and GSM8K, of which three subjects are to be forgotten."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

from mastlens.evaluation.benchmarks import draw_problems, prompted
from mastlens.evaluation.protocol import SIZES, mast_pool
from mastlens.evaluation.suites.sources import Place, Source
from mastlens.evaluation.suites.suite import Record, SplitFile, Suite, choice_of
from mastlens.problems.reading import Problem, parse_problem

_MATH = ("math/{}", "math500/{}", "MATH-500/{}")
_GSM = ("gsm8k/{}",)


@dataclass(frozen=True, kw_only=True)
class Mast(Suite):
    """The problem sets of MAST."""

    name: ClassVar[str] = "mast"
    summary: ClassVar[str] = (
        "competition problems of three subjects to forget, those of the others and of school to keep"
    )
    hub: ClassVar[tuple[str, ...]] = ("HuggingFaceH4/MATH-500", "openai/gsm8k")
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "forget 150, retain 200 of MATH and 256 of GSM8K"
    asks: ClassVar[str] = "accuracy, log p(solution) and log p(answer), as `evaluate` has them; and `choices` on MMLU"
    source: ClassVar[str] = "arXiv:2606.19222"
    note: ClassVar[str] = (
        "A folder with math/test (or math500/test) and gsm8k/test; math/train and mmlu/test are taken where they are "
        "there. Which 150 problems the paper took is not published: a seed draws them, and all count where there are "
        "fewer. Without math/train, what is unlearned is what is asked."
    )

    def read(self, source: Source, part: str) -> Iterator[SplitFile]:
        """Yield what is evaluated, what is trained on, and MMLU where it is there."""
        source.folder("MAST is drawn from two, MATH and GSM8K")
        math, gsm = _problems(source, "math", _MATH, "test"), _problems(source, "gsm8k", _GSM, "test")
        asked = {name: _drawn(gsm if name == "retain-gsm" else math, name) for name in SIZES}
        for name, problems in asked.items():
            yield SplitFile(name, _records(problems))
        train = _problems(source, "math", _MATH, "train", needed=False)
        seen = {one.problem for one in math}
        fresh = [one for one in train if one.problem not in seen]
        taken = _drawn(fresh, "forget") if fresh else asked["forget"]
        yield SplitFile("forget-train", _records(taken), "unlearn --forget")
        rows = source.optional_table(Place("mmlu", "test", ("mmlu/test",)))
        if rows is not None:
            yield SplitFile("mmlu-choices", [choice_of(row) for row in rows], "choices --questions")


def _problems(source: Source, config: str, files: tuple[str, ...], split: str, *, needed: bool = True) -> list[Problem]:
    place = Place(config, split, tuple(file.format(split) for file in files))
    rows = source.table(place) if needed else source.optional_table(place) or []
    return [parse_problem(row.where, number, dict(row.record)) for number, row in enumerate(rows, start=1)]


def _drawn(problems: list[Problem], name: str) -> list[Problem]:
    """Return as many problems of a split as the paper has, or all where there are fewer."""
    pool = mast_pool(problems, name)
    return draw_problems(pool, min(SIZES[name], len(pool)), seed=0, name=f"{name}-eval")


def _records(problems: list[Problem]) -> list[Record]:
    return [
        {key: value for key, value in asdict(one).items() if key != "line" and value not in ("", 0)}
        for one in prompted(problems)
    ]
