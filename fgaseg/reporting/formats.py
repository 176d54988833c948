"""A neutral table as Markdown, LaTeX (booktabs), HTML and text for a terminal."""

import html
import textwrap

from fgaseg.reporting.layout import DASH, MINUS, Cell, Line, Missing, Section, Table

_MARKS = "\N{DAGGER}\N{DOUBLE DAGGER}\N{SECTION SIGN}\N{PILCROW SIGN}"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2126; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin-bottom: .3rem; } h2 { font-size: 1.02rem; margin: 1.8rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .65rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #1c2126; font-weight: 600; } tr:first-child th { border-top: 2px solid #1c2126; }
.text { text-align: left; } tbody + tbody tr:first-child td { border-top: 1px solid #aab2ba; }
tbody:last-child tr:last-child td { border-bottom: 2px solid #1c2126; }
.strong td { font-weight: 600; }
.missing { color: #a4262c; font-style: italic; } .interval { color: #5b6670; font-weight: 400; }
.note { color: #5b6670; margin: .3rem 0; }
"""


def marks(table: Table) -> dict[str, str]:
    """The sign of each footnote in use."""
    return dict(zip(table.used_notes(), _MARKS, strict=False))


def _cells(line: Line, signs: dict[str, str]) -> list[str]:
    first, *rest = [str(cell) for cell in line.cells]
    return [first + "".join(signs[note] for note in line.notes), *rest]


def _strong(text: str, before: str, after: str) -> str:
    """`text` set off, without the interval that follows a number."""
    value, bracket, rest = text.partition(" (") if text[:1] in f"+{MINUS}0123456789" else (text, "", "")
    return f"{before}{value}{after}{bracket}{rest}" if value else text


def markdown(table: Table) -> str:
    """GitHub's Markdown: one table for each section, under its label."""
    signs = marks(table)
    parts = [f"## {table.title}", table.caption]
    for section in table.sections:
        rule = ["---" if i < section.text_columns else "---:" for i in range(len(section.header))]
        rows = [list(section.header), rule]
        for group in section.groups:
            for line in group:
                cells = [cell.replace("|", "\\|") for cell in _cells(line, signs)]
                rows.append([_strong(cell, "**", "**") for cell in cells] if line.strong else cells)
        parts += [f"**{section.label}**", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    parts += [f"{sign} {table.notes[key]}" for key, sign in signs.items()]
    return "\n\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DASH: "--",
    MINUS: "$-$",
    "\N{DAGGER}": r"\textdagger{}",
    "\N{DOUBLE DAGGER}": r"\textdaggerdbl{}",
    "\N{SECTION SIGN}": r"\textsection{}",
    "\N{PILCROW SIGN}": r"\textparagraph{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    r"""A `table*` for a document with booktabs and graphicx: one tabular for each section, under its label."""
    signs = marks(table)
    parts = [r"\begin{table*}", r"\centering\small", rf"\caption{{{_escape_latex(f'{table.title}. {table.caption}')}}}"]
    parts.append(rf"\label{{tab:{table.key}}}")
    for section in table.sections:
        columns = "l" * section.text_columns + "r" * (len(section.header) - section.text_columns)
        parts += [rf"\par\medskip\textbf{{{_escape_latex(section.label)}}}\par\smallskip"]
        parts += [
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
        ]
        parts.append(" & ".join(_escape_latex(name) for name in section.header) + r" \\")
        for group in section.groups:
            parts.append(r"\midrule")
            for line in group:
                cells = [_escape_latex(cell) for cell in _cells(line, signs)]
                cells = [_strong(cell, r"\textbf{", "}") for cell in cells] if line.strong else cells
                parts.append(" & ".join(cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}}"]
    parts += [rf"\par\smallskip\footnotesize {_escape_latex(f'{sign} {table.notes[key]}')}" for key, sign in signs.items()]
    return "\n".join([*parts, r"\end{table*}"]) + "\n"


def _html_cell(cell: Cell, text: str, is_text: bool) -> str:
    if isinstance(cell, Missing):
        return f'<td class="missing">{html.escape(text)}</td>'
    if is_text:
        return f'<td class="text">{html.escape(text)}</td>'
    value, bracket, interval = text.partition(" (")
    return f'<td>{html.escape(value)}<span class="interval">{html.escape(bracket + interval)}</span></td>'


def _html_section(section: Section, signs: dict[str, str]) -> str:
    text = ['<th class="text">'] * section.text_columns + ["<th>"] * (len(section.header) - section.text_columns)
    head = "".join(f"{tag}{html.escape(name)}</th>" for tag, name in zip(text, section.header, strict=True))
    bodies = []
    for group in section.groups:
        rows = []
        for line in group:
            pairs = zip(line.cells, _cells(line, signs), strict=True)
            cells = "".join(_html_cell(cell, shown, i < section.text_columns) for i, (cell, shown) in enumerate(pairs))
            rows.append(f'<tr class="strong">{cells}</tr>' if line.strong else f"<tr>{cells}</tr>")
        bodies.append("\n".join(["<tbody>", *rows, "</tbody>"]))
    body = "\n".join(bodies)
    content = f"<thead><tr>{head}</tr></thead>\n{body}"
    return f'<h2>{html.escape(section.label)}</h2>\n<div class="scroll"><table>\n{content}\n</table></div>'


def page(*tables: Table) -> str:
    """A page that stands on its own: no script, no font, no request."""
    parts = []
    for table in tables:
        signs = marks(table)
        parts += [f"<h1>{html.escape(table.title)}</h1>", f"<p>{html.escape(table.caption)}</p>"]
        parts += [_html_section(section, signs) for section in table.sections]
        parts += [f'<p class="note">{sign} {html.escape(table.notes[key])}</p>' for key, sign in signs.items()]
    meta = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">'
    head = f"{meta}\n<title>{html.escape(tables[0].title)}</title>\n<style>{_STYLE}</style>"
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def terminal(table: Table, width: int = 100) -> str:
    """Aligned text; sentences are wrapped at `width`, and the columns are as wide as they must be."""
    signs = marks(table)
    parts = [textwrap.fill(table.title, width)]
    for section in table.sections:
        rows = [list(section.header), *(_cells(line, signs) for group in section.groups for line in group)]
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
