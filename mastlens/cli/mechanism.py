"""Commands that run models and change nothing, and the ranking from what they found: options and handlers."""

import argparse
import textwrap
from collections.abc import Sequence

from mastlens.cli.options import add_no_chat_template, add_out, add_overwrite, add_problems, named_files, path_help
from mastlens.cli.outcome import Outcome, common, show
from mastlens.errors import MastlensError


def add_mechanism(command) -> None:
    """Add couple, rank, causal-map, cumulative-curves and token-differences."""
    gradient = command("couple", couple, "coupling of the forget gradient to the increment")
    _lineage(gradient)
    add_problems(gradient)
    gradient.add_argument("--batch-size", type=int, default=8, help="problems a backward pass (default 8)")
    gradient.add_argument("--autocast", action="store_true", help="products in bfloat16; sums stay float32")
    gradient.add_argument("--fisher", action="store_true", help="also the Fisher information, one problem at a time")
    gradient.add_argument("--no-spectrum", action="store_true", help="leave out the coupling spectrum, which is slow")
    gradient.add_argument("--directions", type=int, default=64, help="singular directions that stand alone (64)")
    gradient.add_argument("--where", metavar="REGEX", help="other weight matrices, by name (attention by default)")
    add_no_chat_template(gradient)
    add_out(gradient)

    order = command("rank", rank, "rank the projections from the tables in DIR and select the top N")
    order.formatter_class = _RuleHelp
    order.add_argument("folder", metavar="DIR", help="folder with the tables that the rule needs")
    order.add_argument("--rule", default="mast", metavar="NAME", help="rule or control (default mast):")
    order.add_argument("--top", type=int, metavar="N", help="how many projections to select")
    order.add_argument("--match", default="mast", metavar="RULE", help="rule whose top N a control matches (mast)")
    order.add_argument(
        "--parameter", nargs="+", action="extend", default=[], metavar="NAME=X", help="a parameter of the rule"
    )
    order.add_argument("--candidates", metavar="PATH", help=path_help("what mlp-matched draws from"))
    order.add_argument("--anyway", action="store_true", help="rank also where all increments lie below the floor")
    order.add_argument("--out", metavar="OUT", help="folder for ranking.parquet (default DIR)")
    add_overwrite(order)

    causal = command("causal-map", causal_map, "put each projection's SFT weights back, and see what changes")
    _lineage(causal)
    add_problems(causal)
    causal.add_argument("--heads", action="store_true", help="also every head alone")
    causal.add_argument("--one-direction", action="store_true", help="leave out RLVR weights put into the SFT model")
    causal.add_argument("--accuracy", action="store_true", help="also generate and grade for every patch (slow)")
    causal.add_argument("--max-new-tokens", type=int, default=256, help="where a response ends (default 256)")
    _reading(causal)

    curves = command("cumulative-curves", cumulative_curves, "put the best k of a ranking back, against random orders")
    _lineage(curves)
    add_problems(curves)
    curves.add_argument("--ranking", required=True, metavar="FILE", help="a ranking.parquet")
    curves.add_argument("--direction", default="restore", help="restore (SFT into RLVR, default) or insert")
    curves.add_argument("--draws", type=int, default=20, help="random orders (default 20)")
    curves.add_argument("--points", type=int, default=16, help="values of k, at most (default 16)")
    _reading(curves)

    tokens = command("token-differences", token_differences, "log-probabilities token by token, before and after")
    tokens.add_argument("--base", metavar="PATH", help=path_help("before SFT"))
    tokens.add_argument("--sft", metavar="PATH", help=path_help("what RLVR started from"))
    tokens.add_argument("--rlvr", required=True, metavar="PATH", help=path_help("after RLVR"))
    tokens.add_argument(
        "--split", nargs="+", action="extend", required=True, metavar="NAME=FILE", help="problems, JSON lines"
    )
    tokens.add_argument("--quantiles", type=int, default=5, help="classes of entropy (default 5)")
    tokens.add_argument("--batch-size", type=int, default=32, help="problems a forward pass (default 32)")
    add_no_chat_template(tokens)
    add_out(tokens)


class _RuleHelp(argparse.RawTextHelpFormatter):
    """Lists the rules, which are imported only when somebody asks for help."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.dest != "rule":
            return action.help
        from mastlens.selection import describe_rules

        lines = [str(action.help)]
        for row in describe_rules().itertuples(index=False):
            said = f"{row.summary} ({row.parameters})" if row.parameters else f"{row.summary}"
            lines += textwrap.wrap(f"{row.rule}: {said} [{row.source}]", 88, subsequent_indent="    ")
        return "\n".join(lines).replace("%", "%%")


def _lineage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sft", required=True, metavar="PATH", help=path_help("what RLVR started from"))
    parser.add_argument("--rlvr", required=True, metavar="PATH", help=path_help("after RLVR"))


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N problems of each file")
    parser.add_argument("--batch-size", type=int, default=32, help="problems a forward pass (default 32)")
    add_no_chat_template(parser)
    add_out(parser)


def couple(arguments: argparse.Namespace) -> Outcome:
    """Measure the coupling."""
    from mastlens.analysis.coupling.coupling import couple as run

    result = run(
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        autocast=arguments.autocast,
        fisher=arguments.fisher,
        spectrum=not arguments.no_spectrum,
        directions=arguments.directions,
        where=arguments.where,
        **common(arguments),
    )
    cosines = [c for c in map(str, result.table.columns) if c.endswith("_cosine")]
    columns = ["layer", "projection", "forget_grad_norm", "forget_inner", *cosines, "forget_above_chance"]
    return Outcome(
        show(result.table, columns, rows=80),
        {
            "rows": len(result.table),
            "mean_absolute": result.table[cosines].abs().mean().to_dict(),
            "out": arguments.out,
        },
    )


def rank(arguments: argparse.Namespace) -> Outcome:
    """Rank and select."""
    from mastlens.selection import rank as run

    result = run(
        arguments.folder,
        top=arguments.top,
        rule=arguments.rule,
        match=arguments.match,
        seed=arguments.seed,
        parameters=_numbers(arguments.parameter),
        candidates=arguments.candidates,
        anyway=arguments.anyway,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )
    text = f"{show(result.table, rows=60)}\n{len(result.selected)} selected, {result.parameters:,} parameters"
    summary = {"selected": result.selected, "parameters": result.parameters, **result.settings}
    if "reference_parameters" in result.table:
        summary["reference_parameters"] = int(result.table["reference_parameters"].iloc[0])
        text += f"; the selection it is matched to has {summary['reference_parameters']:,}"
    return Outcome(text, summary)


def _numbers(given: Sequence[str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in (text.split("=") for text in given)}
    except ValueError as error:
        raise MastlensError(f"--parameter takes NAME=NUMBER, e.g. cosine=0.5: {error}.") from error


def causal_map(arguments: argparse.Namespace) -> Outcome:
    """Patch projection by projection."""
    from mastlens.analysis.causal.causal_map import causal_map as run

    result = run(
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        heads=arguments.heads,
        both_directions=not arguments.one_direction,
        accuracy=arguments.accuracy,
        max_new_tokens=arguments.max_new_tokens,
        limit=arguments.limit,
        seed=arguments.seed,
        **common(arguments),
    )
    columns = ["direction", "layer", "projection", "head", "forget_effect", "forget_effect_low", "forget_effect_high"]
    columns += ["forget_first_order", "forget_exact_change", "retain_effect", "retain_first_order"]
    groups = ["direction", "group", "forget_effect", "retain_effect"]
    text = show(result.table, columns, rows=80) + "\n\n" + show(result.groups, groups)
    text += "\n\nrank correlation of effect and first-order prediction\n" + show(result.correlation)
    return Outcome(
        text,
        {
            "rows": len(result.table),
            "correlation": result.correlation.to_dict("records"),
            "groups": result.groups.to_dict("records"),
            "out": arguments.out,
        },
    )


def cumulative_curves(arguments: argparse.Namespace) -> Outcome:
    """Patch more and more of a ranking."""
    from mastlens.analysis.causal.cumulative import cumulative_curves as run

    result = run(
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        ranking=arguments.ranking,
        direction=arguments.direction,
        draws=arguments.draws,
        points=arguments.points,
        limit=arguments.limit,
        seed=arguments.seed,
        **common(arguments),
    )
    return Outcome(
        show(result.areas), {"rows": len(result.table), "areas": result.areas.to_dict("records"), "out": arguments.out}
    )


def token_differences(arguments: argparse.Namespace) -> Outcome:
    """Compare log-probabilities token by token."""
    from mastlens.analysis.tokens import token_differences as run

    result = run(
        base=arguments.base,
        sft=arguments.sft,
        rlvr=arguments.rlvr,
        splits=named_files(arguments.split),
        quantiles=arguments.quantiles,
        seed=arguments.seed,
        **common(arguments),
    )
    return Outcome(
        show(result.summary, rows=80),
        {"tokens": len(result.table), "summary": result.summary.to_dict("records"), "out": arguments.out},
    )
