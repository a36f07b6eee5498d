"""MLflow as a mirror of the records: live while a job trains, completed afterwards.

Nothing here may stop, slow or lose training, and nothing reads numbers back from MLflow.
Importing this package does not import MLflow.
"""

from sparsetune.tracking.live import LiveRun, Pace, TrackingOutcome
from sparsetune.tracking.publish import Entry, PublishReport, publish
from sparsetune.tracking.store import RunKey, prepare, store_uri

__all__ = [
    "Entry",
    "LiveRun",
    "Pace",
    "PublishReport",
    "RunKey",
    "TrackingOutcome",
    "prepare",
    "publish",
    "store_uri",
]
