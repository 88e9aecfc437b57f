"""All rules and controls by name."""

import pandas as pd

from mastlens.registry import Registry
from mastlens.selection.rule import Control, Rule

RULES: Registry[Rule | Control] = Registry(
    "rule",
    accepts=lambda one: isinstance(one, Rule | Control),
    package="mastlens.selection.rules",
    group="mastlens.rules",
)
"""All by name: what it needs, where it is from, and the function that scores or draws."""


def describe_rules() -> pd.DataFrame:
    """Return every rule, then every control.

    Columns: ``rule``, ``kind`` (rule or control), ``summary``, ``needs``, ``parameters``, ``source``.
    """
    rows = []
    for name, rule in sorted(RULES.items(), key=lambda item: isinstance(item[1], Control)):
        scored = isinstance(rule, Rule)
        if scored:
            needs = "; ".join(f"{table}: {', '.join(columns)}" for table, columns in rule.needs.items())
        else:
            needs = "what the matched rule needs" if rule.matched else "geometry or coupling"
        rows.append(
            {
                "rule": name,
                "kind": "rule" if scored else "control",
                "summary": rule.summary,
                "needs": needs,
                "parameters": ", ".join(f"{k}={v:g}" for k, v in rule.parameters.items()) if scored else "",
                "source": rule.source,
            }
        )
    return pd.DataFrame(rows)
