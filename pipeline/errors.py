"""The one exception that a user is meant to read.

Raised where the bad value is seen, with a message of one line that names the file, key or
tensor and says the fix. `pipeline.__main__` prints it and exits with 1; any other exception is
a bug and keeps its traceback.
"""


class PipelineError(Exception):
    """A mistake that the user can fix; the message is one line."""


def first_line(error: BaseException) -> str:
    """The beginning of what a library's error says; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
