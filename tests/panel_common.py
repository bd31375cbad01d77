"""What the tests of the panel share: a finished and analysed run whose every number is known.

Nothing is computed by a model here: records, results, fields and maps are written as the operators
write them, so a dataset of 100,000 samples takes seconds.
"""

import dataclasses
import datetime

import fiftyone as fo
import numpy as np
from bias_common import inner
from bson import ObjectId

KEY = "net"
FIELDS = ["net_gradcam", "net_layercam", "net_eigencam"]
CLASSES = ["waterbird", "landbird", "wolf", "husky", "camel", "cow", "boat", "plane"]
RELIES, ON_OBJECT = "relies on background", "relies on object"
# how much of the score each class loses on other backgrounds
RESTS = np.linspace(0.9, 0.02, len(CLASSES))


#: labels that would be pictures of another server, drawn as they are; as many as CLASSES
HOSTILE = [
    "![x](http://evil.example/0.png)", "<img src=http://evil.example/1.png>",
    "<a href='http://evil.example/2'>b</a>", "# head", "[a](http://evil.example/4)",
    "![y][r]", "a & b", "<b>c</b>",
]  # fmt: skip


def numbers(count, seed=0):
    """Per sample: class, whether right, effects and heat, drawn once; columns by name."""
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % len(CLASSES)
    drop = np.clip(RESTS[kind] + 0.1 * rng.standard_normal(count), 0, 1)
    area = rng.uniform(0.1, 0.6, count)
    energy = np.clip((1 - drop) * 0.9 + 0.05 * rng.standard_normal(count), 0.01, 0.99)
    same = np.clip(0.03 + 0.02 * rng.standard_normal(count), 0, 1)
    return {
        "kind": kind,
        "correct": rng.random(count) < 0.8,
        "score": rng.uniform(0.5, 1, count),
        "swap_drop": drop,
        "same_drop": same,
        "bg_gap": drop - same,
        "bg_support": drop * 0.8,
        "swap_flip": (drop > 0.6) * 1.0,
        "obj_energy": energy,
        "object_area": area,
        "suspicion": np.clip(drop + 0.15 * rng.standard_normal(count), 0, 1),
    }


def verdict(drop):
    """The verdict that goes with an effect here."""
    return RELIES if drop >= 0.5 else ON_OBJECT


def heat(kind, shift=0):
    """(24, 32) uint8: a blob whose place belongs to the class."""
    y, x = np.mgrid[:24, :32]
    cy, cx = 5 + 14 * (kind % 2), 4 + 3 * kind + shift
    blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 30.0)
    return np.rint(255 * blob).astype(np.uint8)


def make_run(dataset, paths, count=160, maps=True, analysed=True, compared=True, seed=0):
    """Fills an empty dataset with a finished run ``net``.

    Args:
        dataset: an empty dataset
        paths: image files, used in turn
        count (160): samples
        maps (True): whether heatmaps have their maps
        analysed (True): whether the background was analysed
        compared (True): whether methods were compared

    Returns:
        (ids, columns of :func:`numbers`)
    """
    record, results = inner("runs.record"), inner("runs.results")
    heatmaps = inner("data.heatmap_writer")
    columns = numbers(count, seed)
    heatmaps.declare_schema(dataset, FIELDS, "net_prediction")
    dataset.add_sample_field("label", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    settings = {
        "model": "resnet18-imagenet-torch", "model_source": "zoo", "targets": "predicted",
        "methods": ["gradcam", "layercam", "eigencam"], "layers": ["layer4"], "device": "cpu",
        "samples": count,
    }  # fmt: skip
    record.register(
        dataset, KEY, settings, [*FIELDS, "net_prediction"], dataset, heatmap_fields=FIELDS
    )
    ids = [ObjectId() for _ in range(count)]
    if analysed:
        store = inner("bias.schema")
        store.register(dataset, KEY, {"scenes": None, "probe": "auto"})
        store.declare(dataset, KEY, FIELDS)
    insert(dataset, ids, paths, columns, maps, analysed)
    record.update(
        dataset, KEY, status="finished", ended="2026-01-01T00:10:00+00:00",
        progress={"done": count, "total": count, "failed": 1},
    )  # fmt: skip
    summary = {"done": count, "failed": [], "seconds": 60.0, "samples": count}
    results.save_results(dataset, KEY, summary=summary)
    ids = [str(i) for i in ids]
    if analysed:
        store.add_index(dataset, KEY)
        store.RECORDS.finish(dataset, KEY, "finished", bias_summary(ids, columns))
    if compared:
        results.save_results(dataset, KEY, compare=comparison(ids))
    dataset.reload()
    inner("runs.app_style").colour_fields(dataset, FIELDS)
    inner("runs.app_style").activate_fields(dataset, FIELDS[:1])
    return ids, columns


def insert(dataset, ids, paths, columns, maps, analysed):
    """Writes the samples' documents as the database has them."""
    template = fo.Sample(filepath=paths[0]).to_mongo_dict()
    now = datetime.datetime.now(datetime.timezone.utc)
    pictures = [fo.Heatmap(map=heat(k), range=[0, 255]).to_mongo() for k in range(len(CLASSES))]
    documents = []
    for i, sample_id in enumerate(ids):
        document = {
            **template, "_id": sample_id, "filepath": str(paths[i % len(paths)]), "_rand": 0.5,
            "_media_type": "image", "_dataset_id": dataset._doc.id, "created_at": now,
            "last_modified_at": now,
        }  # fmt: skip
        document.update(_fields(i, columns, pictures if maps else None, analysed))
        documents.append(document)
        if len(documents) == 5000 or i == len(ids) - 1:
            dataset._sample_collection.insert_many(documents, ordered=False)
            documents = []


def _fields(i, columns, pictures, analysed):
    kind, drop = int(columns["kind"][i]), float(columns["swap_drop"][i])
    name = CLASSES[kind]
    guess = name if columns["correct"][i] else CLASSES[(kind + 1) % len(CLASSES)]
    out = {
        "label": {"_cls": "Classification", "_id": ObjectId(), "tags": [], "label": name},
        "net_prediction": {
            "_cls": "Classification", "_id": ObjectId(), "tags": [], "label": guess,
            "confidence": float(columns["score"][i]),
        },
    }  # fmt: skip
    for field in FIELDS:
        label = {"_cls": "Heatmap", "tags": []} if pictures is None else dict(pictures[kind])
        label.update(
            _id=ObjectId(), method=field.removeprefix("net_"), layer="layer4", target=guess,
            cam_key=KEY, status="ok", peak=0.5 + 4 * drop, score=float(columns["score"][i]),
        )  # fmt: skip
        out[field] = label
    if analysed:
        bias = {"_cls": "DynamicEmbeddedDocument", "tested": True, "explained": guess}
        bias.update(prediction=guess, label=name, correct=bool(columns["correct"][i]))
        bias.update(reason=f"the score loses {drop:.2f}", reliable=True)
        names = {"score": "probability"}
        skipped = ("kind", "correct")
        bias.update({names.get(k, k): float(v[i]) for k, v in columns.items() if k not in skipped})
        out.update(net_verdict=verdict(drop), net_dependence=drop, net_bias=bias)
    return out


def _interval(values):
    half = 1.96 * values.std() / np.sqrt(len(values))
    mean = float(values.mean())
    return {"mean": mean, "low": mean - float(half), "high": mean + float(half), "n": len(values)}


def bias_summary(ids, columns):
    """What ``find_background_bias`` would store of these numbers, as far as the panel reads it."""
    kinds, drop = columns["kind"], columns["swap_drop"]
    classes = []
    for k, name in enumerate(CLASSES):
        mine = kinds == k
        gap, support = _interval(columns["bg_gap"][mine]), _interval(columns["bg_support"][mine])
        flagged = gap["low"] > 0.05 and support["low"] > 0.05
        classes.append({
            "label": name, "n": int(mine.sum()), "bg_gap": gap, "bg_support": support,
            "swap_drop": float(drop[mine].mean()), "same_drop": 0.03,
            "dependence": float(drop[mine].mean()), "rank_score": float(drop[mine].mean()),
            "p": 0.001, "q": 0.002, "flagged": bool(flagged), "note": "",
            "samples": int(mine.sum()), "accuracy": float(columns["correct"][mine].mean()),
            "obj_energy": 0.5, "area": 0.3, "zero_maps": 0,
        })  # fmt: skip
    relies = drop >= 0.5
    right = columns["correct"]
    evidence = {
        "right_object": int((right & ~relies).sum()), "right_background": int((right & relies).sum()),
        "wrong_object": int((~right & ~relies).sum()),
        "wrong_background": int((~right & relies).sum()), "unknown": 0,
    }  # fmt: skip
    share = {"mean": 0.8, "low": 0.75, "high": 0.85, "n": len(ids)}
    summary = inner("bias.summary").BiasSummary(
        cam_key=KEY, samples=len(ids), tested=len(ids), classes=classes,
        model={
            "accuracy": share, "mixed_rand": share, "mixed_same": share, "bg_gap": share,
            "only_bg": share, "chance": 0.125, "majority": 0.125, "against": "labels",
            "evidence": evidence,
        },
        calibration={
            "auroc": 0.87, "usable": True, "reason": "heat predicts the swap (AUROC 0.87)",
            "n": len(ids), "positives": int(relies.sum()), "relative": False,
        },
        objects={"fields": {"ground_truth": "object"}, "how": "named", "classes": "auto", "labels": []},
        verdicts={RELIES: int(relies.sum()), ON_OBJECT: int((~relies).sum())}, skipped={},
        heat={
            "obj_energy": 0.5, "median": 0.5, "uniform": 0.33, "shuffled": 0.35, "gaussian": 0.4,
            "n": len(ids), "zero": 0,
        },
        regions=[], clusters=clusters(ids, columns), telltales=[], portraits=[], groups=None,
        labels={"field": "label", "known": len(ids), "unknown": 0, "names": []},
        views=[], fields=[], report=None, failed=[], seconds=12.0,
        settings={"scenes": None, "cam_key": KEY}, notes=[],
    )  # fmt: skip
    return dataclasses.asdict(summary)


def clusters(ids, columns):
    """One cluster per class, with all of its samples as members."""
    pack = inner("runs.results").pack_ids
    out = []
    for k in range(4):
        members = [sample for sample, kind in zip(ids, columns["kind"], strict=True) if kind == k]
        y, x = np.mgrid[:14, :14]
        mean = np.exp(-((y - 3 - 7 * (k % 2)) ** 2 + (x - 2 - 3 * k) ** 2) / 8.0)
        out.append({
            "label": None if k < 2 else CLASSES[k], "n": len(members), "share": len(members) / len(ids),
            "concentration": 0.8 - 0.1 * k, "outside": 0.9 - 0.2 * k, "rank": 1.0 - 0.2 * k,
            "ids": members[:9], "members": pack(members), "mean_map": mean.tolist(),
        })  # fmt: skip
    return out


def comparison(ids):
    """What ``compare_cams`` would store: three methods and two floors."""

    def metric(mean):
        return {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": 40}

    rows = []
    for rank, (field, method, deletion) in enumerate(
        zip(FIELDS, ("gradcam", "layercam", "eigencam"), (0.21, 0.26, 0.35), strict=True), 1
    ):
        rows.append({
            "field": field, "method": method, "layer": "layer4", "cam_key": KEY, "n": 40, "rank": rank,
            "class_discriminative": method != "eigencam", "seconds_per_image": 0.05 * rank,
            "forwards": 200, "metrics": {"deletion": metric(deletion), "insertion": metric(0.8 - deletion)},
        })  # fmt: skip
    rows.append({
        "field": None, "method": "random", "layer": None, "cam_key": None, "n": 40, "rank": 4,
        "class_discriminative": False, "seconds_per_image": None, "forwards": 200, "baseline": True,
        "metrics": {"deletion": metric(0.4), "insertion": metric(0.3)},
    })  # fmt: skip
    same = [[1.0, 0.82, 0.31], [0.82, 1.0, 0.4], [0.31, 0.4, 1.0]]
    return {
        "cam_keys": [KEY], "samples": 40, "probe": {"of": len(ids), "n": 40, "seed": 51, "how": "drawn"},
        "metrics": {
            "deletion": {"better": "lower", "label": "Deletion", "summary": "score left when the hottest go"},
            "insertion": {"better": "higher", "label": "Insertion", "summary": "score when the hottest come"},
        },
        "leaderboard": rows,
        "agreement": {
            "fields": FIELDS, "labels": ["gradcam", "layercam", "eigencam"], "spearman": same,
            "top_iou": same, "ssim": same, "n": [[40] * 3] * 3,
            "noise_floor": {"spearman": 0.05, "top_iou": 0.08, "ssim": 0.1},
        },
        "pairs": {f"{FIELDS[0]}|{FIELDS[2]}": ids[5:12], f"{FIELDS[0]}|{FIELDS[1]}": ids[:3]},
        "recommendation": {
            "field": FIELDS[0], "method": "gradcam", "within_noise": False,
            "sentence": "gradcam leads on both metrics, and its interval excludes layercam's.",
            "evidence": [],
        },
        "views": [], "fields": [], "models": None,
        "cost": {"predicted_forwards": 8000, "forwards": 8000, "seconds": 92.0},
    }  # fmt: skip
