"""How often the 95 % intervals of scores.json cover: simulated evaluations whose truth is known.

    python benchmarks/interval_coverage.py                       # the table of docs/evaluate.md
    python benchmarks/interval_coverage.py --peer --problems 30  # and a percentile bootstrap

Of each problem the chance of a right answer is drawn, then k answers, then the interval is made;
it should hold the mean chance in 95 of 100 evaluations. Problems are "alike" (all of one chance),
"spread R" (chances follow a beta distribution; R is the correlation of two answers to a problem) or
"all or nothing". For a difference, a second model meets the same problems: of a share of them its
chances are its own, and on all of them it is right in a further part of the cases where the first
model is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.intervals import difference_interval, score_interval

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]

ALIKE, ALL_OR_NOTHING = 0.0, 1.0
SPREADS = (ALIKE, 0.1, 0.3, 0.6, ALL_OR_NOTHING)
SCORES = (0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98)
PAIRS = ((ALIKE, 0.0), (0.3, 0.0), (0.3, 0.3), (ALL_OR_NOTHING, 0.1), (ALL_OR_NOTHING, 1.0))
BASES = (0.1, 0.3, 0.5, 0.9)  # the first model's score
GAINS = (0.0, 0.02, 0.1)  # and the second one's, as a part of what the first one lacks
RESAMPLES = 1000


@dataclass(frozen=True)
class Cell:
    """One setting: what was simulated, the truth, and what came out (shares of the draws)."""

    what: str
    problems: int
    samples: int
    truth: float
    coverage: float
    width: float
    peer: float | None = None


def name(spread: float) -> str:
    return {ALIKE: "alike", ALL_OR_NOTHING: "all or nothing"}.get(spread, f"spread {spread:g}")


def chances(rng: np.random.Generator, score: float, spread: float, size: tuple[int, int]) -> Array:
    """The chance of each problem in each evaluation, [draws, problems]."""
    if spread == ALIKE:
        return np.full(size, score)
    if spread == ALL_OR_NOTHING:
        return (rng.random(size) < score).astype(np.float64)
    weight = 1 / spread - 1
    return rng.beta(score * weight, (1 - score) * weight, size)


def bootstrap(values: Array, rng: np.random.Generator) -> Bounds:
    """Percentile interval of each row's mean, problems drawn with replacement."""
    count = values.shape[1]
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).T / count
    low, high = np.quantile(values @ drawn, [0.025, 0.975], axis=1)
    return low, high


def covered(bounds: Bounds, truth: float) -> float:
    low, high = bounds
    return float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())


def score_cells(arguments: argparse.Namespace, rng: np.random.Generator) -> Iterator[Cell]:
    for problems in arguments.problems:
        for samples in arguments.samples:
            for spread in SPREADS if samples > 1 else (ALIKE,):  # one answer: all are alike
                for score in SCORES:
                    chance = chances(rng, score, spread, (arguments.draws, problems))
                    shares = rng.binomial(samples, chance) / samples
                    bounds = score_interval(shares, samples)
                    peer = covered(bootstrap(shares, rng), score) if arguments.peer else None
                    width = float((bounds[1] - bounds[0]).mean())
                    where = (name(spread), problems, samples, score)
                    yield Cell(*where, covered(bounds, score), width, peer)


def difference_cells(arguments: argparse.Namespace, rng: np.random.Generator) -> Iterator[Cell]:
    for problems in arguments.problems:
        for samples in arguments.samples:
            for spread, own in PAIRS:
                for base in BASES:
                    size = (arguments.draws, problems)
                    first = chances(rng, base, spread, size)
                    other = np.where(
                        rng.random(size) < own, chances(rng, base, spread, size), first
                    )
                    for gain in GAINS:
                        second = other + gain * (1 - other)
                        truth = gain * (1 - base)
                        a = rng.binomial(samples, second) / samples
                        b = rng.binomial(samples, first) / samples
                        bounds = difference_interval(a, b, samples)
                        peer = covered(bootstrap(a - b, rng), truth) if arguments.peer else None
                        width = float((bounds[1] - bounds[0]).mean())
                        what = f"{name(spread)}, {base:g}, own {own:g}"
                        where = (what, problems, samples, truth)
                        yield Cell(*where, covered(bounds, truth), width, peer)


def show(title: str, cells: list[Cell], kind: Callable[[Cell], str]) -> None:
    """A table with the least and the largest coverage over the truths, and what is beyond 93-97."""
    counts = sorted({cell.samples for cell in cells})
    print(f"\n{title}: coverage in %, least to largest\n")
    print("| problems | " + " | ".join(f"k = {count}" for count in counts) + " |")
    print("|---|" + "--:|" * len(counts))
    rows = dict.fromkeys((kind(cell), cell.problems) for cell in cells)
    for what, problems in rows:
        texts = []
        for count in counts:
            mine = [
                100 * cell.coverage
                for cell in cells
                if (kind(cell), cell.problems, cell.samples) == (what, problems, count)
            ]
            texts.append(f"{min(mine):.1f}-{max(mine):.1f}" if mine else "")
        print(f"| {problems}, {what} | " + " | ".join(texts) + " |")
    shares = np.array([cell.coverage for cell in cells])
    print(
        f"\n{len(cells)} settings: {np.mean((shares >= 0.93) & (shares <= 0.97)):.0%} in 93-97, "
        f"{np.mean(shares < 0.93):.0%} below, {np.mean(shares > 0.97):.0%} above; "
        f"least {100 * shares.min():.1f}, largest {100 * shares.max():.1f}"
    )
    peers = np.array([cell.peer for cell in cells if cell.peer is not None])
    if peers.size:
        print(f"bootstrap: {np.mean(peers < 0.93):.0%} below 93, least {100 * peers.min():.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000, help="evaluations a setting")
    parser.add_argument("--problems", type=int, nargs="+", default=[30, 100, 300, 1000])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", action="store_true", help="a percentile bootstrap too (slow)")
    parser.add_argument("--json", type=Path, help="write every setting there")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    scores = list(score_cells(arguments, rng))
    show("Scores", scores, lambda cell: cell.what)
    differences = list(difference_cells(arguments, rng))
    show("Paired differences", differences, lambda cell: cell.what.partition(",")[0])
    if arguments.json:
        found = {"scores": scores, "differences": differences}
        plain = {key: [asdict(cell) for cell in cells] for key, cells in found.items()}
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
