"""torchrun of this node, in this process: nodes by NODE_RANK, and one line for whatever ends the job.

    python torchrun.py --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT ... -m MODULE FLAGS...

The arguments are torchrun's, as scripts/launch/torchrun.sh makes them. The exit status is that of the first process
that failed, 128 + N if signal N ended it. What a killed process leaves behind, such as the helper that writes its
checkpoints, is ended before the next attempt and at the end: it would hold the device and the output open.
"""

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import uuid
from pathlib import Path

if _level_is_ours := "TORCH_CPP_LOG_LEVEL" not in os.environ:
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # not pages about a closed connection; read once, now

import psutil
from by_node_rank import BACKEND, Refused, register
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    if _level_is_ours:
        del os.environ["TORCH_CPP_LOG_LEVEL"]  # the processes keep torch's own level
    args = parse_args(arguments)
    node = f"node {os.environ.get('NODE_RANK', '0')}"
    if args.standalone:
        args.standalone, args.rdzv_endpoint, args.rdzv_id = False, "localhost:0", str(uuid.uuid4())
    args.rdzv_backend = BACKEND
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process
    with tempfile.TemporaryDirectory() as folder:
        mistake = Path(folder) / "mistake"
        os.environ["ASCENDSPEED_MISTAKE_FILE"] = str(mistake)
        register({"NNODES": args.nnodes, "NPROC_PER_NODE": args.nproc_per_node}, mistake, _end_orphans)
        try:
            run(args)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                _say(node, f"rank {rank} (process {failure.pid}) was ended by {name}")
                return 128 - failure.exitcode
            _say(
                node,
                f"rank {rank} (process {failure.pid}) ended with status {failure.exitcode}; see what it said above",
            )
            return failure.exitcode
        except SignalException as error:
            _say(node, f"ended by {error.sigval.name}")
            return 128 + error.sigval
        except Refused as reason:
            if str(reason):
                _say(node, str(reason))
            return reason.code
        finally:
            _end_orphans()
    return 0


def _end_orphans() -> None:
    """End every process below this one; torchrun has none of its own when this is called."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _say(node: str, message: str) -> None:
    print(f"torchrun.sh: {node}: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
