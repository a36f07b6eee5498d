"""What runs left behind, without what no two processes share."""

import hashlib
import json


def without_clock(value):
    """A record's content but for times, speeds and memory, which no two processes share."""
    if isinstance(value, dict):
        return {
            key: without_clock(inner)
            for key, inner in value.items()
            if "second" not in key and "memory" not in key and key != "speed"
        }
    return [without_clock(inner) for inner in value] if isinstance(value, list) else value


def runs_outcome(results):
    """File below a suite's results -> what it holds: weights, curves, predictions, records, tables.

    Times, places and MLflow's numbers are left out.
    """
    found = {}
    for path in sorted((results / "runs").rglob("*")):
        name = str(path.relative_to(results))
        if path.suffix in (".safetensors", ".csv", ".parquet"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in ("tune.json", "evaluate.json", "cost.json"):
            record = json.loads(path.read_text())
            found[name] = without_clock({key: record[key] for key in ("asked", "measured")})
    for path in sorted((results / "tables").rglob("*.md")):
        if "tim" not in path.name:
            found[str(path.relative_to(results))] = path.read_text()
    return found
