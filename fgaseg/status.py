"""Text for `fgaseg status`: how far all trainings of the plan are."""

import textwrap
from collections import Counter
from statistics import median
from typing import get_args

from fgaseg.plan import Plan, Scope
from fgaseg.progress import Progress, State, duration, like, observe, runs_of

_ADVICE = {
    "silent": "alive, but without progress: look at the logs in its folder, and cancel it if it hangs",
    "stopped": "nobody works on it: start the workflow again, and it goes on from its last checkpoint",
    "failed": "mend the cause, then start the workflow again",
}


def _needed_by(plan: Plan, scope: Scope) -> dict[str, str]:
    """The rows of the scope's tables that need each run, such as `4b:2`, with the seed where it is not the row's first."""
    shown = {table.key for table in plan.tables_of(scope)}
    labels: dict[str, list[str]] = {}
    for row in sorted(plan.rows, key=lambda row: row.table not in shown):
        for i, replica in enumerate(row.replicas):
            known = labels.setdefault(replica.run_id or "", [])
            if row.table in shown or not known:
                known.append(f"{row.table.removeprefix('table_')}:{row.number}" + f"#{replica.params.training.seed}" * bool(i))
    return {run: " ".join(names) for run, names in labels.items()}


def _cells(run: str, rows: str, progress: Progress, iterations: int) -> list[str]:
    left = (iterations - progress.step) * progress.seconds if progress.seconds and progress.state == "running" else None
    return [
        run,
        rows,
        progress.state,
        f"{progress.step}/{iterations}",
        f"{progress.seconds:.2f}" if progress.seconds else "-",
        "-" if left is None else duration(left),
        progress.job or "-",
        "-" if progress.restarts is None else str(progress.restarts),
    ]


def _table(rows: list[list[str]], remarks: list[list[str]], width: int) -> list[str]:
    """Aligned lines of at most `width`; of a row's remarks the first stands at its end where it fits, others beneath."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[1] = max(9, min(24, width - sum(widths) + widths[1] - 2 * (len(widths) - 1)))
    lines = []
    for cells, notes in zip(rows, remarks, strict=True):
        cells[1] = textwrap.shorten(cells[1], widths[1], placeholder=" ...")
        line = "  ".join(f"{cell:{'<' if i < 3 else '>'}{widths[i]}}" for i, cell in enumerate(cells))
        fits = bool(notes) and len(line) + 2 + len(notes[0]) <= width
        lines.append(f"{line}  {notes[0]}" if fits else line)
        for note in notes[fits:]:
            lines += textwrap.wrap(note, width, initial_indent="    ", subsequent_indent="    ")
    return lines


def _trainings(number: int) -> str:
    return f"{number} training{'s' * (number != 1)}"


def status(plan: Plan, scope: Scope, width: int = 100, now: float | None = None, host: str | None = None) -> str:
    """A line for each training of the scope, and a summary."""
    evaluations, runs, needed = plan.evaluations_of(scope), runs_of(plan, scope), _needed_by(plan, scope)
    found = {run: observe(plan, run, now, host) for run in runs}
    rows = [_cells(run, needed[run], progress, runs[run].training.iterations) for run, progress in found.items()]
    remarks = [[*filter(None, [progress.remark]), *progress.notes] for progress in found.values()]
    header = ["run", "rows", "state", "iteration", "s/it", "left", "job", "restarts"]
    lines = [*_table([header, *rows], [[], *remarks], width), ""]
    count = Counter(progress.state for progress in found.values())
    states = [state for state in get_args(State) if count[state]]
    lines.append(f"{plan.scale} scale, {_trainings(len(runs))}: " + ", ".join(f"{count[state]} {state}" for state in states))
    todo = {run: runs[run].training.iterations - progress.step for run, progress in found.items() if progress.state != "done"}
    speeds = {run: progress.seconds for run, progress in found.items() if progress.seconds}
    if todo and speeds:
        left, at_once = sum(steps * median(like(run, speeds, runs)) for run, steps in todo.items()), count["running"]
        together = f", {duration(left / at_once)} with {at_once} at once" if at_once > 1 else ""
        lines.append(f"{_trainings(len(todo))} left: {duration(left)} of iterations one after another{together}")
    elif todo:
        lines.append(f"{_trainings(len(todo))} left: for how long is not known until one has run a while")
    evaluated = sum((plan.paths.evaluation(evaluation) / "evaluation.json").exists() for evaluation in evaluations)
    lines.append(f"evaluations: {evaluated} of {len(evaluations)} done")
    return "\n".join([*lines, *(f"{state}: {_ADVICE[state]}" for state in states if state in _ADVICE)])
