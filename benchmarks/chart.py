"""The results as one SVG picture: a bar for each server in each case.

A bar is the median, the thin line on it the lowest and highest round. The picture
brings its own background and follows the reader's light or dark preference, so that it
is legible wherever it is put.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from results import CaseResult, Row
from servers import OURS

WIDTH = 760
MARGIN = 24
LABELS = 190
#: Room to the right of the longest bar for its figure and the ratio.
FIGURES = 150
ROW = 26
BAR = 14
CASE_HEADING = 46
CASE_GAP = 14
TITLE = 40
FOOT = 34

STYLE = """
  .paper { fill: #ffffff }
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 17px; font-weight: 600 }
  .case { font-weight: 600 }
  .quiet { fill: #57606a; font-size: 12px }
  .bar { fill: #afb8c1 }
  .ours { fill: #0c7c59 }
  .range { stroke: #57606a; stroke-width: 1.5 }
  .label { text-anchor: end }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 }
    text { fill: #e6edf3 }
    .quiet { fill: #9198a1 }
    .bar { fill: #6e7681 }
    .ours { fill: #2fbf8f }
    .range { stroke: #b1bac4 }
  }
"""


def chart(results: list[CaseResult], title: str, foot: str) -> str:
    drawn = [result for result in results if result.measured]
    parts: list[str] = []
    top = MARGIN + TITLE
    for result in drawn:
        parts += _case(result, top)
        top += CASE_HEADING + ROW * len(result.measured) + CASE_GAP
    height = top + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
            f'height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{_quoted(_summary(drawn))}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>',
            _text("title", MARGIN, MARGIN + 16, title),
            *parts,
            _text("quiet", MARGIN, height - MARGIN, foot),
            "</svg>\n",
        ]
    )


def _case(result: CaseResult, top: int) -> list[str]:
    metric = result.case.headline
    ranked = sorted(result.measured, key=lambda row: row.spread(metric.key).median)
    longest = max(row.spread(metric.key).high for row in ranked)
    scale = (WIDTH - 2 * MARGIN - LABELS - FIGURES) / longest
    parts = [
        _text("case", MARGIN, top + 14, result.case.title),
        _text("quiet", MARGIN, top + 32, f"{metric.label}, less is better"),
    ]
    for index, row in enumerate(ranked):
        parts += _bar(result, row, top + CASE_HEADING + ROW * index, scale)
    return parts


def _bar(result: CaseResult, row: Row, top: int, scale: float) -> list[str]:
    metric = result.case.headline
    spread = row.spread(metric.key)
    ratio = result.ratio(row)
    left = MARGIN + LABELS
    low, middle, high = (
        left + value * scale for value in (spread.low, spread.median, spread.high)
    )
    line = top + BAR / 2
    kind = "bar ours" if row.server.name == OURS else "bar"
    figure = f"{spread.median:,.{metric.decimals}f}"
    if ratio is not None:
        figure += f"  ({1 / ratio.median:,.2f}×)"
    return [
        _text("label", left - 10, top + BAR - 2, row.server.name),
        f'<rect class="{kind}" x="{left}" y="{top}" width="{middle - left:.1f}" '
        f'height="{BAR}" rx="2"/>',
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{line}" y2="{line}"/>',
        _text("quiet", high + 8, top + BAR - 2, figure),
    ]


def _summary(results: list[CaseResult]) -> str:
    sentences = []
    for result in results:
        metric = result.case.headline
        figures = ", ".join(
            f"{row.server.name} {row.spread(metric.key).median:.{metric.decimals}f}"
            for row in result.measured
        )
        sentences.append(f"{result.case.title}, {metric.label}: {figures}.")
    return " ".join(sentences)


def _text(kind: str, x: float, y: float, content: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def _quoted(content: str) -> str:
    return escape(content, {'"': "&quot;"})
