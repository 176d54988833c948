"""What runs on the cluster's nodes: one process for each GPU, all of the same training.

Nothing heavy is imported with this module, since the submitting process needs it as well.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment
from submitit.slurm.slurm import SlurmJobEnvironment

from fgaseg.launch.failures import note_failure, remove_failure
from fgaseg.logs import set_up_logs
from fgaseg.plan import Plan
from fgaseg.schema import Launch


def _meet() -> SlurmJobEnvironment:
    """Tell torch who the processes of this job are and where they meet."""
    environment = SlurmJobEnvironment()
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if environment.num_nodes == 1:  # whether the node's name can be resolved does not matter then
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    return environment


@dataclass(frozen=True)
class TrainingJob:
    """One training, with the parameters as they were when it was submitted."""

    plan: Plan
    run_id: str
    launch: Launch

    def __call__(self) -> str:
        """Train in this process's rank; a failure is noted where the launcher looks for it."""
        set_up_logs()
        environment = _meet()
        folder, rank = Path(os.environ["SUBMITIT_FOLDER"]), environment.global_rank
        remove_failure(folder, environment.job_id, rank)
        try:
            from fgaseg.training.run import train_run

            return str(train_run(self.plan, self.run_id, self.launch))
        except Exception as error:
            note_failure(folder, environment.job_id, rank, error)
            raise

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts again after it has requeued the job: the same, for the training's state is on the disk."""
        return DelayedSubmission(self)
