"""One of several gloo processes that open the same data set with its images in memory: see test_shared_memory.py.

python shared_cache_worker.py FOLDER OUT [kill|slow|full]
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.data import shared_memory  # noqa: E402
from utils.data.image_store import ImageStore  # noqa: E402
from utils.dataset import LoadImagesAndLabels  # noqa: E402
from utils.torch_utils import torch_distributed_zero_first  # noqa: E402


def main(folder: str, out: str, what: str = "") -> None:
    """Open the data set and write what this process did and has."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    calls, original = [], ImageStore._decode

    def counted(self, i):
        calls.append(i)
        if what == "kill" and rank == 0 and len(calls) > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if what in {"slow", "kill"}:
            time.sleep(0.05)
        return original(self, i)

    ImageStore._decode = counted
    if what == "full":
        shared_memory.free_bytes = lambda: 100
    if what == "kill":
        time.sleep(rank)  # the first process is to come first
        data = LoadImagesAndLabels(folder, 64, 4, cache_images="ram", rank=rank)
    elif what == "slow":
        data = LoadImagesAndLabels(folder, 64, 4, cache_images="ram", rank=rank)
        dist.barrier()
    else:
        with torch_distributed_zero_first(rank):
            data = LoadImagesAndLabels(folder, 64, 4, cache_images="ram", rank=rank)
        dist.barrier()
    digest = hashlib.sha256(b"".join(data[i][0].numpy().tobytes() for i in range(len(data)))).hexdigest()
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split() for line in maps if shared_memory.PREFIX in line]
    facts = {
        "decoded": len(calls), "digest": digest, "inodes": sorted({words[4] for words in mapped}),
        "names": sorted({" ".join(words[5:]) for words in mapped}), "writable": any("w" in w[1] for w in mapped),
        "shared": data.images.ram.is_shared,
    }  # fmt: skip
    if what != "kill":
        dist.barrier()
    Path(f"{out}{rank}.json").write_text(json.dumps(facts))
    os._exit(0) if what == "kill" else dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
