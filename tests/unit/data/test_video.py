"""Videos: which frames are kept, from files, folders, lists and arrays; what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mix_core.data.video import FrameRules, load_video, sample_indices
from mix_core.errors import DataError
from tests.builders.videos import frame_level, turn_video, write_video

av = pytest.importorskip("av", reason="decoding video files needs the extra [video] (PyAV)")


def levels(frames_THWC: np.ndarray) -> list[int]:
    """Grey level of each frame; all pixels of a frame must agree."""
    assert (frames_THWC == frames_THWC[:, :1, :1, :1]).all()
    return frames_THWC[:, 0, 0, 0].tolist()


# Sampling. Worked out by hand: wanted = total / source_fps * fps, at least min_frames, at most max_frames and
# total, rounded down to the multiple; frame i is floor(i * total / count).


@pytest.mark.parametrize(
    ("total", "source_fps", "rules", "indices"),
    [
        (30, 10.0, FrameRules(fps=2.0), [0, 5, 10, 15, 20, 25]),  # 3 s * 2 = 6
        (30, 10.0, FrameRules(), [0, 5, 10, 15, 20, 25]),  # 2 a second unless said otherwise
        (35, 10.0, FrameRules(fps=2.0), [0, 5, 11, 17, 23, 29]),  # 7 -> 6
        (10, 10.0, FrameRules(fps=2.0), [0, 2, 5, 7]),  # 2, but at least 4
        (3, 10.0, FrameRules(fps=2.0), [0, 1]),  # at least 4, but there are 3 -> 2
        (1, 10.0, FrameRules(fps=2.0), [0]),  # shorter than a patch: all of it
        (100, 10.0, FrameRules(fps=5.0, max_frames=9), [0, 12, 25, 37, 50, 62, 75, 87]),  # 50, at most 9 -> 8
        (6, 10.0, FrameRules(fps=100.0), [0, 1, 2, 3, 4, 5]),  # never more than there are
        (60, 29.97, FrameRules(fps=2.0), [0, 15, 30, 45]),  # 4.004 -> 4
        (12, 24.0, FrameRules(num_frames=4), [0, 3, 6, 9]),
        (12, None, FrameRules(num_frames=5), [0, 3, 6, 9]),  # 5 / 2 rounds to the even 2 -> 4
        (12, 24.0, FrameRules(num_frames=6, multiple=3), [0, 2, 4, 6, 8, 10]),
        (30, 10.0, FrameRules(fps=2.0, multiple=4), [0, 7, 15, 22]),
        (30, 10.0, FrameRules(fps=2.0, multiple=1), [0, 5, 10, 15, 20, 25]),
    ],
)
def test_frames_kept(total, source_fps, rules, indices):
    assert sample_indices(total, source_fps, rules).tolist() == indices


@pytest.mark.parametrize("total", [2, 7, 59, 425, 941, 2426])
@pytest.mark.parametrize("fps", [0.5, 1.0, 4.0, 30.0])
def test_counts_are_multiples_and_places_rise(total, fps):
    indices = sample_indices(total, 24.0, FrameRules(fps=fps))
    assert len(indices) % 2 == 0 and 2 <= len(indices) <= 768
    assert indices[0] == 0 and indices[-1] < total
    assert (np.diff(indices) >= 1).all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (FrameRules(fps=1.0, num_frames=4), "fps or num_frames, got both"),
        (FrameRules(num_frames=14), "num_frames 14 .* of a video of 12 frames"),
        (FrameRules(num_frames=0), "num_frames 0"),
        (FrameRules(fps=0.0), "cannot keep 0.0 frames a second"),
    ],
)
def test_impossible_rules_are_refused(rules, message):
    with pytest.raises(DataError, match=message):
        sample_indices(12, 24.0, rules)


# Files


def test_a_file_gives_the_frames_asked_for(tmp_path):
    path = write_video(tmp_path / "a.mkv", 35)
    video = load_video(path, FrameRules(fps=2.0))
    assert video.frames_THWC.shape == (6, 36, 52, 3)
    assert levels(video.frames_THWC) == [frame_level(i) for i in (0, 5, 11, 17, 23, 29)]
    assert video.total_frames == 35
    assert video.fps == pytest.approx(6 / 35 * 10)


def test_frames_are_sized_as_they_are_decoded(tmp_path):
    path = write_video(tmp_path / "a.mkv", 12)
    seen = []

    def fit(frames, height, width):
        seen.append((frames, height, width))
        return 28, 56

    assert load_video(path, FrameRules(num_frames=4), fit=fit).frames_THWC.shape == (4, 28, 56, 3)
    assert seen == [(4, 36, 52)]


def test_a_display_matrix_turns_the_frames(tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 200  # left half bright
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    turned = turn_video(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert load_video(tmp_path / "a.mp4").frames_THWC.shape == (4, 48, 64, 3)
    upright = load_video(turned).frames_THWC
    assert upright.shape == (4, 64, 48, 3)
    # The matrix asks for a quarter turn clockwise: what was left is now on top.
    assert upright[0, :28].mean() > 150 and upright[0, 36:].mean() < 50


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"video .*none\.mp4: there is no such file"):
        load_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: it is corrupt, or no format known"):
        load_video(tmp_path / "text.mp4")
    path = write_video(tmp_path / "a.mkv", 30)
    with pytest.raises(DataError, match=r"a\.mkv: num_frames 40 .* of 30 frames"):
        load_video(path, FrameRules(num_frames=40))
    with pytest.raises(DataError, match="got both"):
        load_video(path, FrameRules(fps=1.0, num_frames=4))


def test_a_file_with_sound_only_is_named(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"a\.wav: it has no picture stream"):
        load_video(tmp_path / "a.wav")


def test_a_truncated_file_is_named(tmp_path):
    """An AVI file announces its frames at the front; half of them are missing here."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(60):
            pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.avi: (truncated, only \d+ of \d+ frames|it is corrupt)"):
        load_video(path)


def test_without_pyav_one_line_says_what_to_install(tmp_path):
    path = write_video(tmp_path / "a.mkv", 4)
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from mix_core.data.video import load_video\n"
        f"try: load_video({str(path)!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == (
        f"DataError video {path}: decoding a video file needs PyAV; pip install 'mix-core[video]', "
        "or give a folder of frames"
    )


# Frames


def gray(level: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def test_a_folder_of_frames_in_natural_order(tmp_path):
    for i in (1, 2, 10, 9):
        gray(i).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = load_video(tmp_path, FrameRules(fps=4.0))
    assert levels(video.frames_THWC) == [1, 2, 9, 10]
    assert (video.fps, video.total_frames) == (4.0, 4)


def test_a_list_of_frames_is_kept_whole_at_two_a_second(tmp_path):
    gray(5).save(tmp_path / "a.png")
    video = load_video([gray(1), tmp_path / "a.png", np.full((6, 8, 3), 9, np.uint8)])
    assert levels(video.frames_THWC) == [1, 5, 9]
    assert video.fps == 2.0


def test_an_array_and_a_number_of_frames():
    frames = np.stack([np.asarray(gray(i)) for i in range(10)])
    video = load_video(frames, FrameRules(num_frames=4))
    assert levels(video.frames_THWC) == [0, 2, 5, 7]
    assert video.fps == pytest.approx(2.0 * 4 / 10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([gray(1), gray(2, (9, 6))], r"one size, got 2 frames of \(W, H\) \[\(8, 6\), \(9, 6\)\]"),
        ([], "got 0 frames"),
        (np.zeros((2, 4, 4, 3)), r"uint8 of shape \(T, H, W, 3\), got float64"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"got uint8 \(0, 4, 4, 3\)"),
        (7, "got int"),
        ("http://127.0.0.1:9/a.mp4", r"private address 127\.0\.0\.1"),
        ("ftp://example.com/a.mp4", "expected http or https"),
    ],
)
def test_other_sources_are_refused(source, message):
    with pytest.raises(DataError, match=message):
        load_video(source)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="the folder holds no image"):
        load_video(tmp_path)
