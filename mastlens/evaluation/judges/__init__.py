"""Judges of what a model wrote: an interface, and a model behind an endpoint or on this machine.

A rule that needs no model is beside what it judges: ``mastlens.evaluation.traces.rules`` and
``mastlens.evaluation.safety``.
"""

from mastlens.evaluation.judges.agreement import JudgeAgreement, cohen_kappa, judge_agreement
from mastlens.evaluation.judges.choosing import find_judge
from mastlens.evaluation.judges.endpoint import EndpointJudge
from mastlens.evaluation.judges.interface import (
    OWN_JUDGES,
    UNJUDGED,
    Judge,
    Judgement,
    Question,
    judge_all,
    judge_settings,
)
from mastlens.evaluation.judges.local import LocalJudge
from mastlens.evaluation.judges.rubrics import REFUSAL_RUBRIC, TRACE_CATEGORIES, TRACE_RUBRIC, Rubric

__all__ = [
    "OWN_JUDGES",
    "REFUSAL_RUBRIC",
    "TRACE_CATEGORIES",
    "TRACE_RUBRIC",
    "UNJUDGED",
    "EndpointJudge",
    "Judge",
    "JudgeAgreement",
    "Judgement",
    "LocalJudge",
    "Question",
    "Rubric",
    "cohen_kappa",
    "find_judge",
    "judge_agreement",
    "judge_all",
    "judge_settings",
]
