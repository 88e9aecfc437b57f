"""Settings of the commands on benchmarks of unlearning."""

from dataclasses import dataclass

from mastlens.runs.settings import JUDGE, FilePath, Settings, Writing, setting


def _listed() -> list[str]:
    from mastlens.evaluation.suites.catalogue import suite_lines

    return suite_lines()


@dataclass(frozen=True, kw_only=True)
class ListBenchmarksSettings(Settings):
    """Settings of ``benchmarks list``."""

    command, group = "benchmarks list", JUDGE
    summary = "benchmarks of unlearning that can be read: licence, size, what they ask for"
    example = "benchmarks list"
    function = "mastlens.evaluation.suites.converting:list_benchmarks"
    then = "benchmarks convert NAME SOURCE --out sets"


@dataclass(frozen=True, kw_only=True)
class ConvertBenchmarkSettings(Writing):
    """Settings of ``benchmarks convert``."""

    command, group = "benchmarks convert", JUDGE
    summary = "a benchmark of unlearning as problem files"
    example = "benchmarks convert tofu TOFU --part forget10 --out sets"
    function = "mastlens.evaluation.suites.converting:convert_benchmark"
    then = "evaluate --model MODEL --split forget={out}/forget.jsonl --metrics probability --out before"

    name: str = setting("the benchmark", positional=True, metavar="NAME", listing=_listed)
    source: FilePath = setting(
        "a folder laid out as its dataset on the hub, or that dataset (OWNER/NAME[@REVISION])",
        positional=True,
        metavar="SOURCE",
    )
    part: str | None = setting("one of its parts, e.g. forget05 of tofu, bio of wmdp (the first)", None, metavar="PART")
    limit: int | None = setting("only the first rows of each table", None, metavar="N")
