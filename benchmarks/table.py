"""The results as text."""

from __future__ import annotations

from cases import Metric
from results import CaseResult, Row, Spread


def table(result: CaseResult) -> str:
    """One case: its rows from best to worst, then what failed."""
    case = result.case
    lines = [f"{case.name}: {case.title}", ""]
    if result.measured:
        lines += [*_grid(result), ""]
    for row in result.failed:
        lines += _failures(row)
    return "\n".join(lines)


def _grid(result: CaseResult) -> list[str]:
    case, reference = result.case, result.reference
    assert reference is not None
    name = reference.server.name
    heading = [
        "server",
        case.headline.label,
        "(low-high)",
        *(metric.label for metric in case.others),
        f"{name} is",
        "(low-high)",
    ]
    key = case.headline.key
    ranked = sorted(result.measured, key=lambda row: row.spread(key).median)
    cells = [heading, *(_cells(result, row) for row in ranked)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(_align, line, widths, range(99))).rstrip() for line in cells]


def _cells(result: CaseResult, row: Row) -> list[str]:
    case = result.case
    ratio = result.ratio(row)
    return [
        row.server.name,
        *_with_range(row.spread(case.headline.key), case.headline),
        *(_number(row.spread(m.key).median, m.decimals) for m in case.others),
        *(_with_range(ratio, Metric("", "", 3)) if ratio else ("", "")),
    ]


def _with_range(spread: Spread, metric: Metric) -> tuple[str, str]:
    low, high = (_number(value, metric.decimals) for value in (spread.low, spread.high))
    return _number(spread.median, metric.decimals), f"({low}-{high})"


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


def _align(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def _failures(row: Row) -> list[str]:
    lines = []
    for failure in row.failures:
        first, *rest = failure.splitlines()
        lines.append(f"{row.server.name} {first}")
        lines += [f"    {line}" for line in rest]
    return [*lines, ""]
