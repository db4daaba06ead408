"""Evaluations as a table for people."""

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

    The interval is that of the mean return; the other figures are means.
    """
    rows = [["agent", "return", "95% interval", *[heading for heading, _, _ in COLUMNS[1:]]]]
    rows += [_row(evaluation) for evaluation in evaluations]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    first = evaluations[0]
    return lines + [_lead(first, other) for other in evaluations[1:]]


def _row(evaluation: Evaluation) -> list[str]:
    summary = evaluation.summary()
    reward = summary["total_reward"]
    interval = "-" if reward.count == 1 else f"{reward.low:.2f} to {reward.high:.2f}"
    cells = [form.format(summary[key].mean) if key in summary else "-" for _, key, form in COLUMNS]
    return [evaluation.agent, cells[0], interval, *cells[1:]]


def _lead(first: Evaluation, other: Evaluation) -> str:
    lead = first.against(other)
    line = f"{first.agent} - {other.agent}: {lead.mean:+.2f}"
    if lead.count == 1:
        return line
    return f"{line} (95% interval {lead.low:+.2f} to {lead.high:+.2f}, {lead.count} pairs)"
