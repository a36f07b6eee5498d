"""GreBsmo as a plain loop, to compare with ours in time and in the positions it chooses."""

import torch

from sparsetune.dsee.support import GreBsmoConfig, decompose

SIZE, POSITIONS, SEED = 768, 64, 1


def matrix(dtype=torch.float32):
    """A random matrix with the spread of BERT-base's weights."""
    return torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.04


def plain(weight, generator, config):
    """The published equations line by line: whole QR, every difference formed where it is used."""
    v = torch.randn(1, weight.shape[1], generator=generator, dtype=weight.dtype)
    for _ in range(config.rounds):
        sparse = torch.zeros_like(weight)
        for _ in range(config.inner_rounds):
            u = torch.linalg.qr((weight - sparse) @ v.T).Q
            v = u.T @ (weight - sparse)
            sparse = weight - u @ v
            sparse[sparse.abs() < config.threshold] = 0.0
        error = weight - u @ v - sparse
        used = v
        v = torch.cat([v, torch.linalg.qr(error).R[: config.rank_growth]])
    return u @ used, sparse


METHODS = {"plain": plain, "ours": decompose}


def chosen(method, *, seed=SEED, rounds=100, dtype=torch.float32):
    """Flat positions of the largest entries of S."""
    generator = torch.Generator().manual_seed(seed)
    _, sparse = METHODS[method](matrix(dtype), generator, GreBsmoConfig(rounds=rounds))
    return set(sparse.abs().flatten().topk(POSITIONS).indices.tolist())


def agreement():
    """How many of the 64 positions are shared, in the cases that say what a seed promises."""
    ours, published = chosen("ours"), chosen("plain")
    shared = {
        "ours twice, same seed": len(ours & chosen("ours")),
        "ours and plain loop, same seed": len(ours & published),
        "plain loop, two seeds": len(published & chosen("plain", seed=SEED + 1)),
    }
    for rounds in (5, 10, 20, 40):
        pair = [chosen(name, rounds=rounds, dtype=torch.float64) for name in METHODS]
        shared[f"ours and plain loop, float64, {rounds} rounds"] = len(pair[0] & pair[1])
    return shared
