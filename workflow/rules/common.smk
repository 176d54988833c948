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

# What a job needs at each scale.
MEMORY_MB = {"sample": 3000, "paper": 24000}[SCALE]
PREPARE_PROCESSES = {"sample": 1, "paper": 8}[SCALE]
GPUS = {"sample": 0, "paper": 1}[SCALE]


wildcard_constraints:
    dataset="|".join(RAW_DATASETS),
    backbone="|".join(PLAN.backbones),
    run="|".join(PLAN.runs),
    evaluation="|".join(PLAN.evaluations),
    scope="main|all",


def dataset_files(name):
    """The files that show that a prepared dataset is complete."""
    return [f"{RESULTS}/data/{name}/index.csv", f"{RESULTS}/data/{name}/classes.json"]


def backbone_file(params):
    return f"{RESULTS}/vlm/{params.vlm.backbone}.pt"


def run_inputs(wildcards):
    """What a training reads: its datasets and its backbone."""
    params = PLAN.runs[wildcards.run]
    return [
        *dataset_files(params.data.train),
        *dataset_files(params.data.validation),
        backbone_file(params),
    ]


def evaluation_file(row):
    return f"{RESULTS}/evaluations/{row.eval_id}/evaluation.json"


def evaluation_inputs(wildcards):
    """What an evaluation reads: all benchmarks, the training set's class list, and a model."""
    row = PLAN.evaluations[wildcards.evaluation]
    datasets = [*row.params.data.benchmarks, row.params.data.train]
    files = [file for name in datasets for file in dataset_files(name)]
    if row.run_id:
        files.append(f"{RESULTS}/runs/{row.run_id}/model.safetensors")
    return [*files, backbone_file(row.params)]


def report_inputs(wildcards):
    """The evaluations that a report shows: Table I's of the default backbone, or all of Table I's."""
    rows = PLAN.main_rows if wildcards.scope == "main" else PLAN.tables["table_1"].rows
    return [evaluation_file(row) for row in rows]


def report_files(scope):
    names = [
        "table_1.md",
        "table_1.csv",
        "table_1.tex",
        "table_1.txt",
        "table_1.html",
        "metrics.json",
        "segmentation.png",
        "pseudo_masks.png",
        "training.png",
    ]
    return [f"{RESULTS}/report/{scope}/{name}" for name in names]
