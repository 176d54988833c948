"""A table as neutral cells: what it says, apart from how Markdown, LaTeX, HTML or a terminal show it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fgaseg.reporting.statistics import Interval

MINUS, DASH, PLUS_MINUS = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{PLUS-MINUS SIGN}"
DISTINCT = "*"


@dataclass(frozen=True)
class Number:
    """A number, with its standard deviation over seeds and its interval where there are any.

    `best` is the highest of its column; `distinct` says of a difference whether its interval excludes 0 (None: no such test).
    """

    value: float
    interval: Interval | None = None
    signed: bool = False
    deviation: float | None = None
    best: bool = False
    distinct: bool | None = None
    decimals: int = 1

    @property
    def shown(self) -> str:
        """The number itself, as it is printed."""
        return self._format(self.value) + (DISTINCT if self.distinct else "")

    @property
    def spread(self) -> str:
        """What follows the number, with a space before it; empty without deviation and interval."""
        text = "" if self.deviation is None else f" {PLUS_MINUS} {self.deviation:.{self.decimals}f}"
        if self.interval is None:
            return text
        joint = " to " if self.signed else DASH
        return f"{text} ({self._format(self.interval.low)}{joint}{self._format(self.interval.high)})"

    def __str__(self) -> str:
        return self.shown + self.spread

    def _format(self, value: float) -> str:
        rounded = round(value, self.decimals) + 0.0  # no minus before a zero
        sign = "+" if self.signed and rounded else ""
        return f"{rounded:{sign}.{self.decimals}f}".replace("-", MINUS)


@dataclass(frozen=True)
class Missing:
    """A number that has not been measured yet."""

    def __str__(self) -> str:
        return "missing"


Cell = str | Number | Missing


@dataclass(frozen=True)
class Line:
    """One line of cells; `notes` are keys of the table's footnotes, `strong` marks what the table is about."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Section:
    """Lines under their own header and label; a rule separates the groups of lines."""

    label: str
    header: tuple[str, ...]
    groups: tuple[tuple[Line, ...], ...]
    text_columns: int = 1

    def __post_init__(self) -> None:
        for group in self.groups:
            for line in group:
                assert len(line.cells) == len(self.header), (line, self.header)


@dataclass(frozen=True)
class Table:
    """Sections with a title; `notes` maps the key of a footnote to its text.

    `remarks` are sentences that stand below; `origins` leads from each row to what made it.
    """

    key: str
    title: str
    caption: str
    sections: tuple[Section, ...]
    notes: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    origins: Section | None = None

    def used_notes(self) -> list[str]:
        """Keys of the footnotes that a line refers to, in the order of `notes`."""
        used = {key for section in self.sections for group in section.groups for line in group for key in line.notes}
        return [key for key in self.notes if key in used]


def mark_best(lines: Sequence[Line], first: int) -> tuple[Line, ...]:
    """`lines` with the highest number of each column from `first` on marked as best; equal ones, as printed, all are."""
    columns = list(zip(*(line.cells for line in lines), strict=True))
    tops = [max((round(cell.value, cell.decimals) for cell in c if isinstance(cell, Number)), default=None) for c in columns]

    def marked(i: int, cell: Cell) -> Cell:
        is_best = i >= first and isinstance(cell, Number) and round(cell.value, cell.decimals) == tops[i]
        return replace(cell, best=True) if is_best and isinstance(cell, Number) else cell

    return tuple(replace(line, cells=tuple(marked(i, cell) for i, cell in enumerate(line.cells))) for line in lines)
