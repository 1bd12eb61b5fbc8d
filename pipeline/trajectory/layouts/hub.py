"""Runs on the Hugging Face hub: one repository, a branch or tag for each step (`step_100`, ...).

Offline (HF_HUB_OFFLINE=1) the revisions that the local cache holds are the run.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound

from pipeline.errors import PipelineError, first_line
from pipeline.faults import is_local
from pipeline.trajectory.names import KNOWN, by_step, parse

PREFIX = "hub:"
WANTED = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


def download_steps(repo: str) -> dict[int, Path]:
    """The model folder of every revision whose name gives a step.

    Args:
        repo: "owner/name".

    Raises:
        PipelineError: repository not reachable or not in the cache, no such revisions, step twice.
    """
    revisions = _revisions(repo)
    found = by_step(repo, [step for r in revisions if (step := parse(r)) is not None])
    if not found:
        others = f"; there are {', '.join(sorted(revisions)[:8])}" if revisions else ""
        raise PipelineError(f"{repo}: no revisions named {KNOWN}{others}")
    return {step: _download(repo, revision) for step, revision in sorted(found.items())}


def _revisions(repo: str) -> list[str]:
    try:
        if constants.HF_HUB_OFFLINE:
            cached = scan_cache_dir(constants.HF_HUB_CACHE).repos
            return sorted(ref for r in cached if r.repo_id == repo for ref in r.refs)
        refs = HfApi().list_repo_refs(repo)
    except (CacheNotFound, OSError) as error:
        if is_local(error):
            raise
        reason = first_line(error)
        raise PipelineError(f"{repo}: cannot list its revisions ({reason})") from None
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _download(repo: str, revision: str) -> Path:
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            cache_dir=constants.HF_HUB_CACHE,
            allow_patterns=list(WANTED),
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    except OSError as error:
        if is_local(error):
            raise
        reason = first_line(error)
        raise PipelineError(f"{repo} at {revision}: cannot download it ({reason})") from None
    return Path(folder)
