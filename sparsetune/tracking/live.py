"""One training job's curves in MLflow while it trains; the job never waits for them.

All MLflow work, its slow import included, happens in one daemon thread behind a bounded queue.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparsetune.errors import DataError
from sparsetune.tracking.curves import CurveDigest
from sparsetune.tracking.names import as_finals, as_params, flatten
from sparsetune.tracking.store import (
    CURVES_TAG,
    RunKey,
    Store,
    one_line,
    open_store,
    store_uri,
    without_password,
)

_BATCH_POINTS = 1000


@dataclass(frozen=True)
class Pace:
    """How patiently live logging works.

    Attributes:
        flush_seconds: shortest time between two writes.
        writing_share: largest share of a core's time that writing takes; writes are as far apart
            as that needs. Opening the store, once a run, is not in it.
        retry_seconds: wait after a failed write.
        queue_rows: logged steps that may wait; beyond that they are dropped and counted.
        finish_seconds: longest time ``finish`` waits.
    """

    flush_seconds: float = 2.0
    writing_share: float = 0.005
    retry_seconds: float = 30.0
    queue_rows: int = 10_000
    finish_seconds: float = 20.0


@dataclass(frozen=True)
class TrackingOutcome:
    """What the record says about live tracking.

    Attributes:
        run_id: MLflow run id, or None if no run could be made.
        problem: one line, or None if everything arrived.
    """

    run_id: str | None
    problem: str | None


class _Row(NamedTuple):
    step: int
    time_ms: int
    values: Mapping[str, float]


class _Ending(NamedTuple):
    status: str
    metrics: Mapping[str, Any]
    dropped: int


class LiveRun:
    """An MLflow run fed by a training job.

    Starting one deletes older runs of the same key, whatever their status. No method raises
    because of the tracker, and only :meth:`finish` waits for it, for a bounded time.

    Args:
        results: the folder of all results.
        key: the run's identity.
        params: resolved settings, nested or flat.
        tags: further tags, e.g. ``digest`` and the commit under ``COMMIT_TAG``.
        history: steps logged before a restart, replayed first: step and values.
        pace: limits of patience.
    """

    def __init__(
        self,
        results: Path,
        key: RunKey,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        history: Iterable[tuple[int, Mapping[str, float]]] = (),
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self._rows: queue.Queue[_Row | None] = queue.Queue(maxsize=self._pace.queue_rows)
        self._dropped = 0
        self._uri = without_password(store_uri(results))
        now = _now_ms()
        past = [_Row(step, now, dict(values)) for step, values in history]
        self._writer = _Writer(results, key, params=params, tags=tags, past=past)
        self._thread = threading.Thread(
            target=self._writer.run, args=(self._rows, self._pace), name="mlflow", daemon=True
        )
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over one step's values and return at once.

        Args:
            step: optimiser step, >= 0.
            values: metric name -> plain number (a tensor would make the device wait).
        """
        if not self._thread.is_alive():
            self._dropped += 1
            return
        try:
            self._rows.put_nowait(_Row(step, _now_ms(), dict(values)))
        except queue.Full:
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
            The run id and the problem, for the record's ``where.tracking`` (its ``mlflow_run_id``
            is how publishing recognises this run later).
        """
        writer = self._writer
        writer.end(_Ending(status, dict(metrics or {}), self._dropped))
        with contextlib.suppress(queue.Full):  # if full, the writer sees the ending by itself
            self._rows.put_nowait(None)
        self._thread.join(self._pace.finish_seconds)
        problem = writer.problem
        if self._thread.is_alive():
            reason = problem or "the tracker did not answer in time"
            problem = f"{self._uri}: gave up after {self._pace.finish_seconds:g} s: {reason}"
        elif problem:
            problem = f"{self._uri}: {problem}"
        return TrackingOutcome(writer.run_id, problem)


class _Writer:
    """The thread's side: opens the run, sends rows in batches, tries again after trouble."""

    def __init__(
        self,
        results: Path,
        key: RunKey,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        past: list[_Row],
    ) -> None:
        self.run_id: str | None = None
        self.problem: str | None = None
        self._results, self._key = results, key
        self._params, self._tags, self._past = dict(params), dict(tags), past
        self._store: Store | None = None
        self._opened = self._hopeless = self._failing = False
        self._points: list[Any] = []
        self._sent, self._unusable = CurveDigest(), 0
        self._ending: _Ending | None = None
        self._ended = threading.Event()
        self._next_attempt = 0.0

    def end(self, ending: _Ending) -> None:
        """Called by the job's thread after its last row."""
        if self._ending is None:
            self._ending = ending
            self._ended.set()

    def run(self, rows: "queue.Queue[_Row | None]", pace: Pace) -> None:
        """Body of the thread."""
        while not self._ended.is_set():
            self._attempt(self._send, pace)
            if self._hopeless:
                return
            self._gather(rows, pace)
        self._attempt(lambda: self._close(rows), pace)

    def _attempt(self, action: Any, pace: Pace) -> None:
        try:
            self._open()
            began = time.thread_time()
            action()
            writing = time.thread_time() - began
        except DataError as error:
            self._hopeless, self.problem = True, one_line(error)
        except Exception as error:
            self._failing, self.problem = True, one_line(error)
            self._next_attempt = time.monotonic() + pace.retry_seconds
        else:
            self._failing, self.problem = False, self._losses()
            pause = max(pace.flush_seconds, writing / pace.writing_share)
            self._next_attempt = time.monotonic() + pause

    def _losses(self) -> str | None:
        dropped = self._ending.dropped if self._ending else 0
        if dropped or self._unusable:
            return f"{dropped} logged steps dropped, {self._unusable} values were not numbers"
        return None

    def _gather(self, rows: "queue.Queue[_Row | None]", pace: Pace) -> None:
        while len(self._points) < _BATCH_POINTS and not self._ended.is_set():
            wait = self._next_attempt - time.monotonic()
            if wait <= 0:
                return
            try:
                self._keep(rows.get(timeout=wait))
            except queue.Empty:
                return
        if self._failing:
            # A full batch and a tracker in trouble: what follows waits in the bounded queue.
            self._ended.wait(max(0.0, self._next_attempt - time.monotonic()))

    def _keep(self, row: _Row | None) -> None:
        from mlflow.entities import Metric

        if row is None:
            return
        for name, value in flatten(row.values).items():
            try:
                self._points.append(Metric(name, float(value), row.time_ms, int(row.step)))
            except (TypeError, ValueError):
                self._unusable += 1

    def _open(self) -> None:
        if self._opened:
            return
        if self._store is None:
            self._store = open_store(self._results, self._key.suite)
        store, key = self._store, self._key
        if self.run_id is None:
            tags = {**self._tags, **key.tags(), **store.parent_tags(key)}
            run = store.client.create_run(store.experiment_id, tags=tags, run_name=key.text)
            self.run_id = run.info.run_id
        # Also what a killed job left open: a rerun replaces, it never doubles.
        store.delete(store.runs(sparsetune__run_key=key.text), but=self.run_id)
        store.send(self.run_id, params=as_params(self._params))
        for row in self._past:
            self._keep(row)
        self._past = []
        self._opened = True

    def _send(self) -> None:
        # A batch sent twice after a lost answer is no harm: the store knows equal points.
        while self._points:
            batch = self._points[:_BATCH_POINTS]
            self._store.send(self.run_id, metrics=batch)
            del self._points[: len(batch)]
            for point in batch:
                self._sent.add(point.key, point.value, point.step)

    def _close(self, rows: "queue.Queue[_Row | None]") -> None:
        from mlflow.entities import Metric

        while True:
            try:
                self._keep(rows.get_nowait())
            except queue.Empty:
                break
        self._send()
        finals = as_finals(self._key.stage, self._ending.metrics)
        now = _now_ms()
        last = [Metric(name, value, now, 0) for name, value in finals.items()]
        complete = {} if self._losses() else {CURVES_TAG: self._sent.text}
        self._store.send(self.run_id, metrics=last, tags=complete)
        self._store.client.set_terminated(self.run_id, self._ending.status)


def _now_ms() -> int:
    return int(time.time() * 1000)
