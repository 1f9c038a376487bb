"""Ends all processes of a run when one of them fails, is killed, or its machine is gone.

Each process keeps one connection to the main one. A process that fails says so; one that is killed cannot, but the
system closes its connection at once, and one whose machine is gone stops answering the system's probes within 45 s. The
main process passes the news on. A process that is stopped (by a debugger, SIGSTOP) or busy for hours is none of these:
the systems of both sides answer each other's probes without it, so nothing here has a deadline for its work.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from utils.errors import FAILED_WORK_STATUS
from utils.logs import LOGGER
from utils.training.world import World

GRACE = 3.0  # seconds in which a process that learns of a failure may end with a message of its own
LINGER = 10.0  # seconds that a failing main process waits for processes which have not heard of it yet
END_GRACE = 30.0  # seconds in which a process that has failed must end
PROBE_AFTER, PROBE_EVERY, PROBES = 15, 5, 6  # seconds of silence, seconds, tries: 45 s to a lost machine
CONNECT_SECONDS = 20.0
SEND_SECONDS = 5.0
STATUS_OF_SIGNALS = 128  # exit statuses from here on tell of signals, and hold for all processes
_LONGEST = 4096  # bytes of a message
_LONGEST_TEXT = 400
_KEY = "failure_watch"
_copied: list[Watch] = []  # into loader processes, which must not keep this one's connections open


@dataclass
class Failure:
    """What ended the run: one line that names the process, and the status with which all end."""

    text: str
    status: int = FAILED_WORK_STATUS


@dataclass
class Peer:
    """A connection to another process.

    Attributes:
        connection: to it.
        name: of the process, for messages; '' until it has said who it is.
        waiting: bytes that came and are not yet a whole line.
        has_left: it has taken leave, so that the end of its connection is no failure.
    """

    connection: socket.socket
    name: str = ""
    waiting: bytes = b""
    has_left: bool = False


class Watch:
    """This process's part in the watch; see ``join_watch``.

    Attributes:
        failure: of another process, once it is known.
        is_failing: this process has reported a failure of its own.
    """

    def __init__(self, world: World):
        self.world = world
        self.name = process_name(world.rank)
        self.failure: Failure | None = None
        self.is_failing = False
        self._deadline: float | None = None
        self._status = FAILED_WORK_STATUS
        self._peers: dict[socket.socket, Peer] = {}
        self._listener: socket.socket | None = None
        self._token = ""
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._stopping = False
        self._greeted = threading.Semaphore(0)  # counts the processes that know of this one
        self._news: Failure | None = None  # what those that come late have to be told
        self._wake, self._wakened = socket.socketpair()
        self._thread = threading.Thread(target=self._work, name="failure watch", daemon=True)

    # Joining -----------------------------------------------------------------------------------------------------

    def listen(self) -> str:
        """Open the main process's port and return what the others need to find it."""
        self._listener = _listener()
        self._token = secrets.token_hex(16)
        port = self._listener.getsockname()[1]
        return json.dumps({"port": port, "token": self._token, "name": self.name})

    def connect(self, address: str, place: str) -> bool:
        """Connect to the main process at ``address`` as ``place``, its ``listen``, tells; False where that fails."""
        facts = json.loads(place)
        try:
            connection = socket.create_connection((address, facts["port"]), CONNECT_SECONDS)
        except OSError as error:
            print(
                f"WARNING {self.name}: the main process cannot be reached at {address}, port {facts['port']} "
                f"({error.strerror or error}), so a failure of it may be noticed hours late",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            return False
        self._add(connection, facts["name"])
        self._send(self._peers[connection], {"token": facts["token"], "name": self.name})
        return True

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    # Ending ------------------------------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Tell the others that this process ends by ``error``; from now on it has 30 s to do so.

        The main process waits until all have joined the watch, 10 s at most, so that all are told.
        """
        status = exit_status(error)
        self.is_failing, self._status, self._deadline = True, status, time.monotonic() + END_GRACE
        common = status if status >= STATUS_OF_SIGNALS else FAILED_WORK_STATUS
        self._tell_all(Failure(f"{self.name} failed: {one_line(error)}", common))
        self._rouse()
        if self._listener is not None:
            end = time.monotonic() + LINGER
            for _ in range(self.world.size - 1):
                self._greeted.acquire(timeout=max(end - time.monotonic(), 0))
        if hasattr(signal, "alarm") and threading.current_thread() is threading.main_thread():
            signal.alarm(round(END_GRACE) + 5)  # also where the interpreter has gone and a library waits for the others

    def leave(self) -> None:
        """Take leave of the others, so that the end of this process is no failure, and stop watching."""
        self._stopping = True
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            self._send(peer, {"left": True})
        self._rouse()
        if self._thread.is_alive():
            self._thread.join(SEND_SECONDS)

    def known_failure(self, seconds: float) -> Failure | None:
        """Return the failure of another process, waiting for the news of it for some seconds."""
        self._known.wait(seconds)
        return self.failure

    # The thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakened, selectors.EVENT_READ)
            if self._listener is not None:
                selector.register(self._listener, selectors.EVENT_READ)
            for connection in self._peers:
                selector.register(connection, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select(self._seconds_left()):
                    self._attend(key.fileobj, selector)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._end()
        self.close()

    def close(self) -> None:
        """Close this process's ends of all connections."""
        for connection in [*self._peers, self._listener, self._wake, self._wakened]:
            if connection is not None:
                connection.close()

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def _end(self) -> None:
        """End this process, whatever its main thread waits for."""
        status = self._status
        if self.failure is not None and not self.is_failing:
            status = self.failure.status
            print(f"error: {self.failure.text}; {self.name} ends as well", file=sys.stderr, flush=True)
        os._exit(status)

    def _attend(self, ready: Any, selector: selectors.BaseSelector) -> None:
        if ready is self._wakened:
            self._wakened.recv(_LONGEST)
        elif ready is self._listener:
            with contextlib.suppress(OSError):
                connection, _ = ready.accept()
                self._add(connection)
                selector.register(connection, selectors.EVENT_READ)
        elif ready in self._peers and not self._receive(self._peers[ready]):
            selector.unregister(ready)
            with self._lock:
                self._peers.pop(ready)
            ready.close()

    def _receive(self, peer: Peer) -> bool:
        """Take in what a peer sent; False at the end of its connection."""
        try:
            data = peer.connection.recv(_LONGEST)
        except TimeoutError:
            return True
        except ConnectionError:
            data = b""
        except OSError as error:
            self._lost(peer, error.strerror or str(error))
            return False
        peer.waiting += data
        if not data or len(peer.waiting) > _LONGEST:
            self._lost(peer, "")
            return False
        *lines, peer.waiting = peer.waiting.split(b"\n")
        return all(self._understood(peer, line) for line in lines)

    def _understood(self, peer: Peer, line: bytes) -> bool:
        """Act on one message; False for a stranger, who does not know the token."""
        try:
            message = json.loads(line)
            if not peer.name:
                peer.name = str(message["name"]) if secrets.compare_digest(message["token"], self._token) else ""
                if peer.name:
                    self._greet(peer)
                return bool(peer.name)
            peer.has_left = True  # either way its end is explained
            if "failure" in message:
                self._learn(Failure(str(message["failure"]), int(message["status"])))
        except (ValueError, TypeError, LookupError):
            return False
        return True

    def _greet(self, peer: Peer) -> None:
        """Tell a process that has just joined what it has missed."""
        with self._lock:
            news = self._news
            self._greeted.release()
        if news is not None:
            self._send(peer, {"failure": news.text, "status": news.status})

    def _lost(self, peer: Peer, reason: str) -> None:
        if peer.name and not peer.has_left and not self._stopping:
            why = f"cannot be reached any more ({reason})" if reason else "ended without a word (was it killed?)"
            self._learn(Failure(f"{peer.name} {why}"))

    def _learn(self, failure: Failure) -> None:
        """Take note of another process's failure, and tell the others of it."""
        if self.failure is not None or self.is_failing or self._stopping:
            return
        self.failure, self._deadline = failure, time.monotonic() + GRACE
        self._known.set()
        if self._listener is not None:
            self._tell_all(failure)

    # Sending -----------------------------------------------------------------------------------------------------

    def _tell_all(self, failure: Failure) -> None:
        with self._lock:
            self._news = failure
            peers = [peer for peer in self._peers.values() if peer.name]
        for peer in peers:
            self._send(peer, {"failure": failure.text, "status": failure.status})

    @staticmethod
    def _send(peer: Peer, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # one that is gone is noticed by its silence
            peer.connection.sendall(json.dumps(message).encode() + b"\n")

    def _rouse(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b".")

    def _add(self, connection: socket.socket, name: str = "") -> None:
        connection.settimeout(SEND_SECONDS)
        _probe(connection)
        with self._lock:
            self._peers[connection] = Peer(connection, name)


def _close_copies() -> None:
    while _copied:
        _copied.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def join_watch(world: World, store: dist.Store, address: str) -> Watch:
    """Begin to watch a run of several processes; each of them has to call it.

    Args:
        world: this process's place.
        store: the processes' common store.
        address: host name or address of the main process's machine.
    """
    watch = Watch(world)
    _copied[:] = [watch]
    if world.is_main:
        place = watch.listen()
        watch.start()
        store.set(_KEY, place)
    else:
        if watch.connect(address, store.get(_KEY).decode()):
            watch.start()
        store.set(f"{_KEY}/{world.rank}", watch.name)
    return watch


def missing_processes(world: World, store: dist.Store, seconds: float) -> list[int]:
    """Return the ranks that have not joined the watch after some seconds; for the main process."""
    end = time.monotonic() + seconds
    missing = list(range(1, world.size))
    while missing := [rank for rank in missing if not store.check([f"{_KEY}/{rank}"])]:
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    return missing


def exit_status(error: BaseException) -> int:
    """Return the status with which a command ends by an error."""
    status = error.code if isinstance(error, SystemExit) else getattr(error, "exit_status", None)
    return status if isinstance(status, int) and status > 0 else FAILED_WORK_STATUS


def process_name(rank: int) -> str:
    """Return how messages call this process."""
    return f"rank {rank} (host {socket.gethostname()}, process {os.getpid()})"


def one_line(error: BaseException) -> str:
    """Return an error as one line, with its type where it is none that a user causes."""
    text = " ".join(str(error).split())[:_LONGEST_TEXT]
    if hasattr(error, "exit_status"):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _listener() -> socket.socket:
    """Return a socket that listens at a free port of all addresses; strangers lack the token."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def _probe(connection: socket.socket) -> None:
    """Let the system find out by itself when the machine at the other end is gone."""
    settings = {
        "TCP_KEEPIDLE": PROBE_AFTER, "TCP_KEEPALIVE": PROBE_AFTER, "TCP_KEEPINTVL": PROBE_EVERY, "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": 1000 * (PROBE_AFTER + PROBE_EVERY * PROBES),
    }  # fmt: skip
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in settings.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError as error:
        LOGGER.warning("WARNING the connection between processes is not probed (%s)", error.strerror)
