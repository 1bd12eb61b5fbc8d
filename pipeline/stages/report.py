"""One self-contained page and its figures, from whatever artefacts there are."""

from __future__ import annotations

from typing import Any

from pipeline.config import STAGES
from pipeline.estimates import sampling
from pipeline.stages.base import Context

SECTIONS = ()
REUSES = True


def needs(context: Context) -> tuple[str, ...]:
    """Whatever the run has: a section without artefacts says which stage makes them."""
    return tuple(s for s in STAGES if s != "report" and context.runs_or_done(s))


def inputs(context: Context) -> dict[str, Any]:
    return {}


def standing(context: Context) -> str:
    return context.standing("report", "index.html")


def plan(context: Context) -> str:
    return f"figures and a page in {context.stage_dir('report')}{sampling.report(context)}"


def run(context: Context) -> dict[str, Any]:
    from pipeline.report.page import write_page

    page = write_page(context.run_dir)
    figures = sorted(p for p in page.parent.glob("*.png") if not p.stem.endswith("-dark"))
    context.tracker.images(figures)
    return {"figures": len(figures)}
