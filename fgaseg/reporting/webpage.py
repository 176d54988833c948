"""A neutral table as a part of an HTML page."""

import html

from fgaseg.reporting.layout import Cell, Line, Missing, Number, Section, Table

_MARKS = "\N{DAGGER}\N{DOUBLE DAGGER}\N{SECTION SIGN}\N{PILCROW SIGN}"
STYLE = """
.fgaseg-table h3 { font-size: 1.3rem; margin: 0 0 .3rem; }
.fgaseg-table h4 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.fgaseg-table .scroll { overflow-x: auto; }
.fgaseg-table table { border-collapse: collapse; width: 100%; font-size: .92em; font-variant-numeric: tabular-nums; }
.fgaseg-table th, .fgaseg-table td { padding: .25rem .55rem; text-align: right; white-space: nowrap; vertical-align: top; }
.fgaseg-table thead th { border-top: 2px solid #1c2126; border-bottom: 1px solid #1c2126; font-weight: 600; }
.fgaseg-table tbody th { font-weight: 400; }
.fgaseg-table .text { text-align: left; white-space: normal; }
.fgaseg-table tbody + tbody tr:first-child > * { border-top: 1px solid #aab2ba; }
.fgaseg-table tbody:last-child tr:last-child > * { border-bottom: 2px solid #1c2126; }
.fgaseg-table .strong { background: #f1f4f7; }
.fgaseg-table .strong .text, .fgaseg-table .best { font-weight: 700; }
.fgaseg-table .missing { color: #a4262c; font-style: italic; }
.fgaseg-table .distinct { color: #0b4f8a; font-weight: 700; }
.fgaseg-table .indistinct, .fgaseg-table .spread { color: #5b6670; }
.fgaseg-table .spread { display: block; font-size: .86em; font-weight: 400; }
.fgaseg-table .note { color: #414a52; margin: .4rem 0; }
.fgaseg-table details { margin: .8rem 0; }
"""


def marks(table: Table) -> dict[str, str]:
    """The sign of each footnote in use."""
    return dict(zip(table.used_notes(), _MARKS, strict=False))


def _number(cell: Number) -> str:
    kinds = {True: ["distinct"], False: ["indistinct"], None: []}[cell.distinct] + ["best"] * cell.best
    shown = html.escape(cell.shown)
    shown = f'<span class="{" ".join(kinds)}">{shown}</span>' if kinds else shown
    return shown + (f'<span class="spread">{html.escape(cell.spread.strip())}</span>' if cell.spread else "")


def _cell(cell: Cell, signs: str, first: bool, is_text: bool) -> str:
    if isinstance(cell, Number):
        return f"<td>{_number(cell)}</td>"
    kind = ' class="missing"' if isinstance(cell, Missing) else ' class="text"' if is_text else ""
    text = html.escape(str(cell) + signs)
    return f'<th scope="row"{kind}>{text}</th>' if first and text else f"<td{kind}>{text}</td>"


def _line(line: Line, section: Section, signs: dict[str, str]) -> str:
    notes = "".join(signs[note] for note in line.notes)
    cells = [_cell(cell, "" if i else notes, i == 0, i < section.text_columns) for i, cell in enumerate(line.cells)]
    row = '<tr class="strong">' if line.strong else "<tr>"
    return f"{row}{''.join(cells)}</tr>"


def _section(section: Section, signs: dict[str, str]) -> str:
    kinds = [' class="text"'] * section.text_columns + [""] * (len(section.header) - section.text_columns)
    heads = [f'<th scope="col"{kind}>{html.escape(name)}</th>' for kind, name in zip(kinds, section.header, strict=True)]
    bodies = ["\n".join(["<tbody>", *(_line(line, section, signs) for line in group), "</tbody>"]) for group in section.groups]
    content = "\n".join([f"<thead><tr>{''.join(heads)}</tr></thead>", *bodies])
    return f'<div class="scroll"><table>\n{content}\n</table></div>'


def fragment(table: Table) -> str:
    """The table without a page around it: headings from h3 down, the id `table-<key>`; it looks as `STYLE` says."""
    signs = marks(table)
    parts = [f'<section class="fgaseg-table" id="table-{table.key}">']
    parts += [f"<h3>{html.escape(table.title)}</h3>", f"<p>{html.escape(table.caption)}</p>"]
    for section in table.sections:
        parts += [f"<h4>{html.escape(section.label)}</h4>", _section(section, signs)]
    sentences = [*(f"{sign} {table.notes[key]}" for key, sign in signs.items()), *table.remarks]
    parts += [f'<p class="note">{html.escape(sentence)}</p>' for sentence in sentences]
    if table.origins:
        summary = f"<summary>{html.escape(table.origins.label)}</summary>"
        parts.append(f"<details>{summary}\n{_section(table.origins, signs)}\n</details>")
    return "\n".join([*parts, "</section>"])
