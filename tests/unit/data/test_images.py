"""Images from files, bytes, arrays and addresses: what comes out, and what is refused with which words."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mix_core.data.images import MAX_IMAGE_PIXELS, load_image
from mix_core.errors import DataError

RNG = np.random.default_rng(0)


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def png_bytes(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_rgb_png_keeps_its_pixels(tmp_path):
    wanted = pixels(5, 7)
    Image.fromarray(wanted).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), wanted)
    np.testing.assert_array_equal(np.asarray(load_image(str(tmp_path / "a.png"))), wanted)


def test_grayscale_becomes_three_equal_channels(tmp_path):
    wanted = pixels(5, 7, 1)
    Image.fromarray(wanted).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), np.stack([wanted] * 3, -1))


def test_alpha_is_dropped_and_its_colours_stay(tmp_path):
    wanted = pixels(5, 7, 4)
    Image.fromarray(wanted, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), wanted[..., :3])


def test_palette_and_bilevel_images(tmp_path):
    palette = Image.fromarray(pixels(9, 9)).quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        np.asarray(load_image(tmp_path / "p.png")), np.asarray(palette.convert("RGB"))
    )
    Image.fromarray(pixels(9, 9, 1)).convert("1").save(tmp_path / "b.png")
    assert set(np.unique(np.asarray(load_image(tmp_path / "b.png")))) <= {0, 255}


@pytest.mark.parametrize(
    ("orientation", "where_the_first_pixel_goes"),
    [(1, (0, 0)), (2, (0, 2)), (3, (1, 2)), (4, (1, 0)), (5, (0, 0)), (6, (0, 1)), (7, (2, 1)), (8, (2, 0))],
)
def test_exif_orientation_of_a_file_is_applied(tmp_path, orientation, where_the_first_pixel_goes):
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(load_image(tmp_path / "a.png"))
    assert upright.shape[:2] == ((2, 3) if orientation < 5 else (3, 2))
    assert upright[where_the_first_pixel_goes].tolist() == [255, 255, 255]
    assert upright.sum() == 3 * 255


def test_an_opened_image_is_left_as_its_owner_opened_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(2, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(Image.open(tmp_path / "a.jpg")).size == (3, 2)
    assert load_image(tmp_path / "a.jpg").size == (2, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays(channels):
    wanted = pixels(4, 6, channels)
    got = np.asarray(load_image(wanted))
    np.testing.assert_array_equal(got, np.stack([wanted] * 3, -1) if channels == 1 else wanted[..., :3])


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_arrays_of_another_kind_are_refused_with_dtype_and_shape(bad):
    with pytest.raises(DataError, match=r"must be uint8 .*got (float64|uint8) \("):
        load_image(bad)


def test_bytes_and_data_addresses():
    wanted = pixels(4, 6)
    encoded = png_bytes(Image.fromarray(wanted))
    text = "data:image/png;base64," + base64.b64encode(encoded).decode()
    for source in (encoded, text):
        np.testing.assert_array_equal(np.asarray(load_image(source)), wanted)
    with pytest.raises(DataError, match="base64 text is broken"):
        load_image("data:image/png;base64,%%%")
    with pytest.raises(DataError, match="must be base64"):
        load_image("data:image/png,abc")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"image {tmp_path}/none.png: there is no such file"):
        load_image(tmp_path / "none.png")


def test_a_folder_and_an_empty_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        load_image(tmp_path)
    with pytest.raises(DataError, match="expected a path"):
        load_image("")
    with pytest.raises(DataError, match="got dict"):
        load_image({"bytes": b""})


def test_content_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"a\.png: its content is an HTML page, as a server sends instead"):
        load_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"of \d+ bytes: its content is an HTML page"):
        load_image(b"\n<!DOCTYPE html><title>404</title>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.jpg: it has 0 bytes; fetch it again"):
        load_image(tmp_path / "empty.jpg")
    (tmp_path / "b.png").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(DataError, match=r"b\.png: its content is no image format .*begins with b'PK"):
        load_image(tmp_path / "b.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_named(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    Image.fromarray(pixels(64, 64)).save(path, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{path.name}: ") as error:
        load_image(path)
    assert "\n" not in str(error.value)


def test_a_corrupt_png_is_named(tmp_path):
    content = bytearray(png_bytes(Image.fromarray(pixels(64, 64))))
    content[100:140] = bytes(40)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: its data is truncated or corrupt"):
        load_image(tmp_path / "a.png")


def bomb(width: int, height: int) -> bytes:
    """A PNG that announces its size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9460, 14000, 100_000])
def test_a_decompression_bomb_is_refused_unread(tmp_path, side):
    (tmp_path / "a.png").write_bytes(bomb(side, side))
    with pytest.raises(
        DataError, match=r"a\.png: refused as a decompression bomb .*the limit is 89478485 pixels"
    ):
        load_image(tmp_path / "a.png")


def test_a_large_image_in_hand_is_refused():
    side = int(MAX_IMAGE_PIXELS**0.5) + 1
    with pytest.raises(DataError, match=f"{side} x {side} pixels, and the limit is {MAX_IMAGE_PIXELS}"):
        load_image(Image.new("1", (side, side)))


def test_loading_a_tiny_file_leaves_no_handle_open(tmp_path, recwarn):
    path = tmp_path / "a.png"
    Image.fromarray(pixels(4, 4)).save(path)
    load_image(path)
    path.unlink()
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]
