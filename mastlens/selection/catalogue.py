"""All rules and controls by name."""

import pandas as pd

from mastlens.selection import causal, controls, fisher, mast, memflex, simple
from mastlens.selection.rule import Control, Rule

RULES: dict[str, Rule | Control] = {
    rule.name: rule for family in (mast, simple, fisher, memflex, causal, controls) for rule in family.RULES
}
"""Name to rule: what it needs, where it is from, and the function that scores or draws."""


def describe_rules() -> pd.DataFrame:
    """Return every rule: ``rule``, ``kind`` (rule or control), ``summary``, ``needs``, ``parameters``, ``source``."""
    rows = []
    for name, rule in RULES.items():
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


def rule_table() -> str:
    """Render the rules as a Markdown table."""
    lines = ["| `--rule` | what ranks first | needs | source |", "|---|---|---|---|"]
    for row in describe_rules().itertuples(index=False):
        said = str(row.summary).replace("|", "&#124;").replace("<", "&lt;")
        said += f" (`{row.parameters}`)" if row.parameters else ""
        lines.append(f"| `{row.rule}` | {said} | {row.needs} | {row.source} |")
    return "\n".join(lines)
