# The plan behind all rules: which runs and evaluations there are, and where their files lie.

from pathlib import Path

from fgaseg.data.raw import RAW_DATASETS
from fgaseg.errors import UserError
from fgaseg.plan import Plan

try:
    PLAN = Plan(Path(), config["scale"])
except UserError as error:
    raise WorkflowError(str(error)) from None

SCALE = PLAN.scale
RESULTS = f"results/{SCALE}"
LOGS = f"{RESULTS}/logs"
ENVIRONMENT = "../../environment.yml"
TRACKED_DATA = (
    [] if PLAN.digest == "untracked" else ["data.dvc"]
)  # another scale's data must not make this one stale

TIMED = [  # tables whose rows differ in speed
    key
    for key, table in PLAN.tables.items()
    if table.target == "all" and any(row.params.evaluation.top_n for row in table.rows)
]

# What a job needs at each scale.
MEMORY_MB = {"sample": 3000, "paper": 24000}[SCALE]
PREPARE_PROCESSES = {"sample": 1, "paper": 8}[SCALE]
GPUS = {"sample": 0, "paper": 1}[SCALE]


wildcard_constraints:
    dataset="|".join(RAW_DATASETS),
    backbone="|".join(PLAN.backbones),
    run="|".join(PLAN.runs),
    evaluation="|".join(PLAN.evaluations),
    scope="main|all|fidelity",


def dataset_files(name):
    """The files that show that a prepared dataset is complete."""
    folder = PLAN.paths.dataset(name)
    return [str(folder / "index.csv"), str(folder / "classes.json")]


def backbone_file(params):
    return str(PLAN.paths.vlm(params.vlm.backbone))


def run_inputs(wildcards):
    """What a training reads: its datasets and its backbone."""
    params = PLAN.runs[wildcards.run]
    return [
        *dataset_files(params.data.train),
        *dataset_files(params.data.validation),
        backbone_file(params),
    ]


def evaluation_inputs(wildcards):
    """What an evaluation reads: all benchmarks, the training set's class list, and a model."""
    row = PLAN.evaluations[wildcards.evaluation]
    datasets = [*row.params.data.benchmarks, row.params.data.train]
    files = [file for name in datasets for file in dataset_files(name)]
    if row.run_id:
        files.append(f"{RESULTS}/runs/{row.run_id}/model.safetensors")
    return [*files, backbone_file(row.params)]


def report_rows(scope):
    """The rows that a report shows: the main job's two, or those of all tables of the scope."""
    if scope == "main":
        return PLAN.main_rows
    return [row for table in PLAN.tables_of(scope) for row in table.rows]


def report_inputs(wildcards):
    """The evaluations that a report shows, and the times per image where a table has such."""
    replicas = [r for row in report_rows(wildcards.scope) for r in row.replicas]
    files = [f"{RESULTS}/evaluations/{r.eval_id}/evaluation.json" for r in replicas]
    if wildcards.scope == "all":
        files += [f"{RESULTS}/timings/{table}.json" for table in TIMED]
    return sorted(set(files))


def report_files(scope):
    """What a person opens, everything else lies beside it; and the mark that MLflow has it."""
    names = ("report.html", "metrics.json")
    return [
        *(f"{RESULTS}/report/{scope}/{name}" for name in names),
        f"{RESULTS}/tracked/{scope}",
    ]
