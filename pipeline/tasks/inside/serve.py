"""The candidate's process: loads its code, then does with it what the tests ask.

Nothing here is secret, and nothing that it says is believed: it is the candidate's own word.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from .confine import limit, new_module, private_streams
from .mirror import Remote, open_up
from .peer import Peer


class Server(Peer):
    """Answers the tests' requests."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing, first=1)
        self.namespace = new_module("solution")
        self.printed: io.StringIO | None = None
        open_up(Remote)  # the tests' objects decide for themselves what they answer

    def perform(self, what: str, *operands: Any) -> Any:
        if what == "load":
            code, captured, seeded = operands
            if captured:
                self.printed = sys.stdout = io.StringIO()
            if seeded:
                self.randomness.share()
            exec(compile(code, "solution.py", "exec", dont_inherit=True), self.namespace)
            return None
        if what == "name":
            if operands[0] not in self.namespace:
                raise NameError(f"name {operands[0]!r} is not defined")
            return self.namespace[operands[0]]
        if what == "printed":
            text = "" if self.printed is None else self.printed.getvalue()
            if self.printed is not None:
                self.printed.seek(0)
                self.printed.truncate()
            return text
        return super().perform(what, *operands)


def main(memory: int, cpu: int, file: int) -> None:
    server = Server(*private_streams())
    limit(memory, cpu, file)
    while True:
        server.answer(server.receive()["q"])
