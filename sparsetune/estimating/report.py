"""An estimate as text."""

from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def as_text(told: Mapping[str, Any]) -> str:
    """Lay out an estimate for a terminal.

    Args:
        told: as :func:`sparsetune.stages.estimate.estimate` returns it.

    Returns:
        Tables and remarks, a line break at the end.
    """
    totals = told["totals"]
    whole, wall = totals["job_seconds"], totals["wall"]
    lines = [f"suite {told['suite']}: {totals['jobs']} jobs on {told['place']}", ""]
    lines += _table(
        ("stage", "jobs", "time", "likely"),
        [(row["stage"], row["jobs"], duration(row["seconds"]), _range(row))
         for row in told["stages"]],
    )  # fmt: skip
    lines.append("")
    lines += _table(
        ("backbone", "method", "runs", "steps", "tokens", "MACs", "time", "likely", "disk",
         "checkpoints"),
        [(row["backbone"], row["method"], row["runs"], scaled(row["steps"]),
          scaled(row["tokens"]), scaled(row["macs"]), duration(row["seconds"]), _range(row),
          size(row["disk_bytes"]), size(row["checkpoint_bytes"])) for row in told["methods"]],
    )  # fmt: skip
    lines.append("")
    lines += _table(
        ("shared", "", "time", "disk", "download"),
        [(row["stage"], row["id"], duration(row["seconds"]), size(row["disk_bytes"]),
          size(row["download_bytes"])) for row in told["shared"]],
    )  # fmt: skip
    lines += [
        "",
        f"all jobs      {duration(whole['seconds'])} ({_range(whole)}), one after the other",
        f"wall clock    {duration(wall['seconds'])} ({_range(wall)}) on {told['place']}",
    ]
    if totals["gpu_seconds"]["seconds"]:
        hours = {name: f"{s / 3600:,.1f}" for name, s in totals["gpu_seconds"].items()}
        lines.append(f"GPU-hours     {hours['seconds']} ({hours['seconds_low']} to "
                     f"{hours['seconds_high']})")  # fmt: skip
    lines += [
        f"MACs          {scaled(totals['macs'])}",
        f"disk          {size(totals['disk_bytes'])}, and up to "
        f"{size(totals['checkpoint_bytes'])} of checkpoints while it runs",
        f"download      {size(totals['download_bytes'])}",
        "",
        *(f"- {remark}" for remark in told["remarks"]),
    ]
    for name, title in (
        ("held_out", "Measured, beside predictions by records of other tasks"),
        ("other_suites", "Measured, beside predictions by records of other suites alone"),
    ):
        if name in (told["comparison"] or {}):
            lines += ["", title, *_comparison(told["comparison"][name])]
    if told["comparison"]:
        lines.append("* time in which a job ran, of stages that leave a record")
    return "\n".join(lines) + "\n"


def _comparison(found: Mapping[str, Any]) -> list[str]:
    rows = [(row["stage"], row["jobs"], row) for row in found["stages"]]
    rows += [("all jobs", "", found["job_seconds"]), ("wall clock*", "", found["wall"])]
    return _table(
        ("stage", "jobs", "predicted", "measured", "measured / predicted"),
        [(name, jobs, duration(row["predicted"]), duration(row["measured"]),
          f"{row['ratio']:.2f}") for name, jobs, row in rows],
    )  # fmt: skip


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    text = [isinstance(cell, str) and not cell[:1].isdigit() for cell in (rows or [header])[0]]
    return [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, text, strict=True)
        ).rstrip()
        for row in cells
    ]


def _range(row: Mapping[str, float]) -> str:
    return f"{duration(row['seconds_low'])} to {duration(row['seconds_high'])}"


def duration(seconds: float) -> str:
    """Seconds in a unit that leaves one to three digits.

    Example:
        >>> duration(42), duration(600), duration(90_000), duration(2_000_000)
        ('42 s', '10 min', '25 h', '23 d')
    """
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (360_000, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.0f} {name}" if value >= 10 or unit == 1 else f"{value:.1f} {name}"
    days = seconds / 86_400
    return f"{days:,.0f} d" if days >= 10 else f"{days:.1f} d"


def scaled(number: float) -> str:
    """A number with a decimal prefix.

    Example:
        >>> scaled(950), scaled(61_200), scaled(2.5e18)
        ('950', '61.2 k', '2.5 E')
    """
    for scale, prefix in _UNITS:
        if number >= scale:
            return f"{number / scale:,.1f} {prefix}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes with a decimal prefix.

    Example:
        >>> size(440e6)
        '440.0 MB'
    """
    return f"{scaled(number)}B" if number >= 1000 else f"{number:.0f} B"
