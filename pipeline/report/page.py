"""One self-contained page from a run directory: what the run came to, in words and figures.

The page holds no link to another file or host: figures are embedded, the style is inline, and
there is no script. So it can be mailed, archived and printed, and reads the same in ten years.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.report import collapse, probe, sections, tables, verdict
from pipeline.report.glossary import glossary
from pipeline.report.html import Album
from pipeline.report.inputs import read_artefacts


def write_page(run_dir: Path) -> Path:
    """Write `report/index.html` and its figures (PNG, light and dark) from a run's artefacts.

    Args:
        run_dir: the run directory; every artefact in it is optional, and what is missing leaves
            one line that says which stage makes it.

    Returns:
        Path of index.html.

    Raises:
        PipelineError: the directory is missing, or an artefact in it is torn or lacks a key.
    """
    run = read_artefacts(run_dir)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    album = Album(folder)
    parts = [
        verdict.summary(run),
        sections.models(run, album),
        sections.sharpening(run, album),
        sections.horizon(run, album),
        sections.logits(run, album),
        collapse.section(run, album),
        collapse.without_labels(run),
        probe.weights(run, album),
        probe.logprobs(run, album),
        probe.activations(run, album),
        sections.training(run, album),
        tables.score_table(run),
        tables.facts(run),
        glossary(),
    ]
    return album.write_page(f"{run.name}: RL extrapolation report", verdict.head(run), parts)
