"""Can a method and a horizon be chosen without labels, and what does that cost?

    python -m studies.label_free --out outputs/studies

The three runs of studies.horizon. Three methods to eight steps each, and logits at seven alphas,
from the checkpoints of steps 0 to 120; 300 validation problems x 4 at T = 1 choose, by labels and
by each criterion of pipeline.evaluation.label_free, and 300 test problems x 4 judge.
Writes docs/results/label_free.json and prints the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts import read_json
from pipeline.evaluation.label_free import CRITERIA
from pipeline.evaluation.selection import KINDS
from studies import jobs, tiny_runs
from studies.jobs import Job, folder_of_runs, over_seeds, percent, save
from studies.tiny_runs import SEEDS, STEPS, long

METHODS = ("two_point", "damped", "gated")
SHARED = (
    *(each for each in tiny_runs.SHARED if not each.startswith("stages=")),
    "stages=[sft_train,rl_train,snapshot,weight_extrap,logit_extrap,evaluate]",
    *(f"+extrapolation@extrapolations.{method}={method}" for method in METHODS),
    f"extrapolation.last={STEPS}",
    "weight_extrap.write=false",
    "evaluate.validation_problems=300",
    "evaluate.test_problems=300",
    "evaluate.samples_per_problem=4",
    "evaluate.pass_k=[1]",
    "evaluate.controls=false",
)


def job(seed: int) -> Job:
    """Shares its training with the run of studies.horizon."""
    return Job(f"label-free-s{seed}", long(seed).overrides)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the seeds, by kind and criterion: what was chosen, and what that costs.

    Args:
        found: `label_free` of each seed's scores.json.

    Returns:
        chosen, labelled: models; regret, test: in accuracy, the labelled choice less this one on
        validation, and this one less the labelled on test (0 where they are the same);
        rank_correlation; candidates and left_out.
    """
    result: dict[str, Any] = {}
    for kind in KINDS:
        for criterion in CRITERIA:
            mine = [each[kind][criterion] for each in found]
            result[f"{kind}, {criterion}"] = {
                "chosen": [one["model"] for one in mine],
                "labelled": [one["labelled"] for one in mine],
                "regret": over_seeds([one["regret"]["diff"] for one in mine], -1.0, 1.0),
                "test": over_seeds([_on_test(one) for one in mine], -1.0, 1.0),
                "rank_correlation": [one["rank_correlation"] for one in mine],
                "candidates": [one["candidates"] for one in mine],
                "left_out": [one["left_out"] for one in mine],
            }
    return result


def _on_test(one: Mapping[str, Any]) -> float:
    return float(one["test"][0]["diff"]) if one["test"] else 0.0


def table(result: Mapping[str, Any]) -> str:
    """Markdown, a line for each kind and criterion; differences in points."""
    lines = [
        "| | chosen (with labels), by seed | regret | on test | rank correlation | left out |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, row in result.items():
        pairs = zip(row["chosen"], row["labelled"], strict=True)
        chosen = "; ".join(f"{one} ({other})" for one, other in pairs)
        ranks = ", ".join("" if r is None else f"{r:.2f}" for r in row["rank_correlation"])
        out = ", ".join(map(str, row["left_out"]))
        lines.append(
            f"| {name} | {chosen} | {percent(row['regret'])} | {percent(row['test'])} "
            f"| {ranks} | {out} |"
        )
    return "\n".join(lines)


def main() -> None:
    out = folder_of_runs(__doc__) / "tiny"
    made = [job(seed) for seed in SEEDS]
    jobs.run(made, out, (*SHARED, f"run.shared={out / 'store'}"), last="evaluate")
    found = [read_json(out / each.name / "evaluate" / "scores.json")["label_free"] for each in made]
    result = summary(found)
    save("label_free", {"shared": SHARED, "choices": result})
    print(table(result))


if __name__ == "__main__":
    main()
