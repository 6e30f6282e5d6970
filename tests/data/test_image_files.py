from __future__ import annotations

import io
import struct
import tarfile
import zlib
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from jc2i import data
from jc2i.data.image_files import MAX_PIXELS, Decoding, decode, header
from jc2i.data.pixels import Resizing

AS_STORED = Decoding(upright=False)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def noted(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_decode_gives_the_pixels_and_the_channels_asked_for():
    colour, grey = noise(4, 5, 3), noise(4, 5)
    np.testing.assert_array_equal(decode(encoded(colour), "x", 3), colour)
    np.testing.assert_array_equal(decode(encoded(grey), "x", 1), grey[..., None])
    np.testing.assert_array_equal(decode(encoded(grey), "x", 3), np.repeat(grey[..., None], 3, 2))
    assert decode(encoded(colour), "x", 1).shape == (4, 5, 1)
    assert header(encoded(colour), "x").size == (4, 5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_image_is_refused(kind):
    contents = encoded(noise(32, 32, 3), kind)
    with pytest.raises(ValueError, match=r"cat\.jpg: got a damaged image .*, takes a whole image"):
        decode(contents[: len(contents) // 2], "cat.jpg", 3)


@pytest.mark.parametrize("read", [header, lambda contents, name: decode(contents, name, 3)])
@pytest.mark.parametrize("contents", [b"", b"not an image at all"])
def test_file_that_is_no_image_is_refused(read, contents):
    with pytest.raises(ValueError) as refusal:
        read(contents, "cat.jpg")
    assert str(refusal.value) == "cat.jpg: got a file that is not an image, takes an image file"


def test_what_is_transparent_becomes_white(tmp_path):
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3, :] = (200, 0, 0, 255)
    pixels[:, 3:, 3] = 0
    path = tmp_path / "drawing.png"
    Image.fromarray(pixels).save(path)
    read = data.read_image(path)
    assert read.shape == (4, 6, 3)
    np.testing.assert_array_equal(read[:, :3], np.broadcast_to([200, 0, 0], (4, 3, 3)))
    np.testing.assert_array_equal(read[:, 3:], 255)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.dstack([np.full((4, 6), 80, np.uint8), pixels[..., 3]])).save(grey)
    np.testing.assert_array_equal(data.read_image(grey, channels=1)[0, :, 0], [80] * 3 + [255] * 3)


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow writes of grey images alone."""

    def chunk(kind: bytes, contents: bytes) -> bytes:
        checksum = zlib.crc32(kind + contents)
        return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", checksum)

    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    size = struct.pack(
        ">IIBBBBB", values.shape[1], values.shape[0], 16, kinds[values.shape[2]], 0, 0, 0
    )
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


DEEP = np.random.default_rng(0).integers(0, 65536, (9, 9, 4))


@pytest.mark.parametrize(
    "contents",
    [
        *(png(DEEP[..., :channels]) for channels in (1, 2, 3, 4)),
        encoded(DEEP[..., 0].astype(np.uint16), "TIFF"),
        b"P6 9 9 65535\n" + DEEP[..., :3].astype(">u2").tobytes(),
        b"P5 9 9 65535\n" + DEEP[..., 0].astype(">u2").tobytes(),
    ],
    ids=["grey", "grey and alpha", "rgb", "rgba", "tiff", "ppm", "pgm"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused_and_not_cut_to_eight(contents, channels):
    with pytest.raises(ValueError) as refusal:
        decode(contents, "deep", channels)
    assert str(refusal.value) == "deep: got 16 bits a channel, takes 8 bits a channel"


@pytest.mark.parametrize("white", [15, 255])
def test_eight_bits_and_fewer_are_read(white):
    pixels = noise(4, 5, 3) & white
    read = decode(b"P6 5 4 %d\n" % white + pixels.tobytes(), "x", 3)
    np.testing.assert_allclose(read, pixels * (255 / white), atol=0.51)


@pytest.mark.parametrize(
    "read", [header, lambda contents, name, how: decode(contents, name, 3, decoding=how)]
)
def test_the_most_pixels_are_an_option_and_a_larger_image_is_not_called_damaged(read, tmp_path):
    contents = encoded(noise(9, 7))
    with pytest.raises(ValueError) as refusal:
        read(contents, "x", Decoding(max_pixels=62))
    takes = "takes at most 62 pixels (max_pixels=)"
    assert str(refusal.value) == f"x: got an image too large: 9x7, 63 pixels, {takes}"
    assert read(contents, "x", Decoding(max_pixels=63)) is not None


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "GIF", "WEBP", "BMP", "PPM"])
def test_the_limit_is_ours_and_not_that_of_pillow(kind, monkeypatch):
    contents = encoded(noise(9, 7, 3), kind)
    for limit in (10, 50):  # an error of Pillow's, and a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode(contents, "x", 3).shape == (9, 7, 3)
        assert header(contents, "x").size == (9, 7)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_the_readers_take_the_limit(tmp_path, image_folder):
    with pytest.raises(ValueError, match="a.png: got an image too large: 4x4"):
        data.load(image_folder, "train", max_pixels=15)
    with pytest.raises(ValueError, match="a.png: got an image too large: 4x4"):
        data.read_image(image_folder / "train/cat/a.png", max_pixels=15)
    with pytest.raises(ValueError, match="^max_pixels: got 0, takes a whole number above 0"):
        data.load(image_folder, "train", max_pixels=0)
    with pytest.raises(Exception, match="upright"):
        data.load(image_folder, "train", upright=cast(Any, 1))


def test_formats_that_hold_no_photograph_are_not_opened():
    with pytest.raises(ValueError, match="x: got a file that is not an image"):
        decode(encoded(noise(4, 4, 3), "EPS"), "x", 3)


# Exif 2.32, table 6, written as what NumPy does to the stored pixels.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_as_its_camera_noted_or_left_as_it_is_stored(kind, orientation):
    stored = noise(4, 6, 3)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    contents = encoded(stored, kind, exif=noted(orientation), **lossless)
    upright = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(decode(contents, "x", 3), upright)
    np.testing.assert_array_equal(decode(contents, "x", 3, decoding=AS_STORED), stored)
    assert header(contents, "x").size == upright.shape[:2]
    assert header(contents, "x").stored == (4, 6)
    assert header(contents, "x", AS_STORED).size == (4, 6)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_boxes_are_turned_with_the_image(orientation):
    stored = np.zeros((4, 6), np.uint8)
    stored[1:4, 1:3] = 255
    found = header(encoded(stored, exif=noted(orientation)), "x")
    drawn = np.float32([[1 / 4, 1 / 6, 4 / 4, 3 / 6]])
    box = found.turn.boxes(drawn)[0] * np.tile(found.size, 2)
    top, left, bottom, right = np.rint(box).astype(int)
    upright = UPRIGHT[orientation](stored)
    assert (upright[top:bottom, left:right] == 255).all()
    assert (bottom - top) * (right - left) == 6


def test_an_unreadable_note_turns_nothing():
    stored = noise(4, 6, 3)
    contents = encoded(stored, exif=b"Exif\0\0no note at all")
    np.testing.assert_array_equal(decode(contents, "x", 3), stored)
    nine = encoded(stored, exif=noted(9))
    np.testing.assert_array_equal(decode(nine, "x", 3), stored)


@pytest.fixture(params=["folder", "tar", "tar.gz"])
def photographs(request, tmp_path):
    """One scene, as a camera stored it upright (class a) and turned (class b), with boxes."""
    scene = noise(8, 12, 3)
    root = tmp_path / "photographs"
    for name, stored, orientation in (("a", scene, 1), ("b", np.rot90(scene), 6)):
        (root / name).mkdir(parents=True)
        (root / name / "x.png").write_bytes(
            encoded(np.ascontiguousarray(stored), exif=noted(orientation))
        )
    # The scene's lower left eighth.
    (root / "boxes.csv").write_text(
        "path,width,height,x0,y0,x1,y1\na/x.png,12,8,0,4,3,8\nb/x.png,8,12,4,9,8,12\n"
    )
    if request.param != "folder":
        packed = tmp_path / f"photographs.{request.param}"
        with tarfile.open(packed, "w:gz" if request.param == "tar.gz" else "w") as file:
            file.add(root, "photographs")
        return root, packed, scene
    return root, root, scene


def test_every_reader_turns_the_same_photograph(photographs):
    root, path, scene = photographs
    dataset = data.load(path, "all")  # of one size, since upright
    for index, name in enumerate("ab"):
        np.testing.assert_array_equal(dataset[index][0], scene)
        np.testing.assert_array_equal(data.read_image(root / name / "x.png"), scene)
        np.testing.assert_allclose(dataset.boxes[index], [[0.5, 0, 1, 0.25]])
    # A crop is of the upright image, and boxes follow it.
    cropped = data.load(path, "all", size=(4, 4), crop_fraction=0.5)
    np.testing.assert_array_equal(cropped[0][0], cropped[1][0])
    np.testing.assert_array_equal(cropped.boxes[0], cropped.boxes[1])


def test_as_stored_is_an_option_of_every_reader(photographs):
    root, path, scene = photographs
    with pytest.raises(ValueError, match="size: got None, and images of different sizes"):
        data.load(path, "all", upright=False)
    dataset = data.load(path, "all", size=(12, 8), upright=False)
    np.testing.assert_array_equal(dataset[1][0], np.rot90(scene))
    np.testing.assert_array_equal(data.read_image(root / "b/x.png", upright=False), np.rot90(scene))
    np.testing.assert_allclose(dataset.boxes[1], [[0.75, 0.5, 1, 1]])


def test_looking_for_a_note_decodes_nothing():
    contents = encoded(noise(32, 32, 3))
    assert header(contents[: len(contents) // 2], "x").size == (32, 32)


def test_a_note_behind_the_pixels_of_a_png_counts():
    stored = noise(4, 6, 3)
    contents = encoded(stored, exif=noted(6))
    start = contents.index(b"eXIf") - 4
    length = 12 + int.from_bytes(contents[start : start + 4])
    note, without = contents[start : start + length], contents[:start] + contents[start + length :]
    moved = without[:-12] + note + without[-12:]
    assert header(without, "x").size == (4, 6) and header(moved, "x").size == (6, 4)
    np.testing.assert_array_equal(decode(moved, "x", 3), UPRIGHT[6](stored))


def test_a_larger_jpeg_is_decoded_at_a_part_of_its_sides_where_that_is_enough():
    smooth = np.linspace(0, 255, 80 * 120 * 3).reshape(80, 120, 3).astype(np.uint8)
    contents = encoded(smooth, "JPEG", quality=95, exif=noted(6))
    whole = decode(contents, "x", 3, Resizing((30, 20)))
    for pixels in (80 * 120 // 4, 80 * 120 // 16):  # a half, a quarter
        part = decode(contents, "x", 3, Resizing((30, 20)), Decoding(max_pixels=pixels))
        assert part.shape == (30, 20, 3)
        np.testing.assert_allclose(part.astype(int), whole.astype(int), atol=8)
    # So that images that are small enough are what they always were.
    same = decode(contents, "x", 3, Resizing((30, 20)), Decoding(max_pixels=80 * 120))
    np.testing.assert_array_equal(same, whole)


@pytest.mark.parametrize(
    ("resizing", "options"),
    [
        (Resizing(), {}),
        (Resizing((61, 10)), {}),  # of 120: a half is not enough
        (Resizing((10, 41)), {}),
        (Resizing((56, 56), crop_fraction=0.875), {}),
        (Resizing((10, 10)), {"progressive": True}),  # is decoded whole before
    ],
)
def test_a_larger_jpeg_is_refused_where_a_part_is_not_enough(resizing, options):
    contents = encoded(noise(80, 120, 3), "JPEG", exif=noted(6), **options)
    with pytest.raises(ValueError, match=r"^x: got an image too large: 80x120, 9600 pixels, takes"):
        decode(contents, "x", 3, resizing, Decoding(max_pixels=80 * 120 // 4))


def test_a_telephones_200_megapixels_are_read():
    assert 16320 * 12240 <= 16 * MAX_PIXELS


@pytest.mark.parametrize("chunk", [b"IDAT", b"IEND"])
def test_the_checksums_of_a_png_are_looked_at(chunk):
    contents = bytearray(encoded(noise(32, 32, 3)))
    contents[contents.index(chunk) + 5] ^= 1
    with pytest.raises(ValueError, match="^x: got a damaged image"):
        decode(bytes(contents), "x", 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_strips_are_converted_as_the_whole_image_is(mode, channels):
    image = Image.fromarray(noise(600, 20, 4)).convert("RGB" if mode == "CMYK" else "RGBA")
    image = image.convert(mode)
    file = io.BytesIO()
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image.save(file, kind)
    layer = Image.open(file)
    if layer.has_transparency_data:
        layer = layer.convert("RGBA")
        layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    expected = np.asarray(layer.convert("L" if channels == 1 else "RGB"))
    read = decode(file.getvalue(), "x", channels)
    np.testing.assert_array_equal(read, expected.reshape(600, 20, channels))
