"""What the tests of tasks share: the words that a chat model is shown."""

from pipeline.tasks import Problem


def content(problem: Problem) -> str:
    """The one message of a problem's prompt."""
    assert not isinstance(problem.prompt, str)
    (message,) = problem.prompt
    assert message["role"] == "user"
    return message["content"]
