"""Archives of images that lie, or that unpack to more than a machine holds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.files.damaged import image_tree, tar
from tests.files.running import Case

IMAGE = image_tree()["train/cat/a.png"]
END = bytes(1024)


def header(name: str = "x/cat/a.png", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def with_size(size: bytes) -> bytes:
    """A header whose size is written in another way, with the checksum that goes with it."""
    buffer = bytearray(header())
    buffer[124:136] = size.ljust(12, b"\0")
    buffer[148:156] = b" " * 8
    buffer[148:156] = b"%06o\0 " % sum(buffer)
    return bytes(buffer)


def pax(records: dict[str, str]) -> bytes:
    member = tarfile.TarInfo("x/cat/a.png")
    member.size = len(IMAGE)
    member.pax_headers = records
    return member.tobuf(tarfile.PAX_FORMAT) + padded(IMAGE)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def repeated(compress: Callable[[bytes], bytes], start: bytes, times: int) -> bytes:
    """A start, and so many times 8 MiB of zeros, as compressed streams one behind another."""
    return compress(start) + compress(bytes(2**23)) * times


def with_links(kind: bytes) -> bytes:
    tree = tar(image_tree())
    link = tarfile.TarInfo("train/cat/linked.png")
    link.type, link.linkname = kind, "train/cow/b.png"
    return link.tobuf() + tree


def sparse() -> bytes:
    """GNU's member of one block of content and terabytes of holes."""
    buffer = bytearray(header(size=512, kind=tarfile.GNUTYPE_SPARSE))
    buffer[386:410] = b"%011o\0%011o\0" % (0, 512)
    buffer[483:495] = b"%011o\0" % (2**33 - 1)
    buffer[148:156] = b" " * 8
    buffer[148:156] = b"%06o\0 " % sum(buffer)
    return bytes(buffer) + bytes(512) + END


def cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    large = header(size=2**33)
    many = b"".join(header(f"x/cat/{index}.png") for index in range(2**16))
    extended = tarfile.XHDTYPE
    contents = {
        "zeros.tar.gz": repeated(gzip.compress, large, 512),
        "zeros.tar.bz2": repeated(bz2.compress, large, 512),
        "zeros.tar.xz": repeated(lzma.compress, large, 512),
        "passed-over.tar.gz": repeated(gzip.compress, header("x/notes", 2**33), 512),
        "behind-its-end.tar.gz": repeated(gzip.compress, tar(image_tree()), 512),
        "dictionary.tar.xz": lzma.compress(
            tar(image_tree())[:-512] + b"x",
            filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**26}],
        ),
        "empties.tar.gz": gzip.compress(b"") + gzip.compress(many, 1) * 16,
        "note.tar.gz": repeated(gzip.compress, header(size=2**32, kind=extended), 512),
        "name.tar.gz": repeated(
            gzip.compress, header(size=2**32, kind=tarfile.GNUTYPE_LONGNAME), 512
        ),
        "note.tar": header(size=2**40, kind=extended),
        "notes.tar": header(size=12, kind=extended) + padded(b"12 path=abc\n"),
        "chain.tar": (header(size=12, kind=extended) + padded(b"12 path=abc\n")) * 3000,
        "below-zero.tar": with_size(b"\xff" * 12) + padded(IMAGE) + END,
        "far-below-zero.tar": with_size(b"\xff" * 10 + b"\xf8\0") + padded(IMAGE) + END,
        "astronomic.tar": with_size(b"\x80" + b"\x7f" * 11) + padded(IMAGE) + END,
        "large.tar": header(size=2**33 - 1) + padded(IMAGE) + END,
        "pax-below-zero.tar": pax({"size": "-1024"}) + END,
        "pax-no-number.tar": pax({"size": "many"}) + END,
        "pax-astronomic.tar": pax({"size": str(10**30)}) + END,
        "pax-sparse.tar": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + END,
        "pax-map.tar": pax({"GNU.sparse.map": "0,9" * 999, "GNU.sparse.size": "9" * 9}) + END,
        "sparse.tar": sparse(),
        "hard-link.tar": with_links(tarfile.LNKTYPE),
        "symbolic-link.tar": with_links(tarfile.SYMTYPE),
        "device.tar": header("x/cat/a.png", kind=tarfile.CHRTYPE) + END,
        "end-alone.tar": bytes(10240),
        "no-end.tar": tar(image_tree())[:-10240],
        "more-behind.tar": tar(image_tree()) + b"more",
        "tail.tar.gz": gzip.compress(tar(image_tree())) + b"more",
        "not-an-image.tar": tar({"x/cat/a.png": b"no image", "x/dog/b.png": IMAGE}),
        "in-itself.tar": tar({"x/cat/a.png": tar(image_tree()), "x/dog/b.png": IMAGE}),
        "boxes.tar": tar(image_tree() | {"boxes.csv": b"path,width\n" + b"x" * 2**18}),
        "text.tar.gz": gzip.compress(tar(image_tree() | {"boxes.csv": bytes(2**25)})),
        "nothing.tar": b"",
        "words.tar": b"no archive" * 999,
        "zip.tar": b"PK\x03\x04" + bytes(99),
    }
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        yield Case(name, "data", path)
    yield from _trees(folder)


TEXTS = {
    "nan": "train/cat/a.png,4,4,nan,0,4,4",
    "infinite": "train/cat/a.png,4,4,0,0,inf,4",
    "no-size": "train/cat/a.png,0,4,0,0,4,4",
    "nan-size": "train/cat/a.png,nan,4,0,0,4,4",
    "backwards": "train/cat/a.png,4,4,3,0,1,4",
    "zero-byte": "train/cat/a.png,4,4,0,0,4\0,4",
    "no-text": "train/cat/a.png,4,4,0,0,4,\udcff",
    "long-field": "x" * 200_000 + ",4,4,0,0,4,4",
    "short": "train/cat/a.png,4",
    "large": "train/cat/a.png,4,4,0,0,4,4\n" * 2**20,
}


def _trees(folder: Path) -> Iterator[Case]:
    """Folders of images, of which a text file or an image is none."""
    for name, line in TEXTS.items():
        root = _tree(folder / f"tree-{name}")
        text = f"path,width,height,x0,y0,x1,y1\n{line}\n"
        (root / "boxes.csv").write_bytes(text.encode(errors="surrogateescape"))
        yield Case(f"boxes.csv: {name}", "data", root)
    root = _tree(folder / "tree-often")  # quadratic, if each line copies those before
    often = "train/cat/a.png,4,4,0,0,4,4\n" * 200_000
    (root / "boxes.csv").write_text("path,width,height,x0,y0,x1,y1\n" + often)
    yield Case("boxes.csv: often", "data", root, ("other",))
    root = _tree(folder / "tree-zeros")
    (root / "train/cat/a.png").unlink()
    (root / "train/cat/a.png").symlink_to("/dev/zero")
    yield Case("an image that is a device", "data", root)
    root = _tree(folder / "tree-folder")
    shutil.rmtree(root / "train/cat")
    (root / "train/cat/a.png").mkdir(parents=True)
    yield Case("an image that is a folder", "data", root)


def _tree(root: Path) -> Path:
    for name, content in image_tree().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
