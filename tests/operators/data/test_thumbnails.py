"""Small pictures that are kept for panels: read once, and again when their file changed."""

import numpy as np
import pytest
from bias_common import inner
from PIL import Image


@pytest.fixture
def thumbnails(plugin):
    module = inner("data.thumbnails")
    module._read.cache_clear()
    return module


def write(path, colour, size=(60, 30)):
    Image.new("RGB", size, colour).save(path)
    return str(path)


@pytest.mark.parametrize(("square", "size"), [(True, (20, 20)), (False, (20, 10))])
def test_a_picture_is_read_once_and_again_when_its_file_changed(
    thumbnails, tmp_path, monkeypatch, square, size
):
    path, read, decode = write(tmp_path / "photo.png", (200, 0, 0)), [], thumbnails.decode_image
    monkeypatch.setattr(thumbnails, "decode_image", lambda p: read.append(p) or decode(p))
    for _ in range(3):
        picture = thumbnails.thumbnail(path, 20, square)
    assert picture.size == size
    assert len(read) == 1
    assert (np.array(picture)[..., :3] == (200, 0, 0)).all()

    write(tmp_path / "photo.png", (0, 0, 200), (61, 31))
    assert (np.array(thumbnails.thumbnail(path, 20, square))[..., :3] == (0, 0, 200)).all()
    assert len(read) == 2


@pytest.mark.parametrize("square", [True, False])
def test_a_file_that_is_gone_is_not_shown_from_memory(thumbnails, tmp_path, square):
    path = write(tmp_path / "photo.png", (200, 0, 0))
    thumbnails.thumbnail(path, 20, square)
    (tmp_path / "photo.png").unlink()
    with pytest.raises(OSError):
        thumbnails.thumbnail(path, 20, square)
