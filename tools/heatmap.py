"""A map of which of two methods is better, over students that are named KIND-VALUE: SVG, and Markdown.

    python tools/heatmap.py runs recipes/experiments/map.yaml -o map.svg --minus "MiCoTA, all rows" Instruct

Each `--minus A B` and kind of student makes a row, each value a column. A cell says by how many points A is
better than B on the same problems (by the recipe's verdict, unweighted over the benchmarks), and below that
what A has in percent. It is framed where the 95% interval of the difference (grading/intervals.py) leaves out
zero; blue is better.
"""

import argparse
import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

from micota_lf import results
from micota_lf.errors import UserError, must_know
from micota_lf.reports.outcomes import AVERAGE, Outcomes
from micota_lf.reports.tables import accuracies, differences

WIDE, HIGH, LEFT, TOP = 92, 44, 300, 34  # of a cell, and of what stands beside and above all of them
FULL = 60.0  # points at which a colour is full
BETTER, WORSE = "#0072b2", "#d55e00"  # told apart by colour-blind people too (Okabe and Ito)


class Cell(NamedTuple):
    """How much better one method is than another, its 95% interval, the first one's accuracy; in percent."""

    points: float
    low: float
    high: float
    right: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return not self.low <= 0 <= self.high


def compared(outcomes: Outcomes, student: str, first: str, second: str) -> Cell | None:
    """The cell of two methods on one student; None where one of them is not evaluated."""
    ours, other = (f"evaluate/{student}/{method}" for method in (first, second))
    if not (found := differences(outcomes, ours, other).get(AVERAGE)):
        return None
    right = accuracies(outcomes, ours)[-1]["accuracy"]
    return Cell(*(100 * value for value in (found["difference"], found["low"], found["high"], right)))


def svg(columns: list[str], rows: dict[str, list[Cell | None]]) -> str:
    """The drawing; a cell without a value is empty."""
    width, height = LEFT + WIDE * len(columns) + 8, TOP + HIGH * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13" text-anchor="middle"><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for n, column in enumerate(columns):
        parts.append(f'<text x="{LEFT + WIDE * (n + 0.5)}" y="{TOP - 12}">{escape(column)}</text>')
    for m, (name, cells) in enumerate(rows.items()):
        y = TOP + HIGH * m
        parts.append(f'<text x="{LEFT - 12}" y="{y + 27}" text-anchor="end">{escape(name)}</text>')
        for n, cell in enumerate(cells):
            if cell:
                x, colour = LEFT + WIDE * n, BETTER if cell.points > 0 else WORSE
                shade = f'fill="{colour}" fill-opacity="{0.7 * min(1, abs(cell.points) / FULL):.2f}"'
                frame = ' stroke="#000" stroke-width="1.5"' if cell.sure else ""
                box = f'x="{x + 2}" y="{y + 2}" width="{WIDE - 4}" height="{HIGH - 4}"'
                parts.append(f"<rect {box} {shade}{frame}/>")
                parts.append(f'<text x="{x + WIDE / 2}" y="{y + 20}">{cell.points:+.1f}</text>')
                small = f'<text x="{x + WIDE / 2}" y="{y + 35}" font-size="11">{cell.right:.1f}%</text>'
                parts.append(small)
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Read, draw, print."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--minus", nargs=2, action="append", required=True, metavar=("A", "B"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_intermixed_args()
    _, outcomes = next(results(args.recipe, args.overrides, args.workspace).outcomes())
    recipe = outcomes.recipe
    for method in {name for pair in args.minus for name in pair}:
        must_know(method, recipe.methods, "--minus")
    kinds = [tuple(student.rpartition("-")[::2]) for student in recipe.students]
    columns, rows = [*dict.fromkeys(value for kind, value in kinds if kind)], dict[str, list[Cell | None]]()
    for first, second in args.minus:
        for kind in dict.fromkeys(kind for kind, _ in kinds if kind):
            cells = [compared(outcomes, f"{kind}-{value}", first, second) for value in columns]
            if any(cells):
                rows[f"{kind}: {first} - {second}"] = cells
    if not rows:
        raise UserError(f"{args.workspace}: no student of {args.recipe} has been evaluated with both methods")
    args.output.write_text(svg(columns, rows), encoding="utf-8")
    print(f"| points [95%], A in percent | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, cells in rows.items():
        shown = (f"{c.points:+.1f} [{c.low:+.1f}, {c.high:+.1f}], {c.right:.1f}" if c else "" for c in cells)
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"heatmap.py: {error}")
