"""Messages between two processes: one line of JSON each, over a pair of pipes."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

LONGEST = 32 * 2**20  # bytes of one message


class Line:
    """One end. When the other is gone, or says too much, this process ends: nothing can go on."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self._buffer = bytearray()

    def send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            try:
                line = line[os.write(self.outgoing, line) :]
            except BrokenPipeError:
                self.lost()

    def receive(self) -> dict[str, Any]:
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            chunk = os.read(self.incoming, 1 << 20)
            if not chunk or seen > LONGEST:
                self.lost()
            self._buffer += chunk
        message: dict[str, Any] = json.loads(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        return message

    def lost(self) -> NoReturn:
        os._exit(1)
