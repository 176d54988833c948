"""A neutral table as Markdown, LaTeX (booktabs) and text for a terminal; `webpage.py` makes HTML of it."""

import textwrap
from collections.abc import Callable, Sequence

from fgaseg.reporting.layout import DASH, MINUS, PLUS_MINUS, Line, Number, Section, Table
from fgaseg.reporting.webpage import marks


def _cells(
    section: Section,
    line: Line,
    signs: dict[str, str],
    escape: Callable[[str], str],
    bold: Callable[[str], str],
    spread: Callable[[str, str], str] = str.__add__,
) -> list[str]:
    """The cells as text: bold are the best numbers, and the texts of a strong line. The first carries the footnotes.

    `spread` joins a number and the interval that follows it.
    """
    texts = []
    for i, cell in enumerate(line.cells):
        if isinstance(cell, Number):
            shown = escape(cell.shown)
            shown = bold(shown) if cell.best else shown
            texts.append(spread(shown, escape(cell.spread)) if cell.spread else shown)
        else:
            text = escape(str(cell) + ("".join(signs[note] for note in line.notes) if i == 0 else ""))
            texts.append(bold(text) if line.strong and text and i < section.text_columns else text)
    return texts


def _markdown_section(section: Section, signs: dict[str, str]) -> str:
    rule = ["---" if i < section.text_columns else "---:" for i in range(len(section.header))]
    rows = [list(section.header), rule]
    for line in (line for group in section.groups for line in group):
        rows.append(_cells(section, line, signs, lambda text: text.replace("|", "\\|").replace("*", "\\*"), "**{}**".format))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown(table: Table) -> str:
    """GitHub's Markdown: one table for each section, under its label."""
    signs = marks(table)
    parts = [f"## {table.title}", table.caption]
    for section in table.sections:
        parts += [f"**{section.label}**", _markdown_section(section, signs)]
    parts += [f"{sign} {table.notes[key]}" for key, sign in signs.items()]
    parts += table.remarks
    if table.origins:
        summary = f"<details><summary>{table.origins.label}</summary>"
        parts += [summary, _markdown_section(table.origins, signs), "</details>"]
    return "\n\n".join(parts) + "\n"


_LATEX_PAGE, _LATEX_HEAD = 50, 4  # lines that a page holds, lines that a section's label and header take
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DASH: "--",
    MINUS: "$-$",
    PLUS_MINUS: r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\to$",
    "\N{DAGGER}": r"\textdagger{}",
    "\N{DOUBLE DAGGER}": r"\textdaggerdbl{}",
    "\N{SECTION SIGN}": r"\textsection{}",
    "\N{PILCROW SIGN}": r"\textparagraph{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _stack(number: str, spread: str) -> str:
    """The interval in small print below the number, as columns would be too wide for a page otherwise."""
    padded = rf"\rule{{0pt}}{{2.6ex}}{number}\\{{\tiny\rule[-1.2ex]{{0pt}}{{0pt}}{spread.strip()}}}"
    return rf"$\vcenter{{\hbox{{\shortstack[r]{{{padded}}}}}}}$"


def _latex_section(section: Section, signs: dict[str, str]) -> list[str]:
    columns = "l" * section.text_columns + "r" * (len(section.header) - section.text_columns)
    parts = [
        rf"\par\medskip\textbf{{{_escape_latex(section.label)}}}\par\smallskip",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(_escape_latex(name) for name in section.header) + r" \\",
    ]
    for group in section.groups:
        parts.append(r"\midrule")
        for line in group:
            cells = _cells(section, line, signs, _escape_latex, r"\textbf{{{}}}".format, _stack)
            parts.append(" & ".join(cells) + r" \\")
    return [*parts, r"\bottomrule", r"\end{tabular}}"]


def _floats(sections: Sequence[Section]) -> list[list[Section]]:
    """The sections in order, as many to a float as a page holds."""
    floats: list[list[Section]] = [[]]
    height = 0
    for section in sections:
        lines = _LATEX_HEAD + sum(map(len, section.groups))
        if floats[-1] and height + lines > _LATEX_PAGE:
            floats.append([])
            height = 0
        floats[-1].append(section)
        height += lines
    return floats


def latex(table: Table) -> str:
    r"""A `table*`, or several, for a document with booktabs and graphicx: one tabular for each section, under its label."""
    signs = marks(table)
    sentences = [*(f"{sign} {table.notes[key]}" for key, sign in signs.items()), *table.remarks]
    caption = rf"\caption{{{_escape_latex(f'{table.title}. {table.caption}')}}}\label{{tab:{table.key}}}"
    parts = []
    for sections in _floats(table.sections):
        parts += [r"\begin{table*}", r"\centering\small", caption]
        parts += [line for section in sections for line in _latex_section(section, signs)]
        parts.append(r"\end{table*}")
        caption = rf"\par {_escape_latex(table.title)} (continued)"
    closing = [rf"\par\smallskip\footnotesize {_escape_latex(sentence)}" for sentence in sentences]
    return "\n".join([*parts[:-1], *closing, parts[-1]]) + "\n"


def terminal(table: Table, width: int = 100) -> str:
    """Aligned text; sentences are wrapped at `width`, and the columns are as wide as they must be."""
    signs = marks(table)
    parts = [textwrap.fill(table.title, width)]
    for section in table.sections:
        plain = [_cells(section, line, signs, str, str) for group in section.groups for line in group]
        rows = [list(section.header), *plain]
        widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < section.text_columns else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        header, *body = [line.rstrip() for line in lines]
        parts.append("\n".join(filter(None, [textwrap.fill(section.label, width), header])))
        for group in section.groups:
            parts[-1] += "\n" + "\n".join([rule, *body[: len(group)]])
            body = body[len(group) :]
    parts += [
        textwrap.fill(text, width)
        for text in [table.caption, *(f"{sign} {table.notes[key]}" for key, sign in signs.items())]
        if text
    ]
    return "\n\n".join(parts) + "\n"
