"""Tasks for tests, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import DatasetConfig, TaskConfig, check_task


def task(
    name: str,
    *,
    kind: str | None = None,
    dataset: Mapping[str, Any] | Path | None = None,
    prompt_template: str | None = None,
    system_prompt: str | None = None,
    grade_after: str | None = None,
    **options: Any,
) -> TaskConfig:
    """A task with these options.

    Args:
        kind: the name, if not given.
        dataset: a file, or the fields of a DatasetConfig.
    """
    if isinstance(dataset, Path):
        dataset = {"path": str(dataset)}
    return TaskConfig(
        name=name,
        kind=kind or name,
        dataset=None if dataset is None else DatasetConfig(**dataset),
        prompt_template=prompt_template,
        system_prompt=system_prompt,
        grade_after=grade_after,
        options=options,
    )


def needs_ifeval() -> None:
    """Skip the test where the published checkers or the data that they read are not there."""
    try:
        check_task(task("ifeval", dataset={"path": "google/IFEval"}))
    except PipelineError as error:
        pytest.skip(str(error))
