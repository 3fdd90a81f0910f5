"""Who writes to a member next: the pauses between a command's attempts, and when it is shed.

Nothing is locked: who writes first wins, and the others decide anew. What they sent is billed, and
what they send at once meets the next winner. So a command that lost pauses first: for up to so many
times what its own transaction took as others need room, doubled each time, with full jitter. It is
shed within two seconds. Measured against 64 writers: docs/benchmarks.md.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

ATTEMPTS: Final = 8
"""Transactions one command may send before it is shed with 503."""
PATIENCE_SECONDS: Final = 1.5
"""No new attempt is begun later than this, so that a command that meets too many others is shed
within 2 seconds."""
BACKOFF_SECONDS: Final = 0.008
"""First pause at most where nothing had moved, doubled each time: about a transaction's latency."""
CROWD: Final = 12
"""Who lost a race for a member pauses for up to so many times what its transaction took, doubled
each time: room for as many others."""
LONGEST_SECONDS: Final = 0.8
"""No pause is longer."""
LAST_SECONDS: Final = 0.05
"""A pause that ends too late ends when patience does, where so much of that is left."""
YIELDING_SECONDS: Final = 0.7
"""For so long a command lets others go first where they keep coming; reads cost a twentieth of a
transaction that fails."""
CROWDED_SECONDS: Final = 1.0
"""For so long after a lost race a process pauses before it turns to the same member again: it may
be its own next command that others cannot get in between."""
CROWDED_MEMBERS: Final = 1000
"""More of them are not remembered."""

type Members = Collection[tuple[str, str]]
"""By program and member id."""


class Contention:
    """What a process remembers of the races it lost, and its clock. Thread-safe."""

    def __init__(
        self,
        sleep: Callable[[float], None],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.sleep = sleep
        self.monotonic = monotonic
        self.jitter = jitter
        self._crowds: dict[tuple[str, str], tuple[float, float]] = {}

    def race(self, members: Members) -> "Race":
        """Begin a command, after a pause where this process has just lost a race for a member."""
        race = Race(self)
        now = self.monotonic()
        crowds = [self._crowds.get(member, (now, 0.0)) for member in members]
        if window := max((window for until, window in crowds if until > now), default=0.0):
            self.sleep(self.jitter() * min(window, LONGEST_SECONDS / 2))
        return race

    def remember(self, members: Iterable[tuple[str, str]], window: float) -> None:
        """That a race was lost for these members, and how long others may need, in seconds."""
        if len(self._crowds) >= CROWDED_MEMBERS:
            self._crowds.clear()
        until = self.monotonic() + CROWDED_SECONDS
        for member in members:
            self._crowds[member] = until, window

    def rest(self, attempt: int) -> None:
        """Pause before what is tried again, for up to twice as long each time."""
        self.sleep(self.jitter() * BACKOFF_SECONDS * 2 ** (attempt + 1))


class Race:
    """The attempts of one command: `while race.goes_on()`."""

    def __init__(self, contention: Contention) -> None:
        self.sent = 0
        """Transactions sent by now."""
        self.met_others = True
        """Whether the last of them met others; who sent none was refused on an account that moved
        each time."""
        self._contention = contention
        self._begun = contention.monotonic()
        self._attempts = 0
        self._unclear = False
        self._took = 0.0
        self._window = 0.0

    @property
    def crowded(self) -> bool:
        """Whether the last transaction lost to others: a pause is due before the next one."""
        return self._window > 0

    def goes_on(self) -> bool:
        """Whether another attempt is begun; after a pause where the last one failed, but not for
        an account that had moved."""
        if self._attempts == ATTEMPTS:
            return False
        if self._unclear and not self._paused(BACKOFF_SECONDS * 2 ** (self._attempts - 1)):
            return False
        self._attempts += 1
        self._unclear = False
        return True

    def send[T](self, transact: Callable[[], T]) -> T:
        """Send a transaction, count it and take its time."""
        self.sent += 1
        self._window = 0.0
        asked = self._contention.monotonic()
        answer = transact()
        self._took = self._contention.monotonic() - asked
        return answer

    def lost(self, members: Members) -> None:
        """The transaction failed because accounts of these members had moved."""
        self.met_others = True
        self._window = self._took * CROWD * 2 ** (self._attempts - 1)
        self._contention.remember(members, self._took * CROWD)

    def failed(self, *, met_others: bool) -> None:
        """The transaction failed, or was not answered, and no account is known to have moved."""
        self.met_others = met_others
        self._unclear = True

    def others_first(self) -> bool:
        """Pause after a lost race; False where no attempt may be begun after it."""
        return self._paused(self._window)

    def yields(self) -> bool:
        """Whether it is early enough to let others go first once more."""
        return self._contention.monotonic() - self._begun <= YIELDING_SECONDS

    def _paused(self, window: float) -> bool:
        """Pause up to so many seconds; False where no attempt may be begun after it."""
        pause = self._contention.jitter() * min(window, LONGEST_SECONDS)
        left = PATIENCE_SECONDS - (self._contention.monotonic() - self._begun)
        if left < min(pause, LAST_SECONDS):
            return False
        self._contention.sleep(min(pause, left))
        return True
