"""Messages between the parent and a worker.

A message is its length in eight bytes, then a pickle.  The worker waits for its socket; the parent never does: what
does not fit stays in memory until the socket takes it, and half a message stays in memory until the rest comes.  So a
worker that stands still, at whatever point, cannot hold up the parent.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from multiprocessing.reduction import ForkingPickler
from typing import Any

_LENGTH = struct.Struct("!Q")
_CHUNK = 2**20


def pack(message: object) -> memoryview:
    """A message as it travels."""
    return memoryview(ForkingPickler.dumps(message))


def send(end: socket.socket, message: object) -> None:
    """Send a message and wait until it is on its way; the worker's side."""
    data = pack(message)
    end.sendall(_LENGTH.pack(len(data)))
    end.sendall(data)


def receive(end: socket.socket) -> Any:
    """Wait for a message; the worker's side.  Raises EOFError when the parent is gone."""
    (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return pickle.loads(_exactly(end, length))  # noqa: S301 - from the parent


def _exactly(end: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        got = end.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data


class Channel:
    """The parent's end of a socket to one worker."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    @property
    def unsent(self) -> bool:
        """Whether something waits for the socket to take it."""
        return bool(self._outgoing)

    def send(self, data: memoryview) -> None:
        """Send as much as the socket takes, and keep the rest for `flush`."""
        self._outgoing += (memoryview(_LENGTH.pack(len(data))), data)
        self.flush()

    def flush(self) -> None:
        """Send on.  A worker that is gone is noticed when its messages end, not here."""
        try:
            while self._outgoing:
                data = self._outgoing[0]
                sent = self._end.send(data[:_CHUNK])
                if sent == len(data):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = data[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    def receive(self) -> list[Any]:
        """The messages that are complete.  Raises EOFError when none is and the worker is gone."""
        ended = False
        try:
            while data := self._end.recv(_CHUNK):
                self._incoming += data
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        messages = list(self._complete())
        if ended and not messages:
            raise EOFError
        return messages

    def _complete(self) -> Any:
        while len(self._incoming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming)
            if len(self._incoming) < _LENGTH.size + length:
                return
            with memoryview(self._incoming) as view:
                message = pickle.loads(view[_LENGTH.size : _LENGTH.size + length])  # noqa: S301 - from our worker
            del self._incoming[: _LENGTH.size + length]
            yield message
