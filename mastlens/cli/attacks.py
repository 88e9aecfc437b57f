"""The attack command: options and handler."""

import argparse

from mastlens.cli.options import add_no_chat_template, add_out, named_files, path_help
from mastlens.cli.outcome import Outcome, common, show


def add_attack(command) -> None:
    """Add attack."""
    one = command("attack", attack, "does what was forgotten come back? by relearning, quantisation, prompts")
    one.add_argument(
        "name",
        metavar="NAME",
        help="relearn-forget, relearn-retain, relearn-rlvr, quantise or prompts",
    )
    one.add_argument("--model", required=True, metavar="PATH", help=path_help("what --edit belongs to, or is edited"))
    one.add_argument("--edit", metavar="EDIT", help="the edit to attack; its source is attacked beside it")
    one.add_argument("--source", metavar="PATH", help=path_help("without --edit, the model before it was edited"))
    one.add_argument("--control", metavar="PATH", help=path_help("a model without the skill, e.g. after SFT"))
    one.add_argument(
        "--split", nargs="+", action="extend", required=True, metavar="NAME=FILE", help="what is tested, JSON lines"
    )
    one.add_argument("--train", metavar="FILE", help="problems to relearn from; of prompts, to show as examples")
    one.add_argument("--retain", metavar="FILE", help="of prompts, harmless problems to show as examples")
    one.add_argument("--limit", type=int, metavar="N", help="test the first N problems of each split only")
    one.add_argument("--max-new-tokens", type=int, default=1024, help="where a response ends (default 1024)")
    one.add_argument("--batch-size", type=int, default=32, help="items a batch when testing (default 32)")
    add_no_chat_template(one)
    add_out(one)
    relearn = one.add_argument_group("relearn-forget, relearn-retain, relearn-rlvr")
    relearn.add_argument("--steps", type=int, default=64, help="steps, tested at 0, 1, 2, 4, ... (default 64)")
    relearn.add_argument("--lr", type=float, metavar="X", help="learning rate, constant (default 1e-5; rlvr 1e-6)")
    relearn.add_argument("--train-batch-size", type=int, default=8, help="problems a step (default 8)")
    quantise = one.add_argument_group("quantise")
    quantise.add_argument(
        "--format",
        nargs="+",
        metavar="NAME",
        help="int8, nf4, rtn4-32, rtn4-128 (these four by default), rtn4-128-asymmetric",
    )
    quantise.add_argument("--embeddings", action="store_true", help="also token embeddings and output head")
    prompts = one.add_argument_group("prompts")
    prompts.add_argument("--shots", type=int, nargs="+", metavar="K", help="numbers of examples (default 1 and 4)")
    prompts.add_argument(
        "--prefill", type=float, nargs="+", metavar="SHARE", help="shares of the solution given (default 0.25, 0.5)"
    )


def attack(arguments: argparse.Namespace) -> Outcome:
    """Attack an edit."""
    from mastlens.attacks import attack as run

    chosen = {"formats": arguments.format, "shots": arguments.shots, "prefills": arguments.prefill}
    result = run(
        arguments.name,
        model=arguments.model,
        edit=arguments.edit,
        source=arguments.source,
        control=arguments.control,
        splits=named_files(arguments.split),
        train=arguments.train,
        retain=arguments.retain,
        steps=arguments.steps,
        lr=arguments.lr,
        train_batch_size=arguments.train_batch_size,
        embeddings=arguments.embeddings,
        limit=arguments.limit,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        **{key: value for key, value in chosen.items() if value is not None},
        **common(arguments),
    )
    columns = ["variant", "model", "step", "split", "n", "accuracy", "ci_low", "ci_high", "logprob_solution"]
    columns += ["recovered", "recovered_low", "recovered_high", "recovered_beyond_control"]
    text = show(result.table, columns, rows=120)
    summary = {"attack": arguments.name, "rows": result.table.to_dict("records"), "out": arguments.out}
    if len(result.tensors):
        total = result.tensors[result.tensors["layer"] == -1].drop(columns=["layer", "projection"])
        text += "\n\nquantised codes that the edit changes\n" + show(total)
        summary["codes"] = total.to_dict("records")
    return Outcome(text, summary)
