"""Errors that are not of the data: what they mean, and what helps."""

from __future__ import annotations

import torch

OUT_OF_MEMORY = (
    "out of memory: a smaller --train.batch_unlabelled, for which --train.accumulate makes up, and a smaller "
    "--image-size take less"
)
OUT_OF_MEMORY_LATER = "out of memory: fewer images at a time, or a machine with more, may do"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's and numpy's, or torch's on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU and on Apple's GPUs torch has no error of its own for it.
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)
