# The plan behind all rules: which runs and evaluations there are, and where their files lie.

from pathlib import Path

from fgaseg.catalogue import OwnDataset
from fgaseg.errors import UserError
from fgaseg.identity import data_file
from fgaseg.params import load_launch
from fgaseg.plan import Plan

try:
    PLAN = Plan(Path(), config["scale"])
    LAUNCH = load_launch(Path())
except UserError as error:
    raise WorkflowError(str(error)) from None

SCALE = PLAN.scale
RESULTS = f"results/{SCALE}"
LOGS = f"{RESULTS}/logs"
ENVIRONMENT = "../../environment.yml"
DATA_FILE = data_file(Path(), PLAN.default.data.root)
TRACKED_DATA = [] if DATA_FILE is None else [str(DATA_FILE)]

TIMED = [table.key for table in PLAN.tables_of("all") if table.timed]
TIMING = {"threads": LAUNCH.threads, **LAUNCH.timing.model_dump()}

# What a job needs at each scale.
MEMORY_MB = {"sample": 3000, "paper": 24000}[SCALE]
PREPARE_PROCESSES = {"sample": 1, "paper": 8}[SCALE]
# Each process decodes photographs of up to 12 megapixels; Pascal Context's segments are one large JSON.
PREPARE_MB = {"sample": 2000, "paper": 8000}[SCALE]
GPUS = {"sample": 0, "paper": 1}[SCALE]

# What ordinary jobs ask of SLURM beside that, under the executor plugin's names.
CHOICES = {
    "slurm_partition": LAUNCH.cluster.partition,
    "slurm_account": LAUNCH.cluster.account,
    "qos": LAUNCH.cluster.qos,
    "constraint": LAUNCH.cluster.constraint,
}
CLUSTER = {name: choice for name, choice in CHOICES.items() if choice is not None}


wildcard_constraints:
    dataset="|".join(PLAN.datasets),
    content="|".join([PLAN.paths.data, *PLAN.own.values()]),
    backbone="|".join(PLAN.backbones),
    identity="|".join(PLAN.paths.weights.values()),
    run="|".join(PLAN.runs),
    evaluation="|".join(PLAN.evaluations),
    scope="main|all|fidelity",


def dataset_source(wildcards):
    """What tells that the raw data are others: the file of DVC, or the description of a user's own dataset."""
    dataset = PLAN.datasets[wildcards.dataset]
    if isinstance(dataset, OwnDataset):
        return [str(dataset.described_in)]
    return TRACKED_DATA


def dataset_files(name):
    """The files that show that a prepared dataset is complete."""
    folder = PLAN.paths.dataset(name)
    return [str(folder / "index.csv"), str(folder / "classes.json")]


def where_to_train(wildcards):
    """On the cluster, where Snakemake's executor sends jobs there."""
    return "slurm" if workflow.non_local_exec else "here"


def all_cores(wildcards):
    """Those of this machine; a job of its own on the cluster is alone on its node anyway."""
    return 1 if workflow.non_local_exec else workflow.cores


def backbone_file(params):
    return str(PLAN.paths.vlm(params.vlm.backbone))


def weights_file(wildcards):
    """A file of CLIP's weights, so that another one in its place is noticed; below the data, DVC's file tells that."""
    path = Path(PLAN.backbones[wildcards.backbone].vlm.pretrained)
    tracked = bool(TRACKED_DATA) and path.is_relative_to(PLAN.default.data.root)
    return [str(path)] if path.is_file() and not tracked else []


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


def scores_of(scope):
    """The evaluations that a report shows, and the times per image where a table has such."""
    ids = PLAN.evaluations_of(scope)
    files = [f"{RESULTS}/evaluations/{i}/evaluation.json" for i in ids]
    if scope == "all":
        files += [f"{RESULTS}/timings/{table}.json" for table in TIMED]
    return files


def report_inputs(wildcards):
    """What a report is made from: scores, and the tables' own words and published numbers."""
    tables = [f"params/tables/{t.key}.yaml" for t in PLAN.tables_of(wildcards.scope)]
    return [*scores_of(wildcards.scope), *tables]


def study(scope):
    """The page and the metrics, everything else lies beside them; the mark that MLflow has them; and the scores.

    The scores are there so that one that is missing is always made: without its memory of earlier calls (in a copied
    folder) Snakemake takes a page that is newer than all the files that exist for complete.
    """
    names = ("report.html", "metrics.json")
    return [
        *(f"{RESULTS}/report/{scope}/{name}" for name in names),
        f"{RESULTS}/tracked/{scope}",
        *scores_of(scope),
    ]
