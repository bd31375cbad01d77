"""Runs over videos: heatmaps on frames, the same as of images of these frames; record, resume, deletion."""

import importlib
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import torchvision.transforms as T
from bson import ObjectId
from detectors_common import detector
from faults_common import CLASSES as TINY
from faults_common import compute_tiny, picture_transforms, tiny_network
from fiftyone import ViewField as F
from operators_common import PLUGIN, compute, operator, prepared
from PIL import Image
from videos_common import break_frame, frame, turn, video_samples, write_video

pytestmark = pytest.mark.usefixtures("plugin")
FIELDS = ["run_gradcam", "run_layercam", "run_prediction"]
BARE = ["id", "frame_number", "created_at", "last_modified_at"]


@pytest.fixture
def videos(make_dataset, tmp_path):
    """A dataset of videos of 9 and 5 frames."""
    return make_dataset(*video_samples(tmp_path / "videos", 9, 5))


def stored(dataset, field="run_gradcam"):
    """``{(video, number): (map, score, status)}`` as it lies in the database."""
    names = dict(zip(*dataset.values(["_id", "filepath"]), strict=True))
    found = {}
    for row in dataset._frame_collection.find():
        if row.get(field):
            key = (os.path.basename(names[row["_sample_id"]]), row["frame_number"])
            found[key] = (row[field].get("map"), row[field]["score"], row[field]["status"])
    return found


def test_frames_have_what_images_of_them_have(videos, make_dataset, tmp_path):
    summary = compute(videos, methods=["gradcam", "layercam"])
    assert (summary.status, summary.done, summary.failed) == ("finished", 14, [])
    assert summary.fields == [f"frames.{field}" for field in FIELDS]
    assert str(summary).startswith("run: 14 frames explained")
    assert "frames.run_gradcam" in str(summary)
    assert videos.get_field_schema().keys().isdisjoint(FIELDS)
    assert [len(s.frames) for s in videos] == [9, 5]

    import cv2

    images = []
    for sample in videos:
        capture, number = cv2.VideoCapture(sample.filepath), 0
        while (read := capture.read())[0]:
            number += 1
            path = tmp_path / f"{Path(sample.filepath).stem}-{number}.png"
            cv2.imwrite(str(path), read[1])
            images.append(fo.Sample(str(path), number=number))
    reference = make_dataset(*images)
    compute(reference, methods=["gradcam", "layercam"])
    frames = [(s, n) for s in videos for n in sorted(s.frames)]
    for (sample, number), image in zip(frames, reference, strict=True):
        assert image.number == number
        for field in FIELDS[:2]:
            ours, theirs = sample.frames[number][field], image[field]
            np.testing.assert_array_equal(ours.map, theirs.map)
            for name in ("method", "layer", "target", "target_index", "score", "peak", "status"):
                assert ours[name] == theirs[name]
            assert ours.cam_key == "run"
        assert sample.frames[number].run_prediction.label == image.run_prediction.label
    schema = videos.get_frame_field_schema(flat=True)
    assert isinstance(schema["run_gradcam.score"], fo.FloatField)
    colours = {e["path"] for e in videos.app_config.color_scheme.fields}
    assert colours == {"frames.run_gradcam", "frames.run_layercam"}
    assert "frames.run_gradcam" in videos.app_config.active_fields.paths


def test_deleting_takes_the_frames_that_the_run_made_and_leaves_the_others(videos):
    first = videos.first()
    first.frames[2]["ground_truth"] = fo.Classification(label="kind 1")
    first.save()
    kept = first.frames[2].id
    compute(videos)
    compute(videos, cam_key="other", every=4)
    assert videos.count("frames") == 14
    assert first.frames[2].id == kept
    deleted = operator("delete_cam_run")(videos, "run")
    assert deleted.fields == ["frames.run_gradcam", "frames.run_prediction"]
    assert "the run over 14 frames" in str(deleted)
    numbers = videos.values("frames.frame_number")
    assert numbers == [[1, 2, 5, 9], [1, 5]]
    operator("delete_cam_run")(videos, "other")
    assert videos.values("frames.frame_number") == [[2], []]
    videos.reload()
    assert videos.first().frames[2].ground_truth.label == "kind 1"
    assert list(videos.get_frame_field_schema()) == [*BARE, "ground_truth"]
    assert videos.app_config.color_scheme is None
    assert videos.app_config.active_fields is None


def test_info_rename_and_views(videos):
    assert compute(videos, every=2).done == 8
    list_runs, info = operator("list_cam_runs"), operator("get_cam_run_info")
    assert "8 of 8 frames" in str(list_runs(videos)[0])
    assert info(videos, "run").fields == ["frames.run_gradcam", "frames.run_prediction"]
    operator("rename_cam_run")(videos, "run", "new")
    videos.reload()
    assert list(videos.get_frame_field_schema()) == [*BARE, "new_gradcam", "new_prediction"]
    assert set(videos.values("frames.new_gradcam.cam_key", unwind=True)) == {"new"}
    assert [e["path"] for e in videos.app_config.color_scheme.fields] == ["frames.new_gradcam"]
    assert (info(videos, "new").done, info(videos, "new").total) == (8, 8)
    view = operator("load_cam_view")
    assert view(videos, "new").values("id") == videos.values("id")
    done = view(videos, "new", "done").values("frames.frame_number")
    assert done == [[1, 3, 5, 7, 9], [1, 3, 5]]
    assert len(view(videos, "new", "missing")) == len(view(videos, "new", "failed")) == 0
    operator("delete_cam_run")(videos, "new")
    assert videos.count("frames") == 0


@pytest.mark.parametrize("storage", ["database", "disk"])
def test_what_was_interrupted_ends_as_one_call_does(make_dataset, tmp_path, storage):
    folder = tmp_path / "videos"
    samples = video_samples(folder, 40, 33)
    whole, parts = make_dataset(*samples), make_dataset(*(fo.Sample(s.filepath) for s in samples))
    given = {"batch_size": 2, "storage": storage}
    more = {"output_dir": str(tmp_path / "maps")} if storage == "disk" else {}
    compute_tiny(whole, **given, **({"output_dir": str(tmp_path / "whole")} if more else {}))
    compute_tiny(parts, **given, **more)
    ids = parts.values("frames.id")
    run = parts._frame_collection
    gone = [i for video in ids for i in video[3::5]]
    run.delete_many({"_id": {"$in": [ObjectId(i) for i in gone[:4]]}})
    run.update_many(
        {"_id": {"$in": [ObjectId(i) for i in gone[4:]]}}, {"$unset": {"run_gradcam": 1}}
    )
    summary = compute_tiny(parts, resume=True, **given, **more)
    assert (summary.done, summary.resumed) == (73, 73 - len(gone))
    assert parts.values("frames.id") == ids
    if storage == "database":
        assert stored(parts) == stored(whole)
        return
    maps = [
        [Path(p).read_bytes() for p in d.values("frames.run_gradcam.map_path", unwind=True)]
        for d in (whole, parts)
    ]
    assert maps[0] == maps[1]
    operator("delete_cam_run")(parts, "run")
    assert not os.path.exists(tmp_path / "maps")


def test_more_frames_and_more_videos_join_a_run(videos):
    compute_tiny(videos.limit(1), every=3)
    summary = compute_tiny(videos, every=2, resume=True)
    assert (summary.done, summary.resumed) == (8, 2)
    assert videos.values("frames.frame_number") == [[1, 3, 4, 5, 7, 9], [1, 3, 5]]
    assert operator("get_cam_run_info")(videos, "run").total == 9


def test_what_is_missing_outside_of_the_view_keeps_a_run_unfinished(videos):
    job, steps = interrupted(videos)
    steps.close()
    assert job.summary.status == "interrupted"
    given = {"methods": ["gradcam"], "batch_size": 2, "resume": True}
    assert compute_tiny(videos.skip(1), **given).status == "interrupted"
    info = operator("get_cam_run_info")(videos, "run")
    assert info.total == 14
    assert 5 < info.done < 14
    missing = operator("load_cam_view")(videos, "run", "missing")
    assert missing.values("id") == [videos.first().id]
    assert compute_tiny(missing, **given).status == "finished"
    whole = stored(videos)
    compute_tiny(videos, methods=["gradcam"], batch_size=2, cam_key="other")
    assert stored(videos, "other_gradcam") == whole


def test_max_fps_chooses_the_frames_that_fiftyone_chooses(make_dataset, tmp_path):
    import fiftyone.utils.video as fouv

    dataset = make_dataset(*video_samples(tmp_path / "v", 50))
    compute_tiny(dataset, max_fps=7)
    expected = fouv.sample_frames_uniform(30, total_frame_count=50, max_fps=7)
    assert dataset.values("frames.frame_number") == [expected]
    assert len(expected) < 15


def test_the_frames_of_a_view(videos):
    for sample in videos:
        for number in (1, 3, 4):
            sample.frames[number]["weather"] = fo.Classification(label=f"kind {number % 2}")
        sample.save()
    view = videos.match_frames(F("weather.label") == "kind 1")
    assert compute_tiny(view).done == 4
    assert sorted(n for _, n in stored(videos)) == [1, 1, 3, 3]


def test_targets_are_labels_of_frames(videos):
    for sample in videos:
        for number in (1, 4):
            sample.frames[number]["weather"] = fo.Classification(label=TINY[number % 4])
        sample.save()
    summary = compute_tiny(videos, targets="weather")
    assert summary.done == 14
    for sample in videos:
        found = {n: (f.run_gradcam.status, f.run_gradcam.target) for n, f in sample.frames.items()}
        assert found[1] == ("ok", TINY[1])
        assert found[4] == ("ok", TINY[0])
        assert {found[n][0] for n in found if n not in (1, 4)} == {"no_label"}
    with pytest.raises(ValueError, match="'nothing'"):
        compute_tiny(videos, targets="nothing", cam_key="b")
    assert compute_tiny(videos, targets=TINY[2], cam_key="c").done == 14


def test_a_detector_writes_on_the_detections_of_frames(videos):
    given = {
        "transforms": T.Compose([T.Resize((64, 64)), T.ToTensor()]),
        "classes": ["dark", "light"],
    }
    own = compute(videos, model=detector(-3.2), methods="layercam", **given)
    assert own.fields == ["frames.run_layercam", "frames.run_detections"]
    assert sum(len(f.run_detections.detections) for s in videos for f in s.frames.values()) > 0
    sample = videos.first()
    sample.frames[2]["cars"] = fo.Detections(
        detections=[fo.Detection(label="light", bounding_box=[0.25, 0.25, 0.25, 0.25])]
    )
    sample.save()
    summary = compute(
        videos, model=detector(-3.2), methods="layercam", targets="cars", cam_key="cars", **given
    )
    assert (summary.done, summary.failed) == (14, [])
    label = videos.first().frames[2].cars.detections[0]
    assert label.cars_status == "ok"
    assert label.cars_in_box + label.cars_on_others + label.cars_outside == pytest.approx(1)
    assert "cars.detections.cars_score" in videos.get_frame_field_schema(flat=True)
    operator("delete_cam_run")(videos, "cars")
    operator("delete_cam_run")(videos, "run")
    assert videos.values("frames.frame_number") == [[2], []]
    left = videos._frame_collection.find_one()["cars"]["detections"][0]
    assert not [name for name in left if name.startswith("cars_")]


@pytest.mark.parametrize("sampled", [True, "dynamic"])
def test_views_of_frames(videos, tmp_path, sampled):
    for sample in videos:
        for number in (1, 3, 5):
            sample.frames[number]["weather"] = fo.Classification(label=TINY[1])
            if sampled is True:
                path = tmp_path / f"{sample.id}-{number}.png"
                Image.new("RGB", (160, 120), (20 * number, 90, 0)).save(path)
                sample.frames[number]["filepath"] = str(path)
        sample.save()
    frames = videos.to_frames(sample_frames=False if sampled is True else sampled, sparse=True)
    chosen = frames.match(F("frame_number") > 2)
    given = {"targets": "weather"}
    summary = compute_tiny(chosen, **given)
    assert (summary.done, summary.failed) == (4, [])
    assert summary.settings["source"] == ("frames" if sampled is True else "videos")
    assert sorted(n for _, n in stored(videos)) == [3, 3, 5, 5]
    assert chosen._root_dataset is videos
    assert videos.list_runs() == ["run"]
    frames.reload()
    assert len(frames.exists("run_gradcam")) == 4
    summary = compute_tiny(frames, resume=True, **given)
    assert (summary.done, summary.resumed) == (6, 4)
    if sampled is True:  # what was compressed once more is another picture
        with pytest.raises(ValueError, match="other settings .source: frames then, videos now"):
            compute_tiny(videos, resume=True, **given)


def test_failures_say_which_frame_and_the_others_are_done(make_dataset, tmp_path):
    good = write_video(tmp_path / "good.avi", 8, "MJPG")
    broken = write_video(tmp_path / "broken.avi", 8, "MJPG", first=101)
    break_frame(broken, 3)
    nothing = tmp_path / "nothing.mp4"
    nothing.write_bytes(b"not a video")
    paths = [str(nothing), broken, good, str(tmp_path / "gone.mp4")]
    dataset = make_dataset(*map(fo.Sample, paths))
    summary = compute_tiny(dataset, batch_size=4)
    assert (summary.status, summary.done) == ("finished", 15)
    assert "15 of 18 frames, 3 failed" in str(operator("list_cam_runs")(dataset)[0])
    info = operator("get_cam_run_info")(dataset, "run")
    assert (info.done, info.total, info.failed) == (15, 18, 3)
    reasons = {
        (os.path.basename(f["filepath"]), f["reason"].partition(":")[0]) for f in summary.failed
    }
    assert reasons == {
        ("nothing.mp4", "frame 1"),
        ("broken.avi", "frame 3"),
        ("gone.mp4", "frame 1"),
    }
    assert "cannot read this as a video" in str(summary)
    assert dataset.values("frames.frame_number") == [[], [1, 2, 4, 5, 6, 7, 8], [*range(1, 9)], []]
    failed = operator("load_cam_view")(dataset, "run", "failed")
    assert {os.path.basename(p) for p in failed.values("filepath")} == {r[0] for r in reasons}
    Path(nothing).write_bytes(Path(good).read_bytes())
    again = compute_tiny(dataset, batch_size=4, resume=True)
    assert again.done == 15 + 8
    assert len(again.failed) == 2


def test_a_video_that_is_deleted_meanwhile_leaves_no_frames(videos):
    gone = videos.last().id
    model = tiny_network()
    step, calls = model.forward, []

    def forward(images):
        calls.append(len(images))
        if len(calls) == 6:
            videos._sample_collection.delete_one({"_id": ObjectId(gone)})
        return step(images)

    model.forward = forward
    summary = compute_tiny(videos, model=model, batch_size=3)
    assert summary.status == "finished"
    assert summary.done < 14
    assert {f["reason"].partition(": ")[2] for f in summary.failed} == {
        "the frame was deleted during the run"
    }
    assert videos._frame_collection.count_documents({}) == summary.done


def test_turned_videos_have_upright_heat(make_dataset, tmp_path):
    path = write_video(tmp_path / "v.mp4", 4)
    turn(path)
    dataset = make_dataset(fo.Sample(path))
    compute_tiny(dataset, heatmap_size=80)
    assert dataset.first().frames[1].run_gradcam.map.shape == (80, 60)


def test_same_scale_and_overwrite(make_dataset, tmp_path):
    paler = video_samples(tmp_path / "v", 9, 5, draw=lambda n: frame(n) // (1 + n % 4))
    videos = make_dataset(*paler)
    compute_tiny(videos)
    scales = operator("same_scale")(videos, "run")
    assert set(scales) == {"run_gradcam", "run_layercam"}
    peaks = videos.values("frames.run_gradcam.peak", unwind=True)
    ends = [end[1] for video in videos.values("frames.run_gradcam.range") for end in video]
    np.testing.assert_allclose(ends, [255 * max(peaks) / peak for peak in peaks])
    assert len(set(ends)) > 2
    assert compute_tiny(videos, overwrite=True, every=9).done == 2
    assert videos.values("frames.frame_number") == [[1], [1]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every must be an integer between 1 and .*, got 0"),
        ({"every": 2, "max_fps": 3}, "every and max_fps both choose frames"),
        ({"max_fps": -1}, "max_fps must be a rate in frames per second between"),
        ({"backend": "ray"}, "'ray' computes images, not frames of videos"),
        ({"group_slices": "left"}, "group_slices: is for grouped datasets"),
    ],
)
def test_bad_arguments(videos, given, message):
    with pytest.raises(ValueError, match=message):
        compute_tiny(videos, **given)
    assert videos.count("frames") == 0
    assert not videos.list_runs()


def test_what_is_for_others(videos, photo_dataset):
    with pytest.raises(
        ValueError, match="every: is for videos, and these are images; leave it out"
    ):
        compute_tiny(photo_dataset(1), every=2)
    frames = videos.to_frames(sample_frames="dynamic", sparse=True)
    with pytest.raises(ValueError, match="samples is empty"):
        compute_tiny(frames)
    read = lambda path: T.ToTensor()(Image.open(path))  # noqa: E731
    with pytest.raises(
        ValueError, match="preprocess: it maps a file's path, and frames of a video"
    ):
        compute_tiny(videos, transforms=None, preprocess=read, window=(0, 0, 1, 1))
    compute_tiny(videos)
    with pytest.raises(ValueError, match="this view has chosen its frames already"):
        compute_tiny(videos.to_frames(sample_frames="dynamic", sparse=True), every=2, cam_key="b")
    with pytest.raises(ValueError, match="a clips view has no lasting samples"):
        compute_tiny(videos.to_clips(F("run_gradcam.score") > -99), cam_key="b")


def test_a_dataset_without_any_readable_video(make_dataset, tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"")
    dataset = make_dataset(fo.Sample(str(tmp_path / "v.mp4")))
    with pytest.raises(
        ValueError, match=r"none of the first 1 videos can be used; .*v\.mp4: frame 1: "
    ):
        compute_tiny(dataset)
    assert dataset.count("frames") == 0


def test_rerun_takes_over_which_frames(videos):
    model = tiny_network()
    compute_tiny(videos, model=model, every=4)
    rerun = operator("rerun_cams")
    given = dict(model=model, transforms=picture_transforms(), progress=False)
    assert rerun(videos, "run", "again", **given).done == 5
    assert sorted(stored(videos)) == sorted(stored(videos, "again_gradcam"))
    assert stored(videos) == stored(videos, "again_gradcam")


def interrupted(videos):
    """A run that was stopped after its first batch; returns its job."""
    rooms = importlib.import_module(f"{PLUGIN}.operators.compute.job")
    params = importlib.import_module(f"{PLUGIN}.operators.compute.params")
    settings = params.Settings(cam_key="run", batch_size=2, methods=["gradcam"], layers="3")
    job = prepared(rooms.CamJob, videos, settings, tiny_network(), picture_transforms(), TINY)
    steps = job.run()
    next(steps)
    return job, steps


def test_frames_that_others_make_between_two_calls_are_those_of_the_run(videos):
    _, steps = interrupted(videos)
    steps.close()
    for sample in videos:  # as a detector that is applied to the video
        for number in range(1, 10 if sample.filepath.endswith("0.mp4") else 6):
            sample.frames[number]["seen"] = fo.Classification(label="kind 1")
        sample.save()
    videos.reload()
    summary = compute_tiny(videos, methods=["gradcam"], batch_size=2, resume=True)
    info = operator("get_cam_run_info")(videos, "run")
    assert (summary.status, info.status) == ("finished", "finished")
    assert info.done == info.total == videos.count("frames.run_gradcam")
    assert videos.count("frames") == info.total


def test_a_frame_that_another_process_makes_while_the_run_writes_is_tried_again(videos):
    job, steps = interrupted(videos)
    last = videos.last()
    own = {row.id: row.number for row in job.rows if row.sample == last.id}
    made = {"_sample_id": ObjectId(last.id), "frame_number": max(own.values())}
    videos._frame_collection.insert_one({**made, "_dataset_id": videos._doc.id})
    for _ in steps:
        pass
    assert [f["reason"] for f in job.summary.failed] == [
        f"frame {max(own.values())}: the frame was made by another process meanwhile; resume=True writes on it"
    ]
    videos.reload()
    summary = compute_tiny(videos, methods=["gradcam"], batch_size=2, resume=True)
    assert (summary.status, summary.failed) == ("finished", [])
    assert videos.count("frames.run_gradcam") == videos.count("frames")


def test_an_animation_goes_where_files_may_be_written(videos, tmp_path, monkeypatch):
    compute_tiny(videos)
    show = operator("show_heatmaps")
    monkeypatch.setenv("CAM51_OUTPUT_ROOT", str(tmp_path / "allowed"))
    (tmp_path / "allowed").mkdir()
    with pytest.raises(ValueError, match="animation: files are written below"):
        show(videos, "run", animation=str(tmp_path / "elsewhere.gif"))
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    link = tmp_path / "allowed" / "heat.gif"
    monkeypatch.delenv("CAM51_OUTPUT_ROOT")
    link.symlink_to(mine)
    show(videos, "run", animation=str(link))
    assert mine.read_text() == "mine"
    assert not link.is_symlink()
    assert os.listdir(link.parent) == ["heat.gif"]
