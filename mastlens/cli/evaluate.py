"""Commands about what a model answers: options and handlers."""

import argparse

from mastlens.cli.options import add_no_chat_template, add_out, named_files, path_help
from mastlens.cli.outcome import Outcome, common, device_of, show
from mastlens.errors import BadSetting


def add_evaluate(command) -> None:
    """Add evaluate and benchmarks."""
    run = command("evaluate", evaluate, "responses, accuracy and log-probabilities on problems")
    run.add_argument("--model", required=True, metavar="PATH", help=path_help("the model"))
    run.add_argument("--edit", metavar="EDIT", help="an edit to apply in memory first")
    run.add_argument("--split", nargs="+", action="extend", metavar="NAME=FILE", help="problems, JSON lines")
    run.add_argument(
        "--think", default="free", metavar="MODE", help="of --split: free (default), empty, forced or none"
    )
    run.add_argument("--max-new-tokens", type=int, help="where a response ends (default 1024; a task's own)")
    run.add_argument("--batch-size", type=int, default=32, help="items a batch (default 32)")
    run.add_argument("--samples", type=int, default=1, metavar="K", help="responses an item (default 1)")
    run.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy (default)")
    run.add_argument("--top-p", type=float, default=1.0, help="nucleus of sampling (default 1: everything)")
    run.add_argument("--stop-at-answer", action="store_true", help="end a response at its first complete box")
    run.add_argument("--engine", default="transformers", help="what generates: transformers (default) or vllm")
    run.add_argument("--harness", nargs="+", action="extend", metavar="TASK", help="tasks of lm-evaluation-harness")
    run.add_argument("--task-folder", metavar="DIR", help="task files (YAML) beside the harness' own")
    run.add_argument("--shots", type=int, metavar="N", help="worked examples of harness tasks (each task's own)")
    run.add_argument("--limit", type=int, metavar="N", help="only the first N items of each harness task")
    run.add_argument("--think-end", metavar="TEXT", help="harness: grade only what follows it, e.g. '</think>'")
    add_no_chat_template(run)
    add_out(run)

    benchmarks = command("benchmarks", None, "public benchmarks as problem files", parents=False)
    actions = benchmarks.add_subparsers(dest="action", required=True, metavar="ACTION")
    source = "a file, a folder, or a dataset of the hub (OWNER/NAME[:CONFIG][@REVISION])"
    mast = command("mast", benchmarks_mast, "the forget and retain sets of MAST's protocol", under=actions)
    mast.add_argument("--math", required=True, metavar="SOURCE", help=f"MATH's test set: {source}")
    mast.add_argument("--gsm8k", required=True, metavar="SOURCE", help="GSM8K's test set")
    mast.add_argument("--math-train", metavar="SOURCE", help="MATH's training set: train and calibration files too")
    mast.add_argument("--gsm8k-train", metavar="SOURCE", help="GSM8K's training set")
    mast.add_argument("--forget", type=int, default=150, metavar="N", help="forget problems (default 150)")
    mast.add_argument("--retain-math", type=int, default=200, metavar="N", help="of other subjects (default 200)")
    mast.add_argument("--retain-gsm", type=int, default=256, metavar="N", help="of GSM8K (default 256)")
    mast.add_argument("--calibration", type=int, default=150, metavar="N", help="a calibration file (default 150)")
    _add_prompts(mast)
    add_out(mast)
    take = command("take", benchmarks_take, "one benchmark, whole or in part", under=actions)
    take.add_argument("source", metavar="SOURCE", help=source)
    take.add_argument("--hub-split", default="test", metavar="NAME", help="split of a hub dataset (default test)")
    take.add_argument("--subject", action="append", default=[], metavar="NAME", help="only this subject; repeatable")
    take.add_argument("--level", action="append", type=int, default=[], metavar="N", help="only this level; repeatable")
    take.add_argument("--count", type=int, metavar="N", help="draw so many (default: all)")
    take.add_argument("--examples", metavar="SOURCE", help="where worked examples come from, e.g. the training set")
    _add_prompts(take)
    take.add_argument("--out", required=True, metavar="FILE", help="the problem file to write, JSON lines")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--style", default="boxed", help="prompts: boxed (default) asks for a box; plain asks nothing")
    parser.add_argument("--prompt-shots", type=int, default=0, metavar="K", help="worked examples a prompt (default 0)")


def evaluate(arguments: argparse.Namespace) -> Outcome:
    """Evaluate a model."""
    if not arguments.split and not arguments.harness:
        raise BadSetting("There is nothing to evaluate on: give --split NAME=FILE, or --harness TASK.")
    device_of(arguments)
    texts, summary = [], {"out": arguments.out}
    if arguments.split:
        from mastlens.evaluation.responses import evaluate as run

        result = run(
            model=arguments.model,
            edit=arguments.edit,
            splits=named_files(arguments.split),
            think=arguments.think,
            max_new_tokens=1024 if arguments.max_new_tokens is None else arguments.max_new_tokens,
            samples=arguments.samples,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            seed=arguments.seed,
            stop_at_answer=arguments.stop_at_answer,
            engine=arguments.engine,
            **common(arguments),
        )
        texts.append(show(result.accuracy))
        summary["splits"] = result.accuracy.to_dict("records")
    if arguments.harness:
        from mastlens.evaluation.harness import harness_scores

        scores = harness_scores(
            model=arguments.model,
            edit=arguments.edit,
            tasks=arguments.harness,
            task_folder=arguments.task_folder,
            shots=arguments.shots,
            limit=arguments.limit,
            max_new_tokens=arguments.max_new_tokens,
            think_end=arguments.think_end,
            seed=arguments.seed,
            **common(arguments),
        )
        texts.append(show(scores.table))
        summary["harness"] = scores.table.to_dict("records")
    return Outcome("\n\n".join(texts), summary)


def benchmarks_mast(arguments: argparse.Namespace) -> Outcome:
    """Write the problem sets of MAST."""
    from mastlens.evaluation.protocol import write_mast

    made = write_mast(
        math=arguments.math,
        gsm8k=arguments.gsm8k,
        out=arguments.out,
        math_train=arguments.math_train,
        gsm8k_train=arguments.gsm8k_train,
        forget=arguments.forget,
        retain_math=arguments.retain_math,
        retain_gsm=arguments.retain_gsm,
        calibration=arguments.calibration,
        style=arguments.style,
        shots=arguments.prompt_shots,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )
    files = {name: str(path) for name, path in made.files.items()}
    return Outcome(show(made.table), {"files": files, "splits": made.table.to_dict("records")})


def benchmarks_take(arguments: argparse.Namespace) -> Outcome:
    """Write one benchmark as a problem file."""
    from mastlens.evaluation.benchmarks import draw_problems, prompted, read_benchmark, write_problems

    problems = read_benchmark(
        arguments.source, split=arguments.hub_split, subjects=arguments.subject, levels=arguments.level
    )
    if arguments.count is not None:
        problems = draw_problems(problems, arguments.count, seed=arguments.seed, name="take")
    if arguments.prompt_shots and not arguments.examples:
        raise BadSetting("Worked examples come from a set of their own: give --examples, e.g. the training set.")
    examples = read_benchmark(arguments.examples, split="train") if arguments.examples else []
    asked = prompted(
        problems, style=arguments.style, shots=arguments.prompt_shots, examples=examples, seed=arguments.seed
    )
    path = write_problems(arguments.out, asked)
    return Outcome(f"Wrote {len(asked)} problems to {path}", {"n": len(asked), "file": str(path)})
