"""Heat and the causal check against planted truth.

Run ``python -m benchmarks.bias``, or with ``--quick`` for one seed and smaller networks; networks are
trained and measured in two processes of one thread each (``--jobs``). Everything is drawn and trained
here; nothing is downloaded.

The truth of a sample is p(predicted class) minus its mean over fresh renderings of the same object on
backgrounds of other families, without watermark and tint; a sample relies on its background where
that is at least .5. Verdicts are also held against a truth by share: where it is at least half of the
score. Nothing of either is shown to what is measured.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import pathlib
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks import planted
from benchmarks.timing import machine
from cam_core import explain
from cam_core.bias.assessment import Assessment, ClassRow, assess, class_table, model_line
from cam_core.bias.calibration import calibrate, heat_features
from cam_core.bias.swap_test import SwapCheck, swap_check
from cam_core.bias.verdicts import HARMLESS, HIDDEN, OBJECT, RELIES
from cam_core.metrics.localization import measure
from cam_core.stats.resampling import auroc, spearman

#: fresh renderings behind the truth, and apart from them those of the oracle
TRUTH, ORACLE = 24, 6
#: donors of each kind that a sample gets at most, as in ``find_background_bias``
MOST = 32
SCORES = ("heat", "calibrated", "swap_drop", "dependence", "oracle")


@dataclasses.dataclass
class Case:
    """A network, its test images, the truth and what we say of it."""

    name: str
    data: planted.Planted
    truth: np.ndarray
    true_flips: np.ndarray
    accuracy: float
    swap_accuracy: float
    scores: dict[str, np.ndarray]
    features: np.ndarray
    energy: np.ndarray
    check: SwapCheck
    assessment: Assessment
    classes: list[ClassRow]
    line: dict[str, float]

    @property
    def positive(self) -> np.ndarray:
        """Which samples rely on their background, in truth."""
        return self.truth >= 0.5

    @property
    def positive_by_share(self) -> np.ndarray:
        """Which samples lose at least half of their score, in truth."""
        return self.truth >= 0.5 * self.check.table.score

    @property
    def flagged(self) -> np.ndarray:
        """Which samples the verdict says do."""
        return np.array([v.verdict in (RELIES, HIDDEN) for v in self.assessment.verdicts])

    @property
    def cleared(self) -> np.ndarray:
        """Which samples the verdict says do not."""
        return np.array([v.verdict in (OBJECT, HARMLESS) for v in self.assessment.verdicts])


def study(name: str, network: str, data: planted.Planted, model: nn.Module, seed: int) -> Case:
    """Measures one network: truth, heat, swap, verdicts."""

    def predict(images: list) -> torch.Tensor:
        with torch.inference_mode():
            return model(planted.to_input(np.stack(images))).softmax(1)

    rng = np.random.default_rng([seed, 1])
    probabilities = predict(data.images).numpy()
    predicted = probabilities.argmax(1)
    rows = np.arange(len(predicted))
    drawn = [predict(data.rerender(rng)).numpy() for _ in range(TRUTH + ORACLE)]
    own = probabilities[rows, predicted]
    kept = np.stack([p[rows, predicted] for p in drawn])
    winners = np.stack([p.argmax(1) for p in drawn[:TRUTH]])
    bare = predict(data.only_backgrounds(rng)).argmax(1).numpy()

    check = swap_check(data.images, data.masks, predict, count=4, most=MOST, seed=seed)
    layer = planted.NETWORKS[network][1]
    maps = explain(model, planted.to_input(data.images), "gradcam", layers=[layer]).maps
    heat = measure(next(iter(maps.values()))[:, 0], torch.from_numpy(data.masks).float())
    features = heat_features(heat.density_share_tol, heat.obj_energy, heat.entropy, heat.area, own)
    assessment = assess(predicted, rows, check.status, check.effects, features, seed=seed)
    line = model_line(check.table, check.bg_predictions, planted.CLASSES, data.labels, seed=seed)
    means = {
        f.name: getattr(line, f.name).mean
        for f in dataclasses.fields(line)
        if f.name not in ("chance", "majority", "against")
    }
    return Case(
        name=name,
        data=data,
        truth=own - kept[:TRUTH].mean(0),
        true_flips=(winners != predicted).mean(0),
        accuracy=float((predicted == data.labels).mean()),
        swap_accuracy=float((winners == data.labels).mean()),
        scores={
            "heat": np.nan_to_num(features[:, 0], nan=0.5),
            "calibrated": _calibrated(features, check, assessment, seed),
            "swap_drop": check.effects.swap_drop,
            "dependence": assessment.dependence,
            "oracle": own - kept[TRUTH:].mean(0),
        },
        features=features,
        energy=heat.bg_energy.numpy(),
        check=check,
        assessment=assessment,
        classes=class_table(data.labels, check.effects, assessment.dependence, seed=seed),
        line={
            **means,
            "true_only_bg": float((bare == data.labels).mean()),
            "heat_pix_auc": float(heat.pix_auc.nanmean()),
            "heat_energy": float(heat.obj_energy.nanmean()),
            "heat_D": float(heat.density_share.nanmean()),
        },
    )


def _calibrated(
    features: np.ndarray, check: SwapCheck, everything: Assessment, seed: int
) -> np.ndarray:
    """P(relies | heat) of samples that were not tested: the curve is fitted on a third; NaN there."""
    tested = np.random.default_rng([seed, 2]).random(len(features)) < 1 / 3
    e = check.effects
    drop = e.swap_drop / e.score if everything.relative else e.swap_drop
    limit = 0.6 if everything.relative else 0.5
    estimate, _ = calibrate(features[tested], drop[tested], limit, seed=seed).predict(features)
    return np.where(tested, np.nan, estimate)


def model_auroc(used: Case, clean: Case, score: str) -> float:
    """AUROC of telling the samples of a background-using network from those of a clean one."""
    if score == "calibrated":
        return _pooled_heat(used, clean)
    values = np.concatenate([used.scores[score], clean.scores[score]])
    return auroc(values, np.arange(len(values)) < len(used.truth))


def _pooled_heat(used: Case, clean: Case) -> float:
    """A clean network calibrates nothing, so one curve is fitted on a third of both networks."""
    features = np.concatenate([used.features, clean.features])
    drops = np.concatenate([c.check.effects.swap_drop for c in (used, clean)])
    from_used = np.arange(len(drops)) < len(used.truth)
    tested = np.random.default_rng(3).random(len(drops)) < 1 / 3
    estimate, _ = calibrate(features[tested], drops[tested]).predict(features)
    rest = ~tested & np.isfinite(estimate)
    return auroc(estimate[rest], from_used[rest]) if rest.any() else math.nan


def sample_numbers(case: Case, score: str) -> dict[str, float]:
    """AUROC and precision of the 50 worst against the truth."""
    values = case.scores[score]
    known = np.isfinite(values)
    if not known.any():
        return {"auroc": math.nan, "p50": math.nan}
    positive, values = case.positive[known], values[known]
    return {
        "auroc": auroc(values, positive),
        "p50": float(positive[np.argsort(-values)[:50]].mean()),
    }


def class_spearman(case: Case, score: str) -> float:
    """Rank correlation of a score's class means with the true class means."""
    values, labels = case.scores[score], case.data.labels
    known = np.isfinite(values)
    if not known.any():
        return math.nan
    ours = [values[known & (labels == c)].mean() for c in range(planted.CLASSES)]
    return spearman(ours, [case.truth[labels == c].mean() for c in range(planted.CLASSES)])


def verdict_numbers(case: Case) -> dict[str, float]:
    """How right the verdicts are, against the truth and against what they show themselves.

    Returns:
        of "relies on background" ``precision, recall, flagged`` (a share), ``share_precision`` and
        ``share_recall`` (of those that lose half of their score); of "relies on object", "heat outside,
        harmless" included, ``cleared`` (a share), ``contradicted`` (the share of these whose prediction
        changes on half of their donors or more), ``cleared_flips`` (likewise on the fresh renderings) and
        ``cleared_wrongly`` (the share that loses half of its score on these); NaN of none
    """
    flagged, positive, half = case.flagged, case.positive, case.positive_by_share
    cleared = case.cleared
    return {
        "precision": _share(positive, flagged),
        "recall": _share(flagged, positive),
        "flagged": float(flagged.mean()),
        "share_precision": _share(half, flagged),
        "share_recall": _share(flagged, half),
        "cleared": float(cleared.mean()),
        "contradicted": _share(case.check.effects.swap_flip >= 0.5, cleared),
        "cleared_flips": _share(case.true_flips > 0.5, cleared),
        "cleared_wrongly": _share(half, cleared),
    }


def _share(which: np.ndarray, among: np.ndarray) -> float:
    return float(which[among].mean()) if among.any() else math.nan


def class_flags(case: Case) -> dict[str, float]:
    """Flagged classes among those with a planted cue and among the others."""
    strength = {"graded": planted.GRADED, "biased": (1,) * 8, "tint": (1,) * 8}
    cue = strength.get(case.data.variant, (0,) * 8)
    if case.data.variant == "patch":
        cue = [int(c in planted.PATCHED) for c in range(planted.CLASSES)]
    hits = {row.label for row in case.classes if row.flagged}
    with_cue = {c for c, share in enumerate(cue) if share > 0}
    drops = [float(case.truth[case.data.labels == c].mean()) for c in hits - with_cue]
    return {
        "planted": len(with_cue),
        "planted_flagged": len(hits & with_cue),
        "others_flagged": len(hits - with_cue),
        "others_true_drop": sum(drops) / len(drops) if drops else math.nan,
    }


def wanted(quick: bool) -> list[tuple[str, str]]:
    """(network, variant) of every case of a seed, the slowest first; "random" has no training."""
    variants = [v for v in planted.VARIANTS if not (quick and v == "tint")]
    return [
        ("vit", "biased"),
        ("vit", "clean"),
        *(("cnn", v) for v in variants),
        ("random", "clean"),
    ]


def name_of(network: str, variant: str) -> str:
    """What the tables call a case."""
    return {"cnn": variant, "vit": f"vit {variant}", "random": "random weights"}[network]


def run_case(seed: int, network: str, variant: str, quick: bool) -> Case:
    """Draws, trains and measures one network."""
    torch.set_num_threads(1)
    images, epochs, tests = (3000, 8, 240) if quick else (4000, 8, 400)
    start = time.perf_counter()
    if network == "random":
        torch.manual_seed(seed)
        model = planted.SmallCnn().eval()
    else:
        data = planted.generate(variant, images, 1000 + seed)
        model = planted.train(network, data, epochs + 4 * (network == "vit"), seed)
    trained = time.perf_counter() - start
    test = planted.generate(variant, tests, 2000 + seed)
    kind = "vit" if network == "vit" else "cnn"
    case = study(name_of(network, variant), kind, test, model, seed)
    print(
        f"seed {seed}, {case.name}: accuracy {case.accuracy:.2f}, trained in {trained:.0f} s, measured in "
        f"{time.perf_counter() - start - trained:.0f} s",
        flush=True,
    )
    return case


def run_seeds(seeds: list[int], quick: bool, jobs: int) -> Iterator[dict[str, Case]]:
    """Yields the cases of each seed, in order; ``jobs`` networks are running at a time."""
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawned) as pool:
        pending = {
            seed: [pool.submit(run_case, seed, *pair, quick) for pair in wanted(quick)]
            for seed in seeds
        }
        for futures in pending.values():
            cases = {case.name: case for case in (future.result() for future in futures)}
            yield dict(sorted(cases.items(), key=lambda pair: pair[0].startswith("vit")))


def summarise(cases: dict[str, Case]) -> dict:
    """Every number of one seed."""
    clean, graded, biased, patch = (cases[n] for n in ("clean", "graded", "biased", "patch"))
    vits = cases["vit biased"], cases["vit clean"]
    out: dict = {"scores": {}, "networks": {}}
    for score in SCORES:
        out["scores"][score] = {
            "models": model_auroc(biased, clean, score),
            "vit_models": model_auroc(*vits, score),
            "class_rho": class_spearman(graded, score),
            **{f"graded_{k}": v for k, v in sample_numbers(graded, score).items()},
            **{f"patch_{k}": v for k, v in sample_numbers(patch, score).items()},
        }
    for name, case in cases.items():
        calibration = case.assessment.calibration
        out["networks"][name] = {
            "accuracy": case.accuracy,
            "true_swap_accuracy": case.swap_accuracy,
            "true_drop": float(case.truth.mean()),
            "positives": float(case.positive.mean()),
            "swap_drop": float(case.check.effects.swap_drop.mean()),
            "same_drop": float(case.check.effects.same_drop.mean()),
            **{f"line_{k}": v for k, v in case.line.items()},
            **{f"verdict_{k}": v for k, v in verdict_numbers(case).items()},
            **{f"class_{k}": v for k, v in class_flags(case).items()},
            "gate_auroc": math.nan if calibration.auroc is None else calibration.auroc,
            "gate_open": float(calibration.usable),
            "energy_rule": float((case.energy > 0.5).mean()),
        }
    return out


def targets(seeds: list[dict]) -> list[dict]:
    """What the plan asks for, beside what was measured."""

    def score(name: str) -> list[float]:
        return [s["scores"]["dependence"][name] for s in seeds]

    def network(name: str, key: str) -> list[float]:
        return [s["networks"][name][key] for s in seeds]

    rows = [
        ("models told apart, AUROC", ">=", 0.97, score("models")),
        ("classes, Spearman (graded)", ">=", 0.92, score("class_rho")),
        ("samples, AUROC (graded)", ">=", 0.93, score("graded_auroc")),
        ("precision of the 50 worst (graded)", ">=", 0.88, score("graded_p50")),
        ("verdict precision (graded)", ">=", 0.85, network("graded", "verdict_precision")),
        ("verdict recall (graded)", ">=", 0.65, network("graded", "verdict_recall")),
        (
            "“relies on object” that change on half of their donors (graded)",
            "<=",
            0,
            network("graded", "verdict_contradicted"),
        ),
        ("samples, AUROC (watermark)", ">=", 0.90, score("patch_auroc")),
        ("samples flagged, clean", "<=", 0.015, network("clean", "verdict_flagged")),
        ("samples flagged, centred", "<=", 0.015, network("centre", "verdict_flagged")),
        ("classes flagged, clean", "<=", 0, network("clean", "class_others_flagged")),
        ("classes flagged, centred", "<=", 0, network("centre", "class_others_flagged")),
        ("ViTs told apart, AUROC", ">=", 0.90, score("vit_models")),
        ("ViT clean: heat claims something", "<=", 0, network("vit clean", "gate_open")),
        ("ViT biased: heat claims something", "<=", 0, network("vit biased", "gate_open")),
    ]
    out = []
    for what, sign, limit, values in rows:
        mean = float(np.mean(values))
        met = mean >= limit if sign == ">=" else mean <= limit
        out.append(
            {"what": what, "target": f"{sign} {limit}", "mean": mean, "seeds": values, "met": met}
        )
    return out


def report(seeds: list[dict], rows: list[dict]) -> str:
    """The tables, as Markdown."""
    lines = ["| what | target | mean | by seed | |", "|---|---|---|---|---|"]
    for r in rows:
        each = ", ".join(_number(v) for v in r["seeds"])
        met = "met" if r["met"] else "**missed**"
        lines.append(f"| {r['what']} | {r['target']} | {_number(r['mean'])} | {each} | {met} |")
    names = {
        "models": "models", "vit_models": "ViTs", "class_rho": "classes, graded", "graded_auroc":
        "samples, graded", "graded_p50": "50 worst, graded", "patch_auroc": "samples, watermark",
        "patch_p50": "50 worst, watermark",
    }  # fmt: skip
    lines += ["", "| score | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for score in SCORES:
        cells = [_mean(seeds, "scores", score, key) for key in names]
        lines.append(f"| {score} | " + " | ".join(cells) + " |")
    columns = {
        "accuracy": "accuracy", "true_swap_accuracy": "true swap", "line_mixed_rand": "mixed-rand",
        "line_mixed_same": "mixed-same", "line_only_bg": "bg only", "line_true_only_bg":
        "true bg only", "true_drop": "true drop", "swap_drop": "swap drop", "same_drop": "same drop",
        "positives": "relying in truth", "verdict_flagged": "flagged", "verdict_precision":
        "precision", "verdict_recall": "recall", "class_planted_flagged": "planted classes flagged",
        "class_others_flagged": "others", "class_others_true_drop":
        "their true drop", "gate_auroc": "gate AUROC", "gate_open": "gate open",
        "line_heat_energy": "energy", "line_heat_D": "D", "line_heat_pix_auc": "pixel AUROC",
        "energy_rule": "bg energy > .5",
    }  # fmt: skip
    lines += ["", "| network | " + " | ".join(columns.values()) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in seeds[0]["networks"]:
        cells = [_mean(seeds, "networks", name, key) for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_verdict_table(seeds)])


def _verdict_table(seeds: list[dict]) -> list[str]:
    """What the two verdicts that decide are worth, network by network."""
    columns = {
        "flagged": "“relies on background”", "precision": "precision", "recall": "recall",
        "share_precision": "precision by share", "share_recall": "recall by share", "cleared":
        "“relies on object”", "contradicted": "of these change on half of their donors",
        "cleared_flips": "on most fresh renderings", "cleared_wrongly": "lose half in truth",
    }  # fmt: skip
    lines = ["| network | " + " | ".join(columns.values()) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in seeds[0]["networks"]:
        cells = [_mean(seeds, "networks", name, f"verdict_{key}") for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _mean(seeds: list[dict], table: str, row: str, key: str) -> str:
    values = [s[table][row][key] for s in seeds]
    known = [v for v in values if not math.isnan(v)]
    return _number(sum(known) / len(known)) if known else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".")


def main() -> None:
    """Prints the tables and saves them with every number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="the first seed only, smaller")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    used = args.seeds[:1] if args.quick else args.seeds
    start = time.perf_counter()
    seeds: list[dict] = []
    for cases in run_seeds(used, args.quick, args.jobs):
        seeds.append(summarise(cases))
        minutes = (time.perf_counter() - start) / 60
        caption = (
            f"{args.jobs} x {machine('cpu')}; seeds {used[: len(seeds)]}, {minutes:.1f} minutes"
        )
        save(args.out, "bias_quick" if args.quick else "bias", caption, seeds)
    print(f"\n{caption}\n\n{report(seeds, targets(seeds))}")


def save(folder: pathlib.Path, name: str, caption: str, seeds: list[dict]) -> None:
    """Writes every number as JSON and the tables as Markdown; after each seed, for a run is long."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = targets(seeds)
    everything = {"caption": caption, "targets": rows, "seeds": seeds}
    (folder / f"{name}.json").write_text(json.dumps(everything, indent=1))
    (folder / f"{name}.md").write_text(f"{caption}\n\n{report(seeds, rows)}\n")


if __name__ == "__main__":
    main()
