"""Commands on what a thinking model still shows: multiple choice without thinking, and judged traces."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mastlens.cli.options import add_no_chat_template, add_out, named_files, path_help
from mastlens.cli.outcome import Outcome, common, show
from mastlens.errors import BadSetting, unknown

if TYPE_CHECKING:
    from mastlens.evaluation.judges import Judge

JUDGES = ("rule", "endpoint", "local")


def add_traces_evaluation(command) -> None:
    """Add choices, evaluate-traces, compare-traces and evaluate-safety."""
    scored = command("choices", choices, "multiple choice by the options' log-probabilities (FA-UA)")
    _add_model(scored, "--questions", "questions with options, JSON lines")
    _add_ask(scored, "options listed, scored by letter (default) or by text (option); or bare (text)")
    scored.add_argument("--think", default="empty", metavar="MODE", help="free, empty (default), forced or none")

    traces = command("evaluate-traces", evaluate_traces, "traces in the categories C1 to C4 (RT-UA, Avg-UA)")
    _add_model(traces, "--questions", "questions, with options or open, JSON lines")
    _add_generation(traces)
    traces.add_argument("--reflection", type=float, default=0.0, metavar="X", help="off reflection tokens' logits")
    traces.add_argument("--reflection-window", type=int, metavar="N", help="for so many tokens of each thought")
    traces.add_argument("--choices-think", default="empty", metavar="MODE", help="of FA-UA (default empty); off: none")
    _add_ask(traces, "how FA-UA scores options: letter (default), option or text; see mastlens choices --help")
    traces.add_argument("--part", default="reasoning", help="what is judged: reasoning (default), trace or response")
    _add_judge(traces, "rule (the organism's facts; default), endpoint or local")
    traces.add_argument("--facts", metavar="FILE", help="judge rule: facts.json of the lineage")

    pair = command("compare-traces", compare_traces, "two models' traces, paired: leak or no leak")
    pair.add_argument("before", metavar="BEFORE_DIR")
    pair.add_argument("after", metavar="AFTER_DIR")

    safe = command("evaluate-safety", evaluate_safety, "refusals of harmful requests, from files that you bring")
    _add_model(safe, "--data", "star1, strongreject, jailbreakbench or wildjailbreak, and your file of it")
    _add_generation(safe)
    safe.add_argument("--limit", type=int, metavar="N", help="draw so many requests of each kind by the seed")
    safe.add_argument("--part", default="answer", help="what is judged: answer (default), trace or response")
    _add_judge(safe, "rule (the well-known refusal phrases; default), endpoint or local")


def _add_model(parser: argparse.ArgumentParser, files: str, role: str) -> None:
    parser.add_argument("--model", required=True, metavar="PATH", help=path_help("the model"))
    parser.add_argument("--edit", metavar="EDIT", help="an edit to apply in memory first")
    parser.add_argument(files, nargs="+", action="extend", required=True, metavar="NAME=FILE", help=role)
    parser.add_argument("--batch-size", type=int, default=32, help="items a batch (default 32)")
    add_no_chat_template(parser)
    add_out(parser)


def _add_ask(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument("--ask", default="letter", metavar="letter|option|text", help=summary)


def _add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--think", default="free", metavar="MODE", help="free (default), empty, forced or none")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="where a response ends (default 1024)")
    parser.add_argument("--samples", type=int, default=1, metavar="K", help="responses an item (default 1)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default); R2MU: 0.6")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus (default 1: everything); R2MU: 0.95")


def _add_judge(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument("--judge", default="rule", help=summary)
    parser.add_argument("--judge-model", metavar="NAME", help="endpoint: the model's name there; local: a PATH")
    parser.add_argument("--judge-url", metavar="URL", help="endpoint: base address, e.g. http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--judge-key", default="OPENAI_API_KEY", metavar="VARIABLE", help="where its key is (%(default)s)"
    )
    parser.add_argument("--judge-cache", metavar="DIR", help="endpoint: keeps replies (default: OUT/judge-cache)")
    parser.add_argument("--judge-tokens", type=int, metavar="N", help="where a judge's reply ends")
    parser.add_argument("--judge-workers", type=int, default=4, metavar="N", help="requests at a time (default 4)")


def model_judge(arguments: argparse.Namespace, rubric: Any) -> "Judge":
    """Return the endpoint or the local judge that was asked for."""
    from mastlens.evaluation.judges import OWN_JUDGES, EndpointJudge, LocalJudge

    if arguments.judge not in JUDGES:
        if ".py:" not in arguments.judge and arguments.judge not in OWN_JUDGES:
            raise unknown("judge", arguments.judge, [*JUDGES, *OWN_JUDGES])
        return OWN_JUDGES.find(arguments.judge)
    if not arguments.judge_model:
        raise BadSetting(f"--judge {arguments.judge} needs --judge-model.")
    if arguments.judge == "local":
        tokens = {} if arguments.judge_tokens is None else {"max_new_tokens": arguments.judge_tokens}
        return LocalJudge(arguments.judge_model, rubric, device=arguments.device, **tokens)
    if not arguments.judge_url:
        raise BadSetting("--judge endpoint needs --judge-url, e.g. http://127.0.0.1:8000/v1.")
    tokens = {} if arguments.judge_tokens is None else {"max_tokens": arguments.judge_tokens}
    return EndpointJudge(
        arguments.judge_url,
        arguments.judge_model,
        rubric,
        cache=Path(arguments.judge_cache or Path(arguments.out) / "judge-cache"),
        key_variable=arguments.judge_key,
        workers=arguments.judge_workers,
        **tokens,
    )


def _generation(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "think": arguments.think,
        "max_new_tokens": arguments.max_new_tokens,
        "samples": arguments.samples,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "seed": arguments.seed,
    }


def choices(arguments: argparse.Namespace) -> Outcome:
    """Score multiple choice."""
    from mastlens.evaluation.choices import evaluate_choices

    result = evaluate_choices(
        model=arguments.model,
        edit=arguments.edit,
        questions=named_files(arguments.questions, "--questions"),
        ask=arguments.ask,
        think=arguments.think,
        **common(arguments),
    )
    return Outcome(show(result.accuracy), {"splits": result.accuracy.to_dict("records"), "out": arguments.out})


def evaluate_traces(arguments: argparse.Namespace) -> Outcome:
    """Generate and judge traces."""
    from mastlens.evaluation.judges import TRACE_RUBRIC
    from mastlens.evaluation.traces import RuleJudge
    from mastlens.evaluation.traces import evaluate_traces as run

    if arguments.judge == "rule" and not arguments.facts:
        raise BadSetting("--judge rule needs --facts: facts.json of the organism's lineage.")
    judge = RuleJudge.open(arguments.facts) if arguments.judge == "rule" else model_judge(arguments, TRACE_RUBRIC)
    result = run(
        model=arguments.model,
        edit=arguments.edit,
        questions=named_files(arguments.questions, "--questions"),
        judge=judge,
        choices_think=None if arguments.choices_think == "off" else arguments.choices_think,
        choices_ask=arguments.ask,
        judged=arguments.part,
        reflection=arguments.reflection,
        reflection_window=arguments.reflection_window,
        **_generation(arguments),
        **common(arguments),
    )
    columns = ["split", "n", "unjudged", "rt_ua", "rt_low", "rt_high", "fa_ua", "avg_ua", "accuracy", "truncated"]
    shares = result.categories.pivot(index="split", columns="category", values="share").reset_index()
    text = f"{show(result.summary, columns)}\n\n{show(shares)}"
    tables = {"splits": result.summary, "categories": result.categories}
    return Outcome(text, {name: table.to_dict("records") for name, table in tables.items()} | {"out": arguments.out})


def compare_traces(arguments: argparse.Namespace) -> Outcome:
    """Compare two folders of judged traces."""
    from mastlens.evaluation.traces import compare_traces as run

    result = run(arguments.before, arguments.after, seed=arguments.seed)
    tables = {"splits": result.table, "transitions": result.transitions}
    text = f"{show(result.table)}\n\n{show(result.transitions)}"
    return Outcome(text, {name: table.to_dict("records") for name, table in tables.items()})


def evaluate_safety(arguments: argparse.Namespace) -> Outcome:
    """Judge responses to harmful requests."""
    from mastlens.evaluation.judges import REFUSAL_RUBRIC
    from mastlens.evaluation.safety import RefusalPhrases
    from mastlens.evaluation.safety import evaluate_safety as run

    judge = RefusalPhrases() if arguments.judge == "rule" else model_judge(arguments, REFUSAL_RUBRIC)
    result = run(
        model=arguments.model,
        edit=arguments.edit,
        data=named_files(arguments.data, "--data"),
        judge=judge,
        limit=arguments.limit,
        judged=arguments.part,
        **_generation(arguments),
        **common(arguments),
    )
    return Outcome(show(result.summary), {"data": result.summary.to_dict("records"), "out": arguments.out})
