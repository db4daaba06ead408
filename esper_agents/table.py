"""Evaluations as a table for people."""

import math
from collections.abc import Sequence

from esper_agents.evaluate import Evaluation

COLUMNS = (
    ("return", "total_reward", "{:.2f}"),
    ("harvested", "harvest_accuracy", "{:.1%}"),
    ("test", "test_accuracy", "{:.1%}"),
    ("params", "param_ratio", "{:.2f}x"),
    ("FLOPs", "flops_ratio", "{:.2f}x"),
    ("rollbacks", "rollbacks", "{:.2f}"),
    ("illegal", "invalid_share", "{:.1%}"),
)
"""Heading, figure, form."""


def table(evaluations: Sequence[Evaluation]) -> list[str]:
    """One line an agent, then the first one's lead over each of the others, paired by seed.

    Mean and interquartile mean of the return, each with its interval; the other figures are means.
    """
    rows = [
        [
            "agent",
            "return",
            "95% interval",
            "IQM",
            "95% interval",
            *[heading for heading, _, _ in COLUMNS[1:]],
        ]
    ]
    rows += [_row(evaluation) for evaluation in evaluations]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    first = evaluations[0]
    return lines + [_lead(first, other) for other in evaluations[1:]]


def _row(evaluation: Evaluation) -> list[str]:
    summary = evaluation.summary()
    reward = summary["total_reward"]
    spread = [
        _interval(reward.low, reward.high),
        f"{reward.iqm:.2f}",
        _interval(reward.iqm_low, reward.iqm_high),
    ]
    cells = [form.format(summary[key].mean) if key in summary else "-" for _, key, form in COLUMNS]
    return [evaluation.agent, cells[0], *spread, *cells[1:]]


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _lead(first: Evaluation, other: Evaluation) -> str:
    lead = first.against(other)
    line = f"{first.agent} - {other.agent}: {lead.mean:+.2f}"
    if lead.count == 1:
        return line
    return f"{line} (95% interval {lead.low:+.2f} to {lead.high:+.2f}, {lead.count} pairs)"
