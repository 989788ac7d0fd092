"""Run the workflow on this machine: a line a job, and two builds never at once.

Usage: python book/build.py TARGET

Snakemake's own account goes to build/logs. Its lock is a file that a killed build would leave
behind; the one here is the operating system's and ends with the process.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

import job

PATIENCE = 600  # seconds


def main(target: str) -> int:
    """Wait for another build of the same target, then run this one."""
    log = Path("build/logs", f"{target}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(f"build/{target}.lock", "w") as lock:
        if not acquire(lock.fileno()):
            print(f"Another build of {target} still runs here: nothing was done.", file=sys.stderr)
            return 1
        command = [sys.executable, "-m", "snakemake", "--profile", profile(target), "--nolock"]
        with open(log, "w") as output:
            # Snakemake holds the lock as well, should it outlive this process.
            held = {"stderr": output, "pass_fds": [lock.fileno()]}
            status = job.run([*command, target], None, **held)
    text = log.read_text("utf-8", "replace")
    if status < 0:
        print(f"Stopped. The next build of {target} carries on from here.", file=sys.stderr)
    elif status:
        if "Error in rule" not in text:  # otherwise the job has said what is wrong
            print(text[-4000:], file=sys.stderr)
        print(f"{target} was not built. Snakemake's account: {log}", file=sys.stderr)
    return status if status >= 0 else 128 - status


def profile(target: str) -> str:
    """Return where a target's jobs run: trainings in one process, where there is a GPU."""
    if target in ("selection", "records"):
        import torch

        if torch.cuda.is_available():
            return "profiles/gpu"
    return "profiles/local"


def acquire(lock: int) -> bool:
    """Take the lock, after waiting for whoever has it; return whether that was possible."""
    end = time.monotonic() + PATIENCE
    waiting = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            if not waiting:
                print("Another build runs here: waiting for its end.", file=sys.stderr)
            waiting = True
            time.sleep(0.5)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    # The jobs call python and jupyter-book by name.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    raise SystemExit(main(sys.argv[1]))
