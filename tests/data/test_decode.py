"""One policy for picture files. Every way a file can be stored, and every way it can be broken."""

import io
import struct
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from trimask.data.decode import DEFAULT_MAX_PIXELS, max_pixels, read_image, read_mask
from trimask.data.label_map import LabelMap
from trimask.types import ClassSpec, DataError

random = np.random.default_rng(0)
COLORS = cv2.resize(random.integers(0, 256, (5, 7, 3), dtype=np.uint8), (42, 30))
VALUES = random.integers(0, 4, (30, 42), dtype=np.uint8)
ROAD = ClassSpec(["background", "direct", "alternative"])


def palette_picture() -> Image.Image:
    picture = Image.fromarray(VALUES, mode="P")
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    return picture


def test_color_jpeg_equals_pillow(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", quality=90)
    image = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert image.flags.c_contiguous


def test_jpeg_with_bytes_after_its_end_is_read(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", quality=90)
    expected = read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"camera maker's notes")
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_grey_becomes_three_equal_channels(tmp_path, suffix):
    Image.fromarray(VALUES * 60).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == (30, 42, 3)
    assert (image[..., 0] == image[..., 2]).all()
    assert image.max() > 100


def test_alpha_is_dropped_from_a_picture_and_kept_in_a_mask(tmp_path):
    rgba = np.dstack([COLORS, VALUES * 80])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLORS)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), rgba)


PNG_OPTIONS = ({}, {"compress_level": 0}, {"icc_profile": b"no profile"})


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        *[(mode, options) for mode in ("L", "RGB", "RGBA") for options in PNG_OPTIONS],
        ("L", {"transparency": 2}),
        ("RGB", {"transparency": (10, 20, 30)}),
    ],
)
def test_png_equals_pillow_and_nothing_is_printed(tmp_path, capfd, mode, options):
    """OpenCV decodes; a transparent color adds no channel, and libpng's complaints about profiles do not fill the screen."""
    pixels = {"L": VALUES, "RGB": COLORS, "RGBA": np.dstack([COLORS, VALUES * 80])}[mode]
    Image.fromarray(pixels).save(tmp_path / "a.png", **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLORS if mode != "L" else np.dstack([VALUES] * 3))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_is_read_as_pillow_reads_it(tmp_path, bits):
    """Values are spread over a byte, but for one bit, which is 0 and 1 in a mask."""
    values = VALUES[:, :40] % (1 << bits)
    rows = np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(30, -1), axis=1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 40, 30, bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    factor = 1 if bits == 1 else 255 // ((1 << bits) - 1)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values * factor)


@pytest.mark.parametrize("pixels", [COLORS, VALUES])
def test_a_png_with_a_wrong_checksum_is_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IEND") - 5] ^= 1  # in the checksum of the pixels
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png: not a picture that can be read whole"):
        read_mask(tmp_path / "a.png")


def test_palette_gives_colors_to_a_picture_and_indices_to_a_mask(tmp_path):
    palette_picture().save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), VALUES)
    assert read_image(tmp_path / "a.png")[VALUES == 1].tolist()[0] == [200, 0, 0]


def test_sixteen_bits(tmp_path):
    grey = random.integers(0, 65536, (8, 9), dtype=np.uint16)
    grey[0, :3] = [0, 257 * 77, 65535]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[..., 1], np.rint(grey / 257))
    color = random.integers(0, 65536, (8, 9, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "color.png"), color[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "color.png"), np.rint(color / 257))
    with pytest.raises(DataError, match="uint16"):
        read_mask(tmp_path / "color.png")


def test_big_endian_sixteen_bit_tiff(tmp_path):
    grey = random.integers(0, 65536, (8, 9), dtype=np.uint16)
    Image.frombytes("I;16B", (9, 8), grey.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    mask = read_mask(tmp_path / "a.tif")
    assert mask.dtype == np.uint16
    np.testing.assert_array_equal(mask, grey)


def test_bilevel_mask_is_zero_and_one(tmp_path):
    Image.fromarray(VALUES > 1).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), VALUES > 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], (VALUES > 1) * 255)


@pytest.mark.parametrize(
    ("picture", "readers"),
    [
        (Image.new("F", (4, 4)), (read_image, read_mask)),
        (Image.new("LA", (4, 4)), (read_mask,)),
        (Image.new("CMYK", (4, 4)), (read_mask,)),
        (Image.new("I", (4, 4)), (read_image,)),
    ],
    ids=["F", "LA", "CMYK", "I"],
)
def test_kinds_that_are_refused(tmp_path, picture, readers):
    picture.save(tmp_path / "a.tif")
    for reader in readers:
        with pytest.raises(DataError, match=r"a\.tif"):
            reader(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_picture_and_mask_alike(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLORS).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert (expected.shape == (42, 30, 3)) == (orientation >= 5)
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_mask(path), expected)


@pytest.mark.parametrize("picture", [Image.fromarray(COLORS), Image.fromarray(VALUES)])
@pytest.mark.parametrize("where", ["before the pixels", "after the pixels", "as XMP"])
def test_orientation_of_a_png_wherever_it_is_told(tmp_path, picture, where):
    exif, info = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    if where == "as XMP":
        info.add_itxt("XML:com.adobe.xmp", '<x><rdf:Description tiff:Orientation="6"/></x>')
        picture.save(tmp_path / "a.png", pnginfo=info)
    else:
        picture.save(tmp_path / "a.png", exif=exif)
    if where == "after the pixels":
        data = (tmp_path / "a.png").read_bytes()
        start = data.index(b"eXIf") - 4
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        end = data.index(b"IEND") - 4
        (tmp_path / "a.png").write_bytes(data[:start] + data[stop:end] + data[start:stop] + data[end:])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.rot90(np.asarray(picture), -1))


def encoded(suffix: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, format=suffix)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_truncated_files_are_named(tmp_path, kind, share, reader):
    data = encoded(kind)
    path = tmp_path / "cut.bin"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.bin.*read whole"):
        reader(path)


def test_missing_empty_folder_and_text_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        read_mask(tmp_path / "empty.png")
    (tmp_path / "page.jpg").write_text("<html>404 Not Found</html>")
    with pytest.raises(DataError, match=r"page\.jpg: not a picture"):
        read_image(tmp_path / "page.jpg")


def test_decompression_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    Image.fromarray(COLORS).save(tmp_path / "a.jpg")
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "1259")
    with pytest.raises(DataError, match=r"a\.jpg: 42x30 pixels are more than the limit of 0\.001259 mega.*MAX_PIXELS"):
        read_image(tmp_path / "a.jpg")
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "1.26e3")
    assert read_image(tmp_path / "a.jpg").shape == (30, 42, 3)


def test_the_limit_is_a_number(monkeypatch):
    assert max_pixels() == DEFAULT_MAX_PIXELS
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "400_000_000")
    assert max_pixels() == 400_000_000
    for wrong in ("many", "inf", "0", "-4"):
        monkeypatch.setenv("TRIMASK_MAX_PIXELS", wrong)
        with pytest.raises(DataError, match=f"TRIMASK_MAX_PIXELS.*{wrong}"):
            max_pixels()


def test_a_raised_limit_is_raised_for_pillow_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(COLORS).save(tmp_path / "a.jpg")
    monkeypatch.setenv("TRIMASK_MAX_PIXELS", "1260")
    assert read_image(tmp_path / "a.jpg").shape == (30, 42, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of damaged TIFF tags before it gives up
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["jpeg", "png", "tiff", "bmp"]), st.data())
def test_damaged_bytes_give_a_picture_or_a_data_error(tmp_path_factory, kind, data):
    damaged = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(damaged)
    for reader in (read_image, read_mask):
        with suppress(DataError):
            assert reader(path).dtype.kind in "ui"


# Several pictures in one file, and files that are something else


def frames(count=3):
    return [Image.fromarray(np.roll(COLORS, i, axis=0)) for i in range(count)]


@pytest.mark.parametrize(
    ("suffix", "what"), [("gif", "frames"), ("png", "frames"), ("webp", "frames"), ("tif", "pages")]
)
@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_several_frames_are_refused(tmp_path, suffix, what, reader):
    first, *others = frames()
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    with pytest.raises(DataError, match=rf"a\.{suffix}: it holds several {what}"):
        reader(tmp_path / f"a.{suffix}")


def test_a_single_frame_in_a_format_for_many_is_read(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.gif"), VALUES)


def test_overviews_of_a_tiff_belong_to_its_picture(tmp_path):
    image = Image.fromarray(COLORS)
    small = image.resize((21, 15))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as written:
        written.seek(1)
        assert (written.size, written.tag_v2[254]) == ((21, 15), 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), COLORS)


def test_the_second_exposure_of_a_phone_is_left_alone(tmp_path):
    first, second = frames(2)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as written:
        assert (written.format, written.n_frames) == ("MPO", 2)
        expected = np.asarray(written)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), expected)


def test_the_extension_does_not_matter(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), COLORS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04\x14", "ZIP"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\0\0\0\x18ftypmp42", "begins with"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, data, message):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.png: .*{message}"):
        read_image(tmp_path / "a.png")


def test_bands_that_pillow_does_not_know_are_counted(tmp_path):
    cv2.imwrite(str(tmp_path / "three.tif"), random.random((6, 7, 3), np.float32))
    with pytest.raises(DataError, match=r"three\.tif: .*3 band\(s\) of 32-bit floating point"):
        read_mask(tmp_path / "three.tif")


def test_cmyk_is_a_picture(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[4, 4], [0, 255, 255], atol=3)


# What the values of a mask mean


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_become_labels(dtype):
    classes = ClassSpec(["a", "b"], ignore_index=255)
    label_map = LabelMap(classes, values={7: "a", 0: "b", 200: "a", 5: "ignore"})
    labels = label_map(np.array([[0, 7], [200, 5]], dtype), "m.png")
    assert labels.tolist() == [[1, 0], [0, 255]]


def test_ignore_index_outside_a_byte():
    label_map = LabelMap(ClassSpec(["a"], ignore_index=-1), values={0: "a", 255: "ignore"})
    assert label_map(np.array([[0, 255]], np.uint8), "m.png").tolist() == [[0, -1]]


@pytest.mark.parametrize("num_channels", [3, 4])
def test_colors_become_labels(num_channels):
    label_map = LabelMap(ROAD, colors={"000000": "background", "#FF0000": "direct", "0000ff": "alternative"})
    raw = np.zeros((1, 3, num_channels), np.uint8)
    raw[0, 1, 0] = raw[0, 2, 2] = 255
    assert label_map(raw, "m.png").tolist() == [[0, 1, 2]]


def test_undeclared_value_is_named_with_its_count_and_the_map():
    label_map = LabelMap(ROAD, values={0: "background", 1: "direct", 2: "alternative"})
    raw = np.zeros((10, 10), np.uint8)
    raw[0, :7] = 9
    raw[1, :3] = 44
    for dtype in (np.uint8, np.uint16, np.int32):
        with pytest.raises(DataError, match=r"m\.png.* 9 \(7 pixels\), 44 \(3 pixels\).*\{0: background, 1: direct"):
            label_map(raw.astype(dtype), "m.png")


def test_undeclared_color_is_shown_as_it_would_be_written():
    label_map = LabelMap(ROAD, colors={"000000": "background"})
    raw = np.zeros((2, 2, 3), np.uint8)
    raw[0, 0] = [217, 83, 79]
    with pytest.raises(DataError, match=r"color d9534f \(1 pixels\).*\{000000: background\}"):
        label_map(raw, "m.png")


@pytest.mark.parametrize(
    ("values", "path", "hint"),
    [
        ([1, 2, 3], "m.png", "counted from 1"),
        ([0, 255], "m.png", "list 255: ignore"),
        (range(40), "m.jpg", "JPEG"),
        (range(40), "m.png", "nearest"),
        ([-1], "m.png", "List it"),
    ],
)
def test_hints(values, path, hint):
    label_map = LabelMap(ROAD, values={0: "background", 1: "direct", 2: "alternative"})
    with pytest.raises(DataError, match=hint):
        label_map(np.array([list(values)], np.int32), path)


def test_colors_where_values_are_expected_and_the_reverse():
    with pytest.raises(DataError, match="holds colors"):
        LabelMap(ROAD, values={0: "direct"})(COLORS, "m.png")
    with pytest.raises(DataError, match="holds single values"):
        LabelMap(ROAD, colors={"000000": "direct"})(VALUES, "m.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either"),
        ({"values": {0: "direct"}, "colors": {"000000": "direct"}}, "either"),
        ({"values": {}}, "empty"),
        ({"values": {0: "rode"}}, "rode"),
        ({"values": {"0": "direct"}}, "integers"),
        ({"colors": {0: "direct"}}, "quotes"),
        ({"colors": {"ff00": "direct"}}, "six"),
        ({"colors": {"ff00zz": "direct"}}, "six"),
    ],
)
def test_maps_that_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        LabelMap(ROAD, **arguments)
