"""The judge that was asked for on the command line, or handed over."""

from collections.abc import Callable
from pathlib import Path

from mastlens.errors import BadSetting, unknown
from mastlens.evaluation.judges.endpoint import EndpointJudge
from mastlens.evaluation.judges.interface import OWN_JUDGES, Judge
from mastlens.evaluation.judges.local import LocalJudge
from mastlens.evaluation.judges.rubrics import Rubric
from mastlens.evaluation.settings import JUDGES, EvaluateSafetySettings, EvaluateTracesSettings, JudgeChoice


def find_judge(
    settings: EvaluateTracesSettings | EvaluateSafetySettings, rule: Callable[[JudgeChoice], Judge], rubric: Rubric
) -> Judge:
    """Return the judge that was given, or that was asked for by name.

    Args:
        settings: What was asked for.
        rule: Makes the judge that needs no model.
        rubric: What a model judges.

    Raises:
        MastlensError: If there is no such judge, or something that it needs is missing.
    """
    if settings.judge is not None:
        return settings.judge
    chosen = settings.judged_by or JudgeChoice()
    cache = None if settings.out is None else Path(settings.out) / "judge-cache"
    return make_judge(chosen, rule, rubric, settings.device, cache)


def make_judge(
    chosen: JudgeChoice, rule: Callable[[JudgeChoice], Judge], rubric: Rubric, device: str, cache: Path | None
) -> Judge:
    """Return the judge that was asked for by name.

    Args:
        chosen: What was asked for.
        rule: Makes the judge that needs no model.
        rubric: What a model judges.
        device: Where a local one computes.
        cache: Folder that keeps an endpoint's replies, where none was named; None for none.

    Raises:
        MastlensError: As ``find_judge``.
    """
    if chosen.name == "rule":
        return rule(chosen)
    if chosen.name not in JUDGES:
        if ".py:" not in chosen.name and chosen.name not in OWN_JUDGES:
            raise unknown("judge", chosen.name, [*JUDGES, *OWN_JUDGES])
        return OWN_JUDGES.find(chosen.name)
    if not chosen.model:
        raise BadSetting(f"--judge {chosen.name} needs --judge-model.")
    if chosen.name == "local":
        tokens = {} if chosen.tokens is None else {"max_new_tokens": chosen.tokens}
        return LocalJudge(chosen.model, rubric, device=device, **tokens)
    if not chosen.url:
        raise BadSetting("--judge endpoint needs --judge-url, e.g. http://127.0.0.1:8000/v1.")
    tokens = {} if chosen.tokens is None else {"max_tokens": chosen.tokens}
    return EndpointJudge(
        chosen.url,
        chosen.model,
        rubric,
        cache=cache if chosen.cache is None else Path(chosen.cache),
        key_variable=chosen.key_variable,
        workers=chosen.workers,
        **tokens,
    )
