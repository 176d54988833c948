"""Where things are: one place that knows the layout of `results/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders and files of one scale below the project's root.

    `data` identifies the raw data, `own` those of each dataset of a user's own, `weights` those of each backbone: what is
    made of others has another path, so that no leftover of theirs is taken for new, whatever its age.
    """

    root: Path
    scale: str
    data: str
    weights: Mapping[str, str]
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.root / "results" / self.scale

    @property
    def report(self) -> Path:
        return self.results / "report"

    @property
    def tracking(self) -> Path:
        """The MLflow store of this scale where no server is named."""
        return self.results / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """The files of that store's runs."""
        return self.results / "mlartifacts"

    def dataset(self, name: str) -> Path:
        """A prepared dataset: index.csv, classes.json, labels/."""
        return self.results / "data" / self.own.get(name, self.data) / name

    def vlm(self, backbone: str) -> Path:
        """The weights of a backbone as open_clip loads them."""
        return self.results / "vlm" / f"{backbone}-{self.weights[backbone]}.pt"

    def run(self, run_id: str) -> Path:
        """A training: params.json, starts.jsonl, metrics.jsonl, model.safetensors; checkpoints/ until it is finished.

        Of a converted model: params.json, converted.json (what it was converted from), model.safetensors.
        On a cluster also job.json, its newest job, and slurm/, the logs of all its processes; with a server tracking.log.
        """
        return self.results / "runs" / run_id

    def timing(self, table: str) -> Path:
        """Times per image of a table's rows."""
        return self.results / "timings" / f"{table}.json"

    def evaluation(self, eval_id: str) -> Path:
        """An evaluation: evaluation.json, counts.npz, panels.json, panels/, pseudo_masks/."""
        return self.results / "evaluations" / eval_id
