"""Run every test, two at a time: `python scripts/all_tests.py [pytest arguments]`.

The main job at full length, whose processor time has a limit, goes first and alone: it keeps both processors
busy, and takes a quarter more of their time where others use the caches too.
One stream is what `make test` runs and the runs of the whole conformance suite; beside it go the files of
the other slow tests, and what ends first takes the rest. Most tests keep one processor busy at a time. Each
part's words are printed when it ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from threading import Lock, Thread

from slow_quarter import PYTEST_NONE_COLLECTED, ROOT, slow_files

STREAMS = 2
FIRST = ["-m", "not slow or whole_suite", "--durations=25", "tests"]
ALONE = "tests/integration/test_main_job.py"
REST = ["-m", "slow and not whole_suite", "--durations=5"]


class Parts:
    """Parts of the tests, run one after another by each of several threads."""

    def __init__(self, parts: list[list[str]], extra: list[str]) -> None:
        self.failed: list[str] = []
        self._waiting, self._extra, self._printing = deque(parts), extra, Lock()

    def run(self) -> None:
        while self._waiting:
            try:
                self._run(self._waiting.popleft())
            except IndexError:  # the other thread took the last
                return

    def stop(self) -> None:
        """Begin no other part."""
        self._waiting.clear()

    def _run(self, part: list[str]) -> None:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *self._extra, *part], cwd=ROOT, capture_output=True, text=True
        )
        with self._printing:
            print(done.stdout + done.stderr, flush=True)
            print(f"== {part[-1]}: exit code {done.returncode}, {time.monotonic() - begun:.0f} s", flush=True)
            if done.returncode not in (0, PYTEST_NONE_COLLECTED):
                self.failed.append(part[-1])


def main() -> int:
    extra = sys.argv[1:]
    alone = Parts([[*REST, ALONE]], extra)
    parts = Parts([FIRST, *([*REST, path] for path in slow_files() if path != ALONE)], extra)
    try:
        alone.run()
        threads = [Thread(target=parts.run) for _ in range(STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:  # the parts that run got it too, and end by themselves
        parts.stop()
        return 130
    failed = [*alone.failed, *parts.failed]
    print(f"failed: {' '.join(failed)}" if failed else "all tests passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
