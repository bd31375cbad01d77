"""Frames of videos as pictures: each video is decoded once, in order, as far as it is asked for.

Frames are numbered from 1, as FiftyOne does: frame n is what a player shows (n - 1) / frame rate after the
start. OpenCV turns frames upright where the file says that they are stored turned, as players do.
"""

import functools
import threading

import cv2
from PIL import Image

from .images import check_file

# Pictures closer to each other than this share of a frame's time have no clock: they are counted.
_NO_CLOCK = 1e-3
# After so many pictures in a row that cannot be decoded a video is taken to have ended.
_BROKEN_IN_A_ROW = 60
_REMEDY = (
    "re-encode it with a constant one, for example with fiftyone.utils.video.reencode_videos()"
)


class Video:
    """One video, read from its start to its end.

    Args:
        path: the file

    Attributes:
        frame_rate: frames per second that the file states
        count: frames that the file states, 0 where it states none

    Raises:
        OSError: if the file cannot be read as a video
    """

    def __init__(self, path):
        check_file(path)
        # Not any backend: they differ in turning frames and in their clocks.
        self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise OSError(
                "OpenCV cannot read this as a video: it is damaged, or its codec is not known; re-encode it "
                "as H.264, for example with fiftyone.utils.video.reencode_videos()"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if rate > 0 else 0.0
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._number, self._seconds, self._start = 0, None, 0.0
        self._drifts = None

    def close(self):
        """Releases the decoder."""
        self._capture.release()

    @property
    def number(self):
        """The number of the frame that the video stands at; 0 before the first."""
        return self._number

    def read(self, number):
        """Decodes a frame that is not before the one that the video stands at.

        Args:
            number: of the frame, from 1

        Returns:
            a ``PIL.Image.Image`` of mode RGB, upright

        Raises:
            OSError: if there is no such frame
            ValueError: if the video's frame rate varies, so that frames have no numbers
        """
        while self._number < number:
            self._advance()
        if self._drifts is not None:
            raise ValueError(self._drifts)
        if self._number > number:
            where = (
                f" {(number - 1) / self.frame_rate:.2f} s after its start"
                if self.frame_rate
                else ""
            )
            raise OSError(
                f"the video has no such frame{where}: it is damaged there, or its frame rate varies, {_REMEDY}"
            )
        read, picture = self._capture.retrieve()
        if not read or picture is None:
            raise OSError("the frame cannot be decoded")
        return Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))

    def count_frames(self):
        """Returns how many frames can be decoded, by decoding them all."""
        while self._capture.grab():
            self._number += 1
        return self._number

    def _advance(self):
        """Goes to the next frame, whose number its time says where the file has a clock."""
        tries = 1
        while not self._capture.grab():  # what cannot be decoded is passed over, and so is the end
            tries += 1
            if tries > _BROKEN_IN_A_ROW or self._number + tries > max(self.count, self._number + 1):
                if not self._number:
                    raise OSError("the video has no frame that can be decoded")
                raise OSError(
                    f"the video ends after frame {self._number}"
                    + (f" of {self.count}: it is cut off" if self.count > self._number else "")
                )
        seconds, before = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, self._seconds
        self._seconds = seconds
        rate, following = self.frame_rate, self._number + 1
        self._number += tries
        if before is None:
            self._start = seconds - (tries - 1) / rate if rate else seconds
            return
        if not rate or seconds - before < _NO_CLOCK / rate:
            return
        timed = round((seconds - self._start) * rate) + 1
        if timed < following - 1:
            self._drifts = (
                f"the video's frame rate varies: its picture {following} is shown when frame {timed} is due at "
                f"{rate:.4g} frames per second; {_REMEDY}"
            )
        self._number = max(timed, following)


class FrameReader:
    """Reads frames for several threads, in the order in which they were asked for.

    One video is open at a time, and one frame is decoded at a time: memory holds as many decoded frames
    as there are threads.
    """

    def __init__(self):
        self._turns = threading.Condition()
        self._asked = self._served = 0
        self._path = self._video = self._error = None

    def ask(self, path, number):
        """Asks for a frame; frames of a video come cheapest by rising numbers.

        Args:
            path: of the video
            number: of the frame, from 1

        Returns:
            a function that returns the picture, to be called once: it waits until the frames asked for
            before were read, and raises what :meth:`Video.read` does
        """
        turn, self._asked = self._asked, self._asked + 1
        return functools.partial(self._take, turn, path, number)

    def close(self):
        """Closes the video that is open."""
        if self._video is not None:
            self._video.close()
        self._path = self._video = self._error = None

    @property
    def frame_rate(self):
        """Frames per second of the video that is open; 30 where the file states none."""
        return (self._video.frame_rate if self._video else 0.0) or 30.0

    def _take(self, turn, path, number):
        with self._turns:
            self._turns.wait_for(lambda: self._served == turn)
        try:
            return self.read(path, number)
        finally:
            with self._turns:
                self._served += 1
                self._turns.notify_all()

    def read(self, path, number):
        """Reads a frame at once, see :meth:`Video.read`; for one thread only."""
        if path != self._path or (self._video is not None and self._video.number > number):
            self._open(path)
        if self._error is not None:
            raise type(self._error)(*self._error.args)
        return self._video.read(number)

    def _open(self, path):
        self.close()
        self._path = path
        try:
            self._video = Video(path)
        except OSError as error:  # of the other frames it will be the same
            self._error = error
