"""Threads that take turns: one runs at a time, and dice say whose turn is next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from random import Random


class Turns:
    """Runs jobs each in a thread of its own, never two at once. A turn ends where a job calls
    `pause`, and where it is done: so the same dice give the same interleaving."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._mine = threading.local()
        self._over = threading.Semaphore(0)

    def pause(self) -> None:
        """End the turn of the job that calls this; for whoever is no job, nothing."""
        turn: threading.Semaphore | None = getattr(self._mine, "turn", None)
        if turn is not None:
            self._over.release()
            turn.acquire()

    def run[T](self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run all jobs to their ends; what each gave. Raises what the first that failed raised."""
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}
        turns = [threading.Semaphore(0) for _ in jobs]

        def work(i: int) -> None:
            self._mine.turn = turns[i]
            turns[i].acquire()
            try:
                results[i] = jobs[i]()
            except BaseException as error:  # noqa: BLE001  # raised again below
                errors[i] = error
            self._over.release()

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(jobs))]
        for thread in threads:
            thread.start()
        while running := [i for i in range(len(jobs)) if i not in results and i not in errors]:
            turns[self._dice.choice(running)].release()
            self._over.acquire()
        for thread in threads:
            thread.join()
        for i in sorted(errors):
            raise errors[i]
        return [results[i] for i in range(len(jobs))]
