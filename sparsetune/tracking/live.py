"""One training job's curves in MLflow while it trains; the job never waits for them.

All MLflow work, its slow import included, happens in one daemon thread behind a bounded queue.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparsetune.errors import DataError
from sparsetune.tracking.client import (
    PARENT_LINK_TAG,
    RUN_KEY_TAG,
    RunKey,
    Store,
    as_finals,
    as_params,
    flatten,
    one_line,
    open_store,
    store_uri,
    without_password,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric

_BATCH_POINTS = 1000


@dataclass(frozen=True)
class Pace:
    """How patiently live logging works."""

    flush_seconds: float = 5.0  # between two writes
    retry_seconds: float = 30.0  # after a write that failed
    queue_rows: int = 10_000  # logged steps that may wait; beyond, they are dropped and counted
    finish_seconds: float = 20.0  # longest time that ``finish`` waits


@dataclass(frozen=True)
class TrackingOutcome:
    """What the record says of live tracking: the MLflow run that has all, or why none has."""

    run_id: str | None
    problem: str | None


class LiveRun:
    """An MLflow run fed by a training job.

    Starting one deletes older runs of the same key, whatever their status. No method raises
    because of the tracker, and only :meth:`finish` waits for it, for a bounded time.

    Args:
        results: the folder of all results.
        key: the run's identity.
        params: resolved settings, nested or flat.
        tags: further tags, e.g. ``digest`` and the commit under ``COMMIT_TAG``.
        pace: limits of patience.
    """

    def __init__(
        self,
        results: Path,
        key: RunKey,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        pace: Pace | None = None,
    ) -> None:
        self._results, self._key, self._pace = results, key, pace or Pace()
        self._params, self._tags = dict(params), dict(tags)
        self._rows: deque[tuple[int, int, Mapping[str, float]]] = deque()
        self._points: list[Metric] = []
        self._dropped = self._unusable = 0
        self._opened: tuple[Store, str] | None = None
        self._problem: str | None = None
        self._ending: tuple[str, Mapping[str, Any]] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over one step's values and return at once.

        Args:
            step: optimiser step, >= 0.
            values: metric name -> plain number (a tensor would make the device wait).
        """
        if self._thread.is_alive() and len(self._rows) < self._pace.queue_rows:
            self._rows.append((step, _now_ms(), dict(values)))
        else:
            self._dropped += 1

    def finish(
        self,
        status: Literal["FINISHED", "FAILED"] = "FINISHED",
        metrics: Mapping[str, Any] | None = None,
    ) -> TrackingOutcome:
        """Write what is left and close the run; give up after ``pace.finish_seconds``.

        Args:
            status: how training ended.
            metrics: final values, nested or flat; the record's ``measured``.

        Returns:
            For the record's ``where.tracking``: publishing recognises the run by its id. Where not
            all arrived there is a problem and no id: that run is written anew.
        """
        self._ending = self._ending or (status, dict(metrics or {}))
        self._ended.set()
        self._thread.join(self._pace.finish_seconds)
        problem = self._problem
        if self._thread.is_alive():
            reason = problem or "the tracker did not answer in time"
            problem = f"gave up after {self._pace.finish_seconds:g} s: {reason}"
        if problem is None:
            return TrackingOutcome(self._opened[1] if self._opened else None, None)
        return TrackingOutcome(None, f"{without_password(store_uri(self._results))}: {problem}")

    def _work(self) -> None:
        """Body of the thread: writes in batches, and again after trouble; once more at the end."""
        while True:
            ending = self._ending
            try:
                self._send()
                if ending:
                    self._close(*ending)
            except DataError as error:
                self._problem = one_line(error)
                return  # waiting would not mend it
            except Exception as error:
                self._problem, pause = one_line(error), self._pace.retry_seconds
            else:
                self._problem, pause = None, self._pace.flush_seconds
                if self._dropped or self._unusable:
                    self._problem = (
                        f"{self._dropped} logged steps dropped, "
                        f"{self._unusable} values were not numbers"
                    )
            if ending:
                return
            self._ended.wait(pause)

    def _open(self) -> tuple[Store, str]:
        """The store and the run, made at the first call that succeeds."""
        if self._opened is None:
            store, key = open_store(self._results, self._key.suite), self._key
            tags = {**self._tags, **key.tags()}
            if key.group and (parent := store.parents().get(key.group)):
                tags[PARENT_LINK_TAG] = parent.info.run_id
            run = store.client.create_run(store.experiment_id, tags=tags, run_name=key.text)
            run_id = run.info.run_id
            # Also what a killed job, or a call that failed here, left open: a rerun replaces.
            store.delete(store.runs(RUN_KEY_TAG, key.text), but=run_id)
            store.send(run_id, params=as_params(self._params))
            self._opened = store, run_id
        return self._opened

    def _send(self) -> None:
        from mlflow.entities import Metric

        store, run_id = self._open()
        while self._points or self._rows:
            while self._rows and len(self._points) < _BATCH_POINTS:
                step, time_ms, values = self._rows.popleft()
                for name, value in flatten(values).items():
                    try:
                        self._points.append(Metric(name, float(value), time_ms, int(step)))
                    except (TypeError, ValueError):
                        self._unusable += 1
            # A batch sent twice after a lost answer is no harm: the store knows equal points.
            store.send(run_id, metrics=self._points)
            self._points = []

    def _close(self, status: str, measured: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        store, run_id = self._open()
        now, finals = _now_ms(), as_finals(self._key.stage, measured)
        store.send(run_id, metrics=[Metric(name, value, now, 0) for name, value in finals.items()])
        store.client.set_terminated(run_id, status)


def _now_ms() -> int:
    return int(time.time() * 1000)
