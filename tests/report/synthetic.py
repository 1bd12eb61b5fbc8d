"""Makes a run directory as the stages would leave it, from a seed, for the tests of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.artifacts import append_jsonl, write_json, write_text

STEPS = list(range(0, 101, 5))
LAST = 60
KINDS = (
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)


def write_run(folder: Path, gains: dict[str, float] | None = None, layers: int = 4) -> Path:
    """Write every artefact of a finished run.

    Args:
        folder: run directory, made if needed.
        gains: paired difference (share) of the chosen "weight" and "logit" models on test.
        layers: number of decoder layers in weights.json.
    """
    rng = np.random.default_rng(7)
    gains = gains or {"weight": 0.004, "logit": 0.026}
    write_text(folder / "config.yaml", yaml.safe_dump(config(), sort_keys=False))
    trajectory = {
        "steps": STEPS,
        "paths": {str(step): f"rl_train/snapshots/step_{step}" for step in STEPS},
        "parameters": 1_048_576,
        "dtype": "float32",
        "tied": [],
    }
    write_json(folder / "snapshot" / "trajectory.json", trajectory)
    write_json(folder / "linear_probe" / "weights.json", weights(rng, layers))
    write_json(folder / "linear_probe" / "logprobs.json", logprobs(rng))
    write_json(folder / "linear_probe" / "activations.json", activations(rng, layers))
    append_jsonl(folder / "rl_train" / "metrics.jsonl", rewards(rng))
    for target in (80, 100, 120, 150):
        entry = {"method": "two_point", "coefficients": {"60": target / LAST}, "alpha": target / 60}
        place = folder / "weight_extrap" / "two_point" / f"step_{target}"
        write_json(place / "extrapolation.json", entry)
    write_json(folder / "evaluate" / "scores.json", scores(gains))
    for number, stage in enumerate(("rl_train", "linear_probe", "weight_extrap", "evaluate")):
        write_json(folder / stage / "done.json", done(stage, 12.5 + 71.0 * number, number))
    return folder


def config() -> dict[str, Any]:
    return {
        "name": "synthetic",
        "seed": 0,
        "model": {"name": "tiny-qwen2"},
        "task": {"name": "arithmetic"},
        "extrapolation": {"method": "two_point", "first": 0, "last": LAST, "hold": ["*norm*"]},
        "logit_extrap": {"alphas": [0.5, 1.0, 1.5, 2.0, 3.0]},
    }


def done(stage: str, seconds: float, number: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "key": f"{number}" * 64,
        "seconds": seconds,
        "finished": f"2026-01-01T00:0{number}:00+00:00",
        "summary": {"models": 12, "r2": 0.80123},
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "git": "0123456789abcdef0123456789abcdef01234567",
    }


def probe(rng: np.random.Generator, total: int, kept: int) -> dict[str, Any]:
    """What both probes share: figures that fit their histograms."""
    values = np.clip(rng.beta(3.4, 1.1, kept), 0, 1)
    dropped = np.clip(rng.beta(1.0, 1.6, total - kept), 0, 1)
    everything = np.concatenate([values, dropped])
    edges = np.linspace(0, 1, 1001)
    return {
        "scalars_total": total,
        "scalars_kept": kept,
        **_moments(values),
        "unfiltered": _moments(everything),
        "histogram": {
            "edges": edges.tolist(),
            "counts": np.histogram(values, edges)[0].tolist(),
            "counts_unfiltered": np.histogram(everything, edges)[0].tolist(),
        },
        "steps": STEPS,
    }


def _moments(values: np.ndarray) -> dict[str, float]:
    return {
        "r2_mean": float(values.mean()),
        "r2_median": float(np.median(values)),
        "r2_share_above_0.7": float((values > 0.7).mean()),
    }


def weights(rng: np.random.Generator, layers: int) -> dict[str, Any]:
    names = [f"model.layers.{layer}.{kind}" for layer in range(layers) for kind in KINDS]
    names += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    tensors: list[dict[str, Any]] = []
    for name in names:
        r2 = float(np.clip(0.72 + 0.15 * rng.standard_normal(), 0.05, 0.99))
        empty = name.endswith("input_layernorm.weight")
        tensors.append(
            {
                "name": name,
                "total": 4096,
                "kept": 0 if empty else 3000,
                "r2_mean": None if empty else r2,
                "r2_median": None if empty else min(0.99, r2 + 0.03),
                "relative_movement": 0.01,
            }
        )
    examples = [
        {"name": names[place], "index": [12 * i, 7 + i], **path(rng, 2e-4, noise)}
        for i, (place, noise) in enumerate(
            zip((0, 4, 6, 8, -3, -1), (1, 2, 3, 6, 2, 12), strict=True)
        )
    ]
    return {
        **probe(rng, 40_000, 31_000),
        "relative_movement": 0.0123,
        "tensors": tensors,
        "examples": examples,
        "filters": {"min_change": 1e-4, "min_unique": 4},
    }


def logprobs(rng: np.random.Generator) -> dict[str, Any]:
    texts = [("4", "23+19="), ("2", "23+19=4"), (" wait", "so it is 41.\n"), ("中", "cost $5_"),
             ("\n", "=7"), ("but", "x" * 60)]  # fmt: skip
    examples = [
        {"token": token, "context": context, **path(rng, 0.02, 2 + i)}
        for i, (token, context) in enumerate(texts)
    ]
    base = probe(rng, 5000, 2100)
    return {
        **base,
        "tokens_total": 5000,
        "tokens_kept": 2100,
        "tensors": [],
        "examples": examples,
        "r2_by_base_probability": bins([0, 0.1, 0.5, 0.9, 1], [500, 1500, 2000, 1000]),
        "r2_by_change": bins([None, -1, -0.2, 0.2, 1, None], [0, 700, 2900, 1400, 0]),
    }


def bins(edges: list[float | None], totals: list[int]) -> list[dict[str, Any]]:
    """Tokens in bins; the bin around no change keeps none."""
    rows = []
    for low, high, total in zip(edges, edges[1:], totals, strict=False):
        kept = 0 if low == -0.2 or not total else total // 2
        r2 = 0.8 + total / 20_000
        rows.append(
            {
                "low": low,
                "high": high,
                "total": total,
                "kept": kept,
                "r2_median": r2 if kept else None,
                "r2_median_unfiltered": r2 - 0.2 if total else None,
            }
        )
    return rows


def activations(rng: np.random.Generator, layers: int) -> dict[str, Any]:
    """Hidden states that move more with depth; outputs changed by 70 % input, 31 % weights."""
    names = ["model.embed_tokens", *(f"model.layers.{i}" for i in range(layers)), "head input"]
    states = [
        {
            "name": name,
            "layer": place - 1 if 0 < place <= layers else None,
            "kept": 0 if place == 0 else 900,
            "total": 1000,
            "r2_median": None if place == 0 else 0.8 + 0.1 * float(rng.random()),
            "unfiltered": {"r2_median": 0.7},
            "relative_movement": 0.01 * place,
        }
        for place, name in enumerate(names)
    ]
    linear = [f"model.layers.{i}.{kind[:-7]}" for i in range(layers) for kind in KINDS[::2][:4]]
    return {
        **probe(rng, 1000 * len(names), 900 * (len(names) - 1)),
        "filters": {"min_change": 0.01},
        "positions": 1024,
        "layers": states,
        "decomposition": [driver(name) for name in (*linear, "lm_head")],
    }


def driver(name: str, weights: float = 0.31, cross: float = -0.01) -> dict[str, Any]:
    """A linear layer's row; the input has the rest of the change."""
    shares = {
        "input_change": 1 - weights - cross,
        "weight_change": weights,
        "cross": cross,
        "bias_change": 0.0,
    }
    norms = {term: abs(share) + 0.01 for term, share in shares.items()}
    return {"name": name, **shares, "norms": norms, "residual": 1e-6, "output_change": 0.08}


def path(rng: np.random.Generator, slope: float, noise: float) -> dict[str, Any]:
    """One scalar over the steps with its least-squares line."""
    steps = np.array(STEPS, dtype=float)
    values = 0.0171 + slope * rng.choice([-1, 1]) * steps / 100
    values = values + slope * 0.05 * noise * rng.standard_normal(len(steps))
    fit = np.polyfit(steps, values, 1)
    return {
        "steps": STEPS,
        "values": values.tolist(),
        "slope": float(fit[0]),
        "intercept": float(fit[1]),
        "r2": float(np.corrcoef(steps, values)[0, 1] ** 2),
    }


def rewards(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"step": step, "reward": 0.24 + 0.001 * step + 0.03 * float(rng.standard_normal())}
        for step in range(1, 101)
    ]


def scores(gains: dict[str, float]) -> dict[str, Any]:
    """Real RL up to step 100, predictions from step 60, α from 0.5 to 3; on both splits."""
    rows = []
    for split, shift in (("validation", 0.012), ("test", 0.0)):
        final = 0.323 + shift
        rows.append(row("base", "base", split, 0.238 + shift, final))
        for step in STEPS[2::2]:
            level = 0.238 + 0.085 * (step / 100) ** 0.7 + shift
            rows.append(row(f"rl-{step}", "rl", split, level, final, step=step))
        for target, part in ((80, 0.3), (100, 0.8), (120, 1.0), (150, -1.5)):
            level = final + gains["weight"] * part if part > 0 else final - 0.03
            extra = {"method": "two_point", "step": target, "chosen": target == 120}
            rows.append(row(f"two_point-{target}", "weight", split, level, final, **extra))
        for alpha, part in ((0.5, -2.0), (1.0, 0.0), (1.5, 1.0), (2.0, 0.6), (3.0, -1.0)):
            level = final + gains["logit"] * part
            extra = {"alpha": alpha, "chosen": alpha == 1.5}
            rows.append(row(f"logit-{alpha:g}", "logit", split, level, final, **extra))
    for each in rows:
        each["temperature"] = 1.0
        each |= signs(each)
    return {
        "rows": rows,
        "chosen": {"weight": {"model": "two_point-120"}, "logit": {"model": "logit-1.5"}},
        "label_free": {"weight": {"agreement": label_free()}},
        "last_rl": "rl-100",
        "controls": controls(rows),
    }


def signs(row: dict[str, Any]) -> dict[str, Any]:
    """The farthest predictions have collapsed on test problems; base is not judged."""
    lost = row["model"] in ("two_point-150", "logit-3") and row["split"] == "test"
    reason = "83 % of responses hit the limit of tokens (0.2 % at rl-60)"
    collapse = {"against": "rl-60", "reasons": [reason] if lost else [], "without_labels": []}
    return {
        "collapsed": lost,
        "collapse": None if row["kind"] == "base" else collapse,
        "truncated_share": 0.83 if lost else 0.002,
        "no_answer_share": 0.0,
        "looping_share": 0.0,
        "copied_share": 0.0,
        "same_answer_share": 0.1,
        "entropy": 0.4,
    }


def label_free() -> dict[str, Any]:
    """A choice that is not the labelled one."""
    return {
        "model": "two_point-100",
        "value": 0.7,
        "validation avg@k": 0.339,
        "labelled": "two_point-120",
        "same": False,
        "regret": {"diff": 0.004, "ci95": [-0.003, 0.011]},
        "rank_correlation": 0.8,
        "candidates": 3,
        "left_out": 1,
        "test": [{"task": "arithmetic", "diff": -0.001, "ci95": [-0.01, 0.008], "p": 0.8}],
    }


def controls(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All models gain alike at lower temperatures, so the differences stay as they are."""
    reported = ("base", "rl-100", "two_point-120", "logit-1.5")
    lower = [
        {**each, "avg@k": each["avg@k"] + gain, "k": 4, "temperature": temperature}
        for temperature, gain in ((0.0, 0.1), (0.6, 0.05))
        for each in rows
        if each["model"] in reported
    ]
    best = {model: {"temperature": 0.0, "validation avg@k": 0.43} for model in reported}
    comparisons = [
        {
            "model": each["model"],
            "task": each["task"],
            "temperature": 0.0,
            "control": {"model": "rl-100", "temperature": 0.6},
            **each["diff_to_last_rl"],
        }
        for each in rows
        if each["model"] in reported[2:] and each["split"] == "test"
    ]
    return {"temperatures": [0.0, 0.6], "rows": lower, "best": best, "comparisons": comparisons}


def row(
    model: str, kind: str, split: str, level: float, final: float, **extra: Any
) -> dict[str, Any]:
    difference = None
    if model != "rl-100":
        gap = level - final
        difference = {"diff": gap, "ci95": [gap - 0.02, gap + 0.02], "p": 0.031}
    return {
        "model": model,
        "kind": kind,
        "task": "arithmetic",
        "split": split,
        "n_problems": 300,
        "samples_per_problem": 16,
        "avg@k": level,
        "k": 16,
        "pass@k": {"1": level, "4": level + 0.2, "16": level + 0.3},
        "maj@k": level + 0.05,
        "ci95": [level - 0.027, level + 0.026],
        "diff_to_last_rl": difference,
        "truncated_share": 0.002,
        "tokens_mean": 3.4,
        "grading_timeouts": 0,
        "extraction_failures": 3,
        "chosen": False,
        **extra,
    }
