"""The end of the group of a launch's processes."""

import gc
import sys
from traceback import clear_frames


def destroy_process_group(error: BaseException | None = None) -> None:
    """End it, if there is one, after all that the frames of ``error`` hold.

    A DistributedDataParallel that outlives the group ends it itself, holding the GIL, which a
    thread of gloo's may wait for: then both wait for ever.
    """
    # Who has not imported torch, which takes seconds, has no group.
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_initialized():
        return
    met: set[BaseException] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is not None and each not in met:
            met.add(each)
            clear_frames(each.__traceback__)
            left += each.__cause__, each.__context__
    gc.collect()
    torch.distributed.destroy_process_group()
