"""Places that GreBsmo has chosen, kept between processes: it takes minutes, and they are the same.

One small file a matrix, named by the sha256 of all that the choice depends on, so that one is never
out of date, and runs of other targets or layers share them. Only the front (``sparsetune.api``)
uses them; the workflow has its own stage, with records.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsetune.architectures.base import Site
from sparsetune.dsee.support import ALGORITHM, GreBsmoConfig, choose_support, site_seed
from sparsetune.errors import DiskError, first_line
from sparsetune.records import replacing

logger = logging.getLogger(__name__)

VARIABLE, OFF = "SPARSETUNE_CACHE", "off"
_PLACES, _DIGEST = "positions", "sha256"


def cache_folder() -> Path | None:
    """Say where places are kept: some 0.7 kB a matrix; files may be deleted at any time.

    Returns:
        ``supports`` in the folder that ``SPARSETUNE_CACHE`` names, else in ``sparsetune`` in
        ``XDG_CACHE_HOME`` or ``~/.cache``; None = nowhere, with ``SPARSETUNE_CACHE=off``.
    """
    told = os.environ.get(VARIABLE)
    if told == OFF:
        return None
    if told:
        return Path(told).expanduser() / "supports"
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not shared.is_absolute():
        try:
            shared = Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return None
    return shared / "sparsetune" / "supports"


def cached_supports(
    sites: Sequence[Site],
    *,
    n_sparse: int,
    seed: int,
    folder: Path,
    on_matrix: Callable[[int, int, str], object] | None = None,
) -> dict[str, Tensor]:
    """Choose places by GreBsmo at its published settings, or take those of an earlier time.

    The choice is chaotic (see ``support.decompose``), so another device or number of threads makes
    another one; what was chosen first is taken everywhere. A file that is damaged is made again.
    Where none can be written, the places are chosen all the same, with a warning.

    Args:
        sites: whose weights are looked at.
        n_sparse: places per matrix.
        seed: each matrix gets its own, see ``site_seed``.
        folder: made if it is not there; several processes may use it at once.
        on_matrix: called after each matrix that is really worked on with how many of these are
            done, how many there are, and the site key of this one.

    Returns:
        Places by site key, as ``support.choose_support`` gives them.
    """
    found, missing = {}, []
    for site in sites:
        path = folder / f"{_key(site, n_sparse, seed)}.safetensors"
        places = _read(path, site, n_sparse)
        if places is None:
            missing.append((site, path))
        else:
            found[site.key] = places
    writable = True
    for done, (site, path) in enumerate(missing, start=1):
        own = site_seed(seed, site.key)
        weight = site.weight_view()
        chosen = choose_support(weight, recipe="grebsmo", n_sparse=n_sparse, seed=own)
        found[site.key] = chosen.positions
        writable = writable and _write(path, chosen.positions)
        if on_matrix:
            on_matrix(done, len(missing), site.key)
    return {site.key: found[site.key] for site in sites}


def _key(site: Site, n_sparse: int, seed: int) -> str:
    """All that the places depend on."""
    weight = site.weight_view().detach().cpu().contiguous()
    settings = {
        "algorithm": ALGORITHM,
        "grebsmo": asdict(GreBsmoConfig()),
        "n_sparse": n_sparse,
        "seed": site_seed(seed, site.key),
        "dtype": str(weight.dtype),
        "shape": list(weight.shape),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(weight.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, site: Site, n_sparse: int) -> Tensor | None:
    """Places from a file; None if it is not there, or does not hold what it should."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            places, told = file.get_tensor(_PLACES), (file.metadata() or {}).get(_DIGEST)
    except Exception as error:  # of whatever kind a damaged file makes the library raise
        logger.info("%s: made again, since it is damaged: %s", path, first_line(error))
        return None
    rows, columns = site.shape
    fits = (
        places.dtype == torch.int64
        and places.shape == (n_sparse,)
        and told == _digest(places)
        and bool((places.diff() > 0).all() and (places >= 0).all())
        and bool((places < rows * columns).all())
    )
    if not fits:
        logger.info("%s: made again, since it is damaged", path)
    return places if fits else None


def _write(path: Path, places: Tensor) -> bool:
    """Keep places for the next time; tell whether that worked."""
    try:
        with replacing(path) as partial:
            save_file({_PLACES: places}, partial, metadata={_DIGEST: _digest(places)})
    except (OSError, DiskError) as error:
        logger.warning(
            "%s: chosen places are not kept: %s; %s=off or another folder ends this",
            path.parent, first_line(error), VARIABLE,
        )  # fmt: skip
        return False
    return True


def _digest(places: Tensor) -> str:
    return hashlib.sha256(places.contiguous().numpy().tobytes()).hexdigest()
