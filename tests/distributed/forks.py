"""A process that has imported torch and forks trainings: ``forks.py MODULE...``, then one job per line on stdin.

A training of a few steps takes a tenth of the time that importing torch takes. A job is ``{"script", "arguments",
"count", "log"}``; its processes are started with torchrun's environment variables. The exit codes come back as a line
on stdout. When one process of a job fails, the others are killed, as torchrun does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys


def fork(job: dict, rank: int, port: int) -> int:
    """The pid of a new process; 0 in that process itself, which goes on with ``job`` as its argv and environment."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(240)  # seconds; a group whose processes wait for one another ends
        if job["count"] > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["count"], "LOCAL_WORLD_SIZE": job["count"]}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()})
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.argv = [job["script"], *job["arguments"]]
    return pid


def exit_codes(pids: list[int]) -> list[int]:
    codes = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] != 0:
            for other in set(pids) - set(codes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> None:
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):  # the tests that need it skip
            importlib.import_module(name)
    while line := sys.stdin.readline():
        job, port, pids = json.loads(line), free_port(), []
        for rank in range(job["count"]):
            pids.append(fork(job, rank, port))
            if pids[-1] == 0:
                runpy.run_path(job["script"], run_name="__main__")
                return
        print(json.dumps(exit_codes(pids)), flush=True)


if __name__ == "__main__":
    main()
