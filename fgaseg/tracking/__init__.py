"""Mirror the study into MLflow.

The files in `results/` are the truth; MLflow is brought up to them from time to time, and a second time changes nothing.
`records` says what MLflow has to hold, from files alone; `experiment` brings one record there and `store` delivers them.
`live` starts a `follower` beside a training, which delivers while it goes on.
"""

from fgaseg.plan import Plan
from fgaseg.schema import Launch
from fgaseg.tracking.live import following
from fgaseg.tracking.store import deliver, tracking_uri

__all__ = ["deliver", "following", "track_job", "tracking_uri"]


def track_job(plan: Plan, launch: Launch, identity: str) -> None:
    """At the end of an evaluation: tell the tracking server, where one is configured.

    `identity` is the run's id, or an untrained CLIP's evaluation id. Without a server `fgaseg track` delivers all jobs at
    once: to import MLflow takes seconds, which every job of the grid would pay, and jobs would meet in one sqlite file.
    """
    if launch.tracking_uri:
        deliver(plan, launch, identity)
