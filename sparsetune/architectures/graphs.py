"""CUDA graphs: work that is captured once and replayed as one launch."""

from collections.abc import Callable

import torch

Work = Callable[[], object]
_WARM_UPS = 3  # so that libraries have their workspaces before memory may not be allocated


def cuda_graph(work: Work) -> Work:
    """Capture work on a GPU as a graph.

    Args:
        work: kernels on tensors that stay where they are, and nothing that waits for the device;
            it is run a few times.

    Returns:
        Its replay: reads and writes the very tensors that ``work`` did.

    Raises:
        RuntimeError: no CUDA device, or work that cannot be captured.

    Source:
        PyTorch's notes on CUDA graphs: warm-up on a side stream, static inputs, gradients that
        exist beforehand.
    Differs:
        Nothing.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
