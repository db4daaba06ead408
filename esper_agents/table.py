"""Evaluations as a table for people."""

import math
from collections.abc import Sequence

from esper_agents.evaluate import Evaluation

COLUMNS = (
    ("harvested", "harvest_accuracy", "{:.1%}"),
    ("test", "test_accuracy", "{:.1%}"),
    ("harvested loss", "harvest_loss", "{:.3f}"),
    ("test loss", "test_loss", "{:.3f}"),
    ("params", "param_ratio", "{:.2f}x"),
    ("FLOPs", "flops_ratio", "{:.2f}x"),
    ("rollbacks", "rollbacks", "{:.2f}"),
    ("illegal", "invalid_share", "{:.1%}"),
)
"""Heading, figure, form."""
OTHERWISE = {"harvest_loss": "harvest_accuracy", "test_loss": "test_accuracy"}
"""Figures of texts, which have no accuracies -> what images are judged by."""


def table(evaluations: Sequence[Evaluation]) -> list[str]:
    """One line an agent, then the first one's lead over each of the others, paired by seed.

    Mean and interquartile mean of the return, each with its interval; the other figures are means.
    """
    columns = _columns(evaluations)
    names = [heading for heading, _, _ in columns]
    rows = [["agent", "return", "95% interval", "IQM", "95% interval", *names]]
    rows += [_row(evaluation, columns) for evaluation in evaluations]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    first = evaluations[0]
    return lines + [_lead(first, other) for other in evaluations[1:]]


_Columns = list[tuple[str, str, str]]


def _columns(evaluations: Sequence[Evaluation]) -> _Columns:
    """What is shown beside the return: accuracies if there are any, else losses if there are any."""
    known = {key for evaluation in evaluations for key in evaluation.summary()}
    hidden = {loss if other in known or loss not in known else other for loss, other in OTHERWISE.items()}
    return [column for column in COLUMNS if column[1] not in hidden]


def _row(evaluation: Evaluation, columns: _Columns) -> list[str]:
    summary = evaluation.summary()
    reward = summary["total_reward"]
    spread = [
        _interval(reward.low, reward.high),
        f"{reward.iqm:.2f}",
        _interval(reward.iqm_low, reward.iqm_high),
    ]
    cells = [form.format(summary[key].mean) if key in summary else "-" for _, key, form in columns]
    return [evaluation.agent, f"{reward.mean:.2f}", *spread, *cells]


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _lead(first: Evaluation, other: Evaluation) -> str:
    lead = first.against(other)
    line = f"{first.agent} - {other.agent}: {lead.mean:+.2f}"
    if lead.count == 1:
        return line
    return f"{line} (95% interval {lead.low:+.2f} to {lead.high:+.2f}, {lead.count} pairs)"
