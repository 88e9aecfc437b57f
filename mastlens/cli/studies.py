"""The commands that run whole studies."""

import argparse

from mastlens.cli.options import add_out, path_help
from mastlens.cli.outcome import Outcome, device_of, show
from mastlens.errors import BadSetting, NotFound

_READ = ("forget", "retain", "cot", "questions", "utility", "maths", "facts")
_SHARED = {"where": str, "layer": int, "steps": int, "lr": float, "steering": float, "retain_weight": float}


def add_studies(command) -> None:
    """Add run and reasoning-table."""
    whole = command("run", run, "a whole study from one file; run again, it continues where it stopped")
    whole.add_argument("study", metavar="STUDY", help="a TOML file, or organism:NAME for a shipped study")
    whole.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make arms (default 1)")
    add_out(whole, required=False)
    table = command("reasoning-table", run_reasoning, "R2MU's table: every method and seed, judged")
    table.add_argument("--organism", action="store_true", help="organism:think, its files and its settings")
    table.add_argument("--model", metavar="PATH", help=path_help("the reasoning model"))
    table.add_argument("--reference", metavar="PATH", help=path_help("a model that never learnt it"))
    helps = {
        "forget": "texts to forget",
        "retain": "texts to keep",
        "cot": "problems with chains of thought to keep",
        "questions": "multiple choice about what is to be forgotten",
        "utility": "multiple choice about what is kept",
        "maths": "problems whose solving is kept",
        "facts": "facts.json of the rule judge",
    }
    for name in _READ:
        table.add_argument(f"--{name}", metavar="FILE", help=helps[name])
    for name, kind in _SHARED.items():
        table.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help="of all methods alike")
    table.add_argument("--methods", nargs="+", metavar="NAME", help="rows (default: all)")
    table.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds a method, from --seed on (default 3)")
    add_out(table)


def run_reasoning(arguments: argparse.Namespace) -> Outcome:
    """Make R2MU's table."""
    from mastlens.studies.reasoning import METHODS, ReasoningStudy, organism_study, reasoning_table, with_settings

    if arguments.seeds < 1:
        raise BadSetting(f"--seeds is at least 1, it is {arguments.seeds}.")
    given = {name: getattr(arguments, name) for name in ("model", "reference", *_READ, *_SHARED)}
    if not arguments.organism:
        missing = [f"--{name}" for name in ("model", *_READ) if given[name] is None]
        if missing:
            raise NotFound(f"{', '.join(missing)}: missing. Or take the shipped lineage: --organism.")
        study = ReasoningStudy(**{key: value for key, value in given.items() if value is not None})
    else:
        study = with_settings(organism_study(), **given)
    result = reasoning_table(
        study,
        out=arguments.out,
        methods=arguments.methods or tuple(METHODS),
        seeds=range(arguments.seed, arguments.seed + arguments.seeds),
        device=device_of(arguments),
        overwrite=arguments.overwrite,
        progress=not arguments.json,
    )
    columns = ["label", "seeds", "fa_ua", "rt_ua", "avg_ua", "forget_accuracy", "maths", "utility", "utility_accuracy"]
    return Outcome(
        f"{show(result.table, columns)}\n\nThe tables are in {arguments.out}",
        {"table": result.table.to_dict("records"), "out": arguments.out},
    )


def run(arguments: argparse.Namespace) -> Outcome:
    """Run a study."""
    from mastlens.studies.runner import run_study

    result = run_study(
        arguments.study,
        arguments.out,
        workers=arguments.workers,
        seed=arguments.seed,
        device=device_of(arguments),
        overwrite=arguments.overwrite,
        progress=not arguments.json,
    )
    retain = result.summary[result.summary["measure"] == "retain_accuracy"]
    columns = [
        "objective",
        "selection",
        "arms",
        "reached",
        "mean",
        "ci_low",
        "ci_high",
        "draws",
        "draw_min",
        "draw_max",
    ]
    contrasts = result.contrasts[result.contrasts["measure"] == "retain_accuracy"]
    text = f"retain accuracy at matched forgetting\n{show(retain, columns, rows=200)}"
    if len(contrasts):
        text += f"\n\nselections minus random draws\n{show(contrasts, rows=200)}"
    return Outcome(
        f"{text}\n\nThe tables are in {result.out}",
        {
            "arms": len(result.table),
            "reached": int(result.table["reached"].sum()),
            "summary": result.summary.to_dict("records"),
            "contrasts": result.contrasts.to_dict("records"),
            "out": str(result.out),
        },
    )
