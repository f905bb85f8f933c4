"""How a run ends when it is asked to: SIGTERM, Ctrl-C (SIGINT), or a closed terminal (SIGHUP).

    free      the run holds nothing yet: a signal ends the process, exit status 128 + its number
    held      1st signal: `asked`; trainings save a checkpoint, everything else is canceled
              2nd signal: `forced`; everything is canceled
              3rd signal: the process ends, whatever it waits for
    over      the run is over, and signals change nothing

No handler is called: what it raised could be lost in whatever Python code it interrupts, and Ray
installs handlers of its own, one of which aborts the process. Instead the signals are blocked in
all threads but one, which waits for them. Processes that are started meanwhile inherit the block,
so a signal to the process group (systemd, a terminal that is closed) leaves Ray and its workers
alive until trainings have saved their checkpoints. What a stage starts on a worker can be ended by
signals as anywhere (`unblock_for_children`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

# How `gpt1 run` ends: 0, a stage failed, invalid input or settings, locked by another run, or asked
# to end. A signal before there is anything to save ends it with 128 + its number.
DONE, FAILED, INVALID, HELD, INTERRUPTED = 0, 1, 2, 3, 130
SAVING = 300.0  # seconds that training is given to make a checkpoint
QUIET = 60.0  # seconds after which no rank will hear a request: they ask every second
CLOSING = 120.0  # seconds for the rest: records on their way to MLflow, leases, Ray
SAME = 1.0  # seconds in which several signals are one request: `timeout` sends two
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Interrupted(BaseException):
    """The run was asked to end. Like KeyboardInterrupt, nothing that handles errors takes it."""


class GracefulShutdown:
    """Takes the signals while its block lasts; enter it before any thread is started.

    Signals that are ignored stay ignored: SIGHUP below `nohup`, SIGINT in a shell's background.
    """

    def __init__(self) -> None:
        self._asked, self._forced = threading.Event(), threading.Event()
        self._held = self._over = False
        self._last = -SAME
        self._lock = threading.Lock()
        self._handled = {one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def __enter__(self) -> GracefulShutdown:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if self._handled:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self._handled and self._thread.ident:
            signal.pthread_kill(self._thread.ident, next(iter(self._handled)))
            self._thread.join()
        for one in self._handled if self._held else ():
            signal.signal(one, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @property
    def asked(self) -> bool:
        """Whether the run is to end when trainings have saved their checkpoints."""
        return self._asked.is_set()

    @property
    def forced(self) -> bool:
        """Whether it is to end now."""
        return self._forced.is_set()

    def hold(self) -> None:
        """From now on the run holds leases: a signal no longer ends the process."""
        with self._lock:
            self._held = True

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Interrupted at once when the run is, or was, asked to end."""
        if self._asked.wait(seconds):
            raise Interrupted

    def _listen(self) -> None:
        while True:
            number = signal.sigwait(self._handled)
            if self._over:
                return
            with self._lock:
                self._take(number)

    def _take(self, number: int) -> None:
        now = time.monotonic()
        repeated, self._last = now - self._last < SAME, now
        if not self._held:
            _end_process(number)
        if not self.asked:
            self._asked.set()
        elif number == signal.SIGHUP or repeated:
            return  # a closed terminal is no wish to lose the checkpoint
        elif not self.forced:
            self._forced.set()
        else:
            _end_process(number)


def unblock_for_children() -> None:
    """Let signals do nothing to this process, a worker that has inherited the block, in place of
    the block: processes that it starts would inherit that too, and `Popen.terminate()` would wait
    for ever. Where nothing is blocked (a cluster that was there before) nothing changes.

    `exec` keeps what is ignored, but no handlers; a fork without it, as by `multiprocessing`, keeps
    both.
    """
    blocked = SIGNALS & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for one in blocked:
        signal.signal(one, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    if blocked:
        _restore_in_forks(blocked)


def _do_nothing(*_: object) -> None:
    pass


def _restore_in_forks(signals: set[signal.Signals]) -> None:
    """A fork, too, ends by these signals, also by one that comes before its first step."""
    thread = threading.local()

    def before() -> None:
        thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, thread.mask)

    def in_child() -> None:
        for one in signals:
            if signal.getsignal(one) is _do_nothing:
                signal.signal(one, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _end_process(number: int) -> None:
    with suppress(OSError):  # not by `sys.stderr`, which the main thread may be using
        os.write(2, b"gpt1: interrupted\n")
    os._exit(128 + number)
