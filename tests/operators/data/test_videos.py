"""Frames of videos as pictures: the right ones, upright, once each, in bounded memory."""

import importlib
import shutil
import threading

import numpy as np
import pytest
from operators_common import PLUGIN
from videos_common import SIZE, break_frame, number_in, slow_down, turn, write_video

pytestmark = pytest.mark.usefixtures("plugin")
CODECS = {"MJPG": "avi", "mp4v": "mp4", "XVID": "avi", "VP80": "webm"}


@pytest.fixture(scope="module")
def videos(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.videos")


@pytest.fixture(scope="module")
def loader(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.loader")


@pytest.mark.parametrize("codec", CODECS)
def test_frame_n_is_the_nth_picture(videos, tmp_path, codec):
    video = videos.Video(write_video(tmp_path / f"v.{CODECS[codec]}", 40, codec))
    assert video.frame_rate == pytest.approx(30)
    assert video.count == 40
    chosen = [1, 2, 3, 7, 20, 40]
    pictures = [video.read(number) for number in chosen]
    assert [number_in(p) for p in pictures] == chosen
    assert pictures[0].size == SIZE
    assert pictures[0].mode == "RGB"
    # the gradient is red, not blue: OpenCV's channels are the other way round
    assert np.asarray(pictures[0])[110, 150].argmax() == 0
    assert number_in(video.read(40)) == 40, "the frame that it stands at can be read again"
    with pytest.raises(OSError, match="the video ends after frame 40$"):
        video.read(41)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FiftyOne's reader needs ffmpeg")
@pytest.mark.parametrize("codec", CODECS)
def test_numbers_and_pictures_are_those_of_fiftyone(videos, tmp_path, codec):
    import eta.core.video as etav

    path = write_video(tmp_path / f"v.{CODECS[codec]}", 25, codec)
    video, read = videos.Video(path), 0
    with etav.FFmpegVideoReader(path) as reader:
        for picture in reader:
            ours = np.asarray(video.read(reader.frame_number), np.int16)
            assert np.abs(ours - picture).mean() < 2  # two conversions of YUV
            read += 1
    assert read == 25


def test_a_video_that_is_stored_turned_is_shown_as_a_player_shows_it(videos, tmp_path):
    path = write_video(tmp_path / "v.mp4", 5)
    upright = np.asarray(videos.Video(path).read(5), np.int16)
    turn(path)
    seen = np.asarray(videos.Video(path).read(5), np.int16)
    assert seen.shape == (SIZE[0], SIZE[1], 3)
    assert np.abs(seen - np.rot90(upright, -1)).mean() < 2


def test_a_broken_frame_is_the_only_one_that_is_missing(videos, tmp_path):
    path = write_video(tmp_path / "v.avi", 12, "MJPG")
    break_frame(path, 5)
    video = videos.Video(path)
    assert [number_in(video.read(n)) for n in (1, 4)] == [1, 4]
    with pytest.raises(OSError, match=r"no such frame 0\.13 s after its start: it is damaged"):
        video.read(5)
    assert [number_in(video.read(n)) for n in (6, 7, 12)] == [6, 7, 12]


def test_a_varying_frame_rate_is_refused(videos, tmp_path):
    path = write_video(tmp_path / "v.mp4", 40)
    slow_down(path, 10, 3)
    video, reasons, right = videos.Video(path), [], []
    for number in range(1, 41):
        try:
            right.append((number, number_in(video.read(number))))
        except (OSError, ValueError) as error:
            reasons.append(str(error))
    assert len(reasons) > 25
    assert all("frame rate varies" in r and "reencode_videos" in r for r in reasons)
    # what is read lies within one frame of where a player shows it
    rate = video.frame_rate
    shown = [(n - 1) / 30 if n <= 10 else 10 / 30 + (n - 11) / 10 for n in range(1, 41)]
    for number, said in right:
        assert abs((number - 1) / rate - shown[said - 1]) <= 1.6 / rate


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the file does not exist"),
        (b"", "cannot read this as a video"),
        (b"no video" * 500, "cannot read this as a video"),
    ],
)
def test_what_is_no_video(videos, tmp_path, content, reason):
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=reason):
        videos.Video(str(path))


def test_a_codec_that_is_not_known_and_a_video_without_frames(videos, tmp_path):
    path = tmp_path / "v.avi"
    write_video(path, 5, "MJPG")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"MJPG", b"ZZ9Q"))
    with pytest.raises(
        OSError, match="cannot read this as a video: it is damaged, or its codec is not known"
    ):
        videos.Video(str(path)).read(1)
    frames = data.index(b"movi") + 4
    path.write_bytes(data[:frames])
    with pytest.raises(OSError, match="cannot read this as a video|no frame that can be decoded"):
        videos.Video(str(path)).read(1)


def test_a_video_that_is_cut_off(videos, tmp_path):
    path = tmp_path / "v.avi"
    write_video(path, 60, "MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    video, last = videos.Video(str(path)), 0
    with pytest.raises(OSError, match=r"the video ends after frame \d+ of 60: it is cut off"):
        for number in range(1, 61):
            assert number_in(video.read(number)) == number
            last = number
    assert 20 < last < 40


def test_threads_get_the_frames_that_they_asked_for(videos, tmp_path):
    paths = [write_video(tmp_path / f"{i}.avi", 20, "MJPG", first=1 + 30 * i) for i in range(2)]
    reader, seen = videos.FrameReader(), {}
    asked = [(reader.ask(p, n), 30 * i + n) for i, p in enumerate(paths) for n in range(1, 21, 3)]

    def take(call, number):
        seen[number] = number_in(call())

    threads = [threading.Thread(target=take, args=pair) for pair in reversed(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {number: number for _, number in asked}
    reader.close()


@pytest.mark.parametrize("workers", [0, 3])
def test_each_video_is_opened_once_and_few_frames_wait(
    loader, videos, tmp_path, monkeypatch, workers
):
    rows = importlib.import_module(f"{PLUGIN}.operators.data.rows")
    paths = [write_video(tmp_path / f"{i}.avi", 50, "MJPG", first=1 + 60 * i) for i in range(2)]
    given = [rows.Row(f"{p}{n}", p, n) for p in paths for n in range(1, 51)]
    opened, alive, most = [], 0, 0
    lock, load = threading.Lock(), videos.Video

    def noted(path):
        opened.append(path)
        return load(path)

    def seen(picture):
        import torch

        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        values = torch.full((3, 4, 4), float(number_in(picture)))
        with lock:
            alive -= 1
        return values

    seen.window = (0, 0, 1, 1)
    monkeypatch.setattr(videos, "Video", noted)
    found = {}
    for batch in loader.Loader(given, seen, batch_size=8, num_workers=workers):
        found.update(
            {i.id: int(v) for i, v in zip(batch.items, batch.images[:, 0, 0, 0], strict=True)}
        )
    assert found == {row.id: row.frame + (60 if row.filepath == paths[1] else 0) for row in given}
    assert opened == paths
    assert most <= max(1, workers)


def test_an_iteration_that_is_given_up_ends(loader, tmp_path):
    rows = importlib.import_module(f"{PLUGIN}.operators.data.rows")
    path = write_video(tmp_path / "v.avi", 80, "MJPG")
    import torchvision.transforms as T

    batches = iter(
        loader.Loader([rows.Row(str(n), path, n) for n in range(1, 81)], T.ToTensor(), 4, 2)
    )
    assert len(next(batches)) == 4
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("cam51-decode")]
