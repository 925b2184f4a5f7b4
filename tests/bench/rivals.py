"""Other ways of running no-op processes, each in a process of its own.

`python -m tests.bench.rivals NAME TASKS` runs a few tasks first, then the measured ones, and prints the
seconds those took. Two workers, as everpool has two nodes.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

COMMAND = ["/bin/true"]
WARM = 20
WORKERS = 2
POLL_S = 0.005
INSTALL = "pip install 'everpool[bench]'"
MODULES = {"hyperqueue": "hyperqueue", "dask": "distributed"}

Run = Callable[[int], None]


def spawn(count: int) -> None:
    """The machine's own rate: one thread, one process at a time."""
    for _ in range(count):
        os.waitpid(os.posix_spawn(COMMAND[0], COMMAND, os.environ), 0)


def run_one(_: int) -> int:
    """What a Dask worker does."""
    return subprocess.run(COMMAND, check=False).returncode


@contextlib.contextmanager
def own() -> Iterator[Run]:
    """No system at all."""
    yield spawn


@contextlib.contextmanager
def hyperqueue() -> Iterator[Run]:
    """Two workers of two cores, output not kept: HyperQueue at its fastest. The last task tells the time."""
    os.environ["TQDM_DISABLE"] = "1"
    cluster_module = importlib.import_module("hyperqueue.cluster")
    job_class = importlib.import_module("hyperqueue").Job
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        with cluster_module.LocalCluster() as cluster:
            for _ in range(WORKERS):
                cluster.start_worker(cluster_module.WorkerConfig(cores=2))
            client = cluster.client()

            jobs: list[Any] = []

            def run(count: int) -> None:
                last = Path(f"last-{len(jobs)}")
                job = job_class()
                for _ in range(count):
                    job.program(COMMAND, stdout=None, stderr=None)
                job.program(["/bin/touch", str(last)], stdout=None, stderr=None, cwd=directory, priority=-1)
                jobs.append(client.submit(job))
                while not last.exists():  # the client itself looks once a second only
                    time.sleep(POLL_S)

            yield run
            client.wait_for_jobs(jobs)  # raises when one task failed
        os.chdir("/")


@contextlib.contextmanager
def dask() -> Iterator[Run]:
    """Two worker processes of one thread each, without a dashboard."""
    distributed: Any = importlib.import_module("distributed")
    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:

        def run(count: int) -> None:
            codes = client.gather(client.map(run_one, range(count), pure=False))
            if any(codes):
                raise RuntimeError("a task failed")

        yield run


RIVALS = {"spawn": own, "hyperqueue": hyperqueue, "dask": dask}


def missing(name: str) -> bool:
    """Whether what this rival needs is not installed."""
    module = MODULES.get(name)
    if module is None:
        return False
    try:
        importlib.import_module(module)
    except ImportError:
        return True
    return False


def main() -> None:
    """Measure one rival once."""
    name, count = sys.argv[1], int(sys.argv[2])
    if missing(name):
        sys.stdout.write("null\n")
        return
    with RIVALS[name]() as run:
        run(WARM)
        began = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - began
    sys.stdout.write(f"\n{json.dumps(seconds)}\n")


if __name__ == "__main__":
    main()
