"""A table as neutral cells: what it says, apart from how Markdown, LaTeX, HTML or a terminal show it."""

from dataclasses import dataclass, field

from fgaseg.evaluation.statistics import Interval

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Number:
    """A number to one decimal, with the interval beside it where there is one."""

    value: float
    interval: Interval | None = None
    signed: bool = False

    def __str__(self) -> str:
        text = self._format(self.value)
        if self.interval is None:
            return text
        joint = " to " if self.signed else DASH
        return f"{text} ({self._format(self.interval.low)}{joint}{self._format(self.interval.high)})"

    def _format(self, value: float) -> str:
        rounded = round(value, 1) + 0.0  # no minus before a zero
        text = f"{rounded:+.1f}" if self.signed and rounded else f"{rounded:.1f}"
        return text.replace("-", MINUS)


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
    """Sections with a title; `notes` maps the key of a footnote to its text."""

    key: str
    title: str
    caption: str
    sections: tuple[Section, ...]
    notes: dict[str, str] = field(default_factory=dict)

    def used_notes(self) -> list[str]:
        """Keys of the footnotes that a line refers to, in the order of `notes`."""
        used = {key for section in self.sections for group in section.groups for line in group for key in line.notes}
        return [key for key in self.notes if key in used]
