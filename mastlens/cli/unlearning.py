"""The unlearning step: options and handler."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from mastlens.cli.options import add_no_chat_template, add_out, add_problems, path_help
from mastlens.cli.outcome import Outcome, common, show
from mastlens.errors import BadSetting

if TYPE_CHECKING:
    from mastlens.unlearning import ProbeSettings, TokenWeights


def add_unlearning(command) -> None:
    """Add unlearn."""
    unlearn = command("unlearn", run_unlearn, "unlearn the forget problems by editing selected tensors")
    unlearn.add_argument("--rlvr", required=True, metavar="PATH", help=path_help("the checkpoint to edit"))
    where = unlearn.add_mutually_exclusive_group(required=True)
    where.add_argument("--ranking", metavar="FILE", help="edit the tensors that a ranking.parquet selects")
    where.add_argument("--where", metavar="REGEX", help="edit the matrices that match; with a #, heads too (#h3$)")
    where.add_argument("--all-parameters", action="store_true", help="edit every weight matrix")
    add_problems(unlearn)
    unlearn.add_argument(
        "--objective",
        required=True,
        metavar="NAME",
        help="ga, graddiff, npo, npo-token, simnpo, dpo, wga, satimp, undial, ce-u, rmu, rmu-rtp, r2mu-v0 or r2mu",
    )
    unlearn.add_argument("--steps", type=int, required=True, metavar="N", help="number of steps")
    unlearn.add_argument("--lr", type=float, required=True, metavar="X", help="learning rate, constant")
    unlearn.add_argument("--batch-size", type=int, default=8, help="problems a step and side (default 8)")
    unlearn.add_argument("--retain-weight", type=float, metavar="X", help="weight of the retain term (default 1)")
    unlearn.add_argument("--retain-loss", metavar="NAME", help="nll (default) or kl, forward from the source")
    unlearn.add_argument("--preset", help="what a source fixes: mast, open-unlearning, paper or release (R2MU's)")
    unlearn.add_argument("--beta", type=float, help="inverse temperature (npo, simnpo, dpo), exponent (wga, satimp)")
    unlearn.add_argument("--beta2", type=float, help="second exponent of satimp")
    unlearn.add_argument("--delta", type=float, help="margin of simnpo, inside beta")
    unlearn.add_argument("--gamma", type=float, help="weight of the forget term (default 1)")
    unlearn.add_argument("--refusals", metavar="FILE", help="refusals for dpo, one a line (default: ours)")
    unlearn.add_argument("--allow-overlap", action="store_true", help="let problems stand on both sides")
    unlearn.add_argument("--precision", default="float32", help="of the model in memory: float32 (default), bfloat16")
    unlearn.add_argument(
        "--cache-mb", type=float, metavar="MB", help="memory for the layers below the selection (default 2000)"
    )
    _add_steering(unlearn)
    weights = unlearn.add_argument_group("token weights (ATWU)")
    weights.add_argument("--token-weights", action="store_true", help="learn which forget tokens to forget")
    weights.add_argument("--budget", type=float, metavar="X", help="mean weight to aim at (default 0.2)")
    weights.add_argument("--scorer-lr", type=float, metavar="X", help="learning rate of the scorer (default 0.05)")
    weights.add_argument("--scorer-every", type=int, metavar="N", help="model steps a scorer step (default 5)")
    probes = unlearn.add_argument_group("looking while it runs")
    probes.add_argument("--probe-forget", metavar="FILE", help="calibration problems to forget")
    probes.add_argument("--probe-retain", metavar="FILE", help="calibration problems to keep")
    probes.add_argument("--probe-every", type=int, metavar="N", help="steps between two looks (default 10)")
    probes.add_argument("--probe-items", type=int, metavar="N", help="problems of each (default 32)")
    probes.add_argument("--max-kl", type=float, metavar="X", help="stop above this KL on retain, nats (default 1)")
    probes.add_argument("--max-repetition", type=float, metavar="X", help="stop above this share (default 0.5)")
    probes.add_argument("--choose", metavar="HOW", help="last step (default) or pareto: the knee of the front")
    add_no_chat_template(unlearn)
    add_out(unlearn)


def _add_steering(parser: argparse.ArgumentParser) -> None:
    steer = parser.add_argument_group("steering activations (rmu, rmu-rtp, r2mu-v0, r2mu)")
    steer.add_argument("--layer", type=int, metavar="N", help="decoder layer to steer, from 0")
    steer.add_argument("--steering", type=float, metavar="X", help="c, in median retain norms (default 2)")
    steer.add_argument("--control-norm", type=float, metavar="X", help="c as a number instead")
    steer.add_argument("--traces", metavar="FILE", help="traces.parquet of the forget file (mastlens traces)")
    steer.add_argument("--cot", metavar="FILE", help="chains of thought to keep, JSON lines")
    steer.add_argument("--unthink-weight", type=float, metavar="X", help="of the trace term (default 1)")
    steer.add_argument("--cot-weight", type=float, metavar="X", help="of the chain-of-thought term (default 1)")
    steer.add_argument("--reflection-weight", type=float, metavar="X", help="of rmu-rtp's penalty (default 1)")
    steer.add_argument("--reflection", metavar="LIST", help="its words: code (default), paper or tip")
    steer.add_argument("--text-tokens", type=int, metavar="N", help="cut forget and retain texts (default: no cut)")
    steer.add_argument("--trace-tokens", type=int, metavar="N", help="cut traces (default: no cut)")
    steer.add_argument("--cot-tokens", type=int, metavar="N", help="cut chains of thought (default: no cut)")
    steer.add_argument(
        "--in-context",
        action=argparse.BooleanOptionalAction,
        help="read traces and chains of thought behind their prompts (default; not in the presets)",
    )


_STEERING = (
    *("layer", "steering", "control_norm", "traces", "cot", "unthink_weight", "cot_weight", "reflection_weight"),
    *("reflection", "text_tokens", "trace_tokens", "cot_tokens", "in_context"),
)


def _given(arguments: argparse.Namespace, names: dict[str, str]) -> dict:
    """Return setting to value of the options that were given."""
    return {to: value for name, to in names.items() if (value := getattr(arguments, name)) is not None}


def _token_weights(arguments: argparse.Namespace) -> "TokenWeights | None":
    from mastlens.unlearning import TokenWeights

    given = _given(arguments, {"budget": "budget", "scorer_lr": "lr", "scorer_every": "every"})
    if given and not arguments.token_weights:
        raise BadSetting("--budget, --scorer-lr and --scorer-every go with --token-weights.")
    return replace(TokenWeights(), **given) if arguments.token_weights else None


def _probes(arguments: argparse.Namespace) -> "ProbeSettings | None":
    from mastlens.unlearning import ProbeSettings

    names = {"probe_every": "every", "probe_items": "items", "max_kl": "max_kl", "max_repetition": "max_repetition"}
    given = _given(arguments, {**names, "choose": "choose"})
    files = _given(arguments, {"probe_forget": "forget", "probe_retain": "retain"})
    if not files and not given:
        return None
    if len(files) < 2:
        raise BadSetting("Probes need calibration problems of both sides: --probe-forget and --probe-retain.")
    return ProbeSettings(**files, **given)


def run_unlearn(arguments: argparse.Namespace) -> Outcome:
    """Unlearn and write the edit."""
    from mastlens.unlearning import unlearn

    result = unlearn(
        rlvr=arguments.rlvr,
        forget=arguments.forget,
        retain=arguments.retain,
        objective=arguments.objective,
        steps=arguments.steps,
        lr=arguments.lr,
        ranking=arguments.ranking,
        where=arguments.where,
        all_parameters=arguments.all_parameters,
        retain_weight=arguments.retain_weight,
        retain_loss=arguments.retain_loss,
        preset=arguments.preset,
        beta=arguments.beta,
        beta2=arguments.beta2,
        delta=arguments.delta,
        gamma=arguments.gamma,
        **{name: getattr(arguments, name) for name in _STEERING},
        refusals=arguments.refusals,
        allow_overlap=arguments.allow_overlap,
        precision=arguments.precision,
        token_weights=_token_weights(arguments),
        probes=_probes(arguments),
        seed=arguments.seed,
        **_given(arguments, {"cache_mb": "cache_mb"}),
        **common(arguments),
    )
    looked = result.table.dropna(subset=["retain_probe_kl"]) if "retain_probe_kl" in result.table else None
    shown = result.table.iloc[[0, -1]].drop_duplicates() if len(result.table) else result.table
    if looked is not None and len(looked):
        shown = looked
    last = result.table.iloc[-1].to_dict() if len(result.table) else {}
    parameters = sum(t.numel() for t in result.edit.after.values())
    text = (
        f"{show(shown) if len(result.table) else 'no step was finite'}\n"
        f"the edit holds step {result.chosen}: {len(result.edit.names)} tensors changed, {parameters:,} parameters\n"
        f"{result.swallowed:.2%} of the changed entries were returned by rounding to the checkpoint's dtype"
    )
    return Outcome(
        text,
        {
            "tensors": len(result.edit.names),
            "parameters": parameters,
            "steps": len(result.table),
            "chosen": result.chosen,
            "last": last,
            "swallowed": result.swallowed,
            "out": arguments.out,
        },
    )
