"""The files of an explained photograph: where they go, and how a later run knows what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jc2i import files, plots
from jc2i.cli import subject
from jc2i.files import write_whole

NOTE = "jc2i explain"
"""The text in an overlay's PNG that says what it was made of."""

HEAD = 4096
"""Bytes at the beginning of an overlay in which its note is."""

FORMAT = 1
"""Of the overlays: one of another is drawn again."""


class Place(NamedTuple):
    """The two files of a photograph.

    Attributes:
      overlay: the photograph with its map and the class, a PNG.
      array: the raw map. It is written first: where there is an overlay, it is there too.
    """

    overlay: Path
    array: Path


def places(photographs: Sequence[Path], folder: Path, method: str) -> dict[Path, Place]:
    """Where the results of each photograph go: by its name, and more of it where several share it.

    Args:
      photographs: different files.
      folder: of the results.
      method: the explainer's name, which is a part of the files'.

    Returns:
      By photograph, no two alike.
    """
    rules: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: f"{path.resolve().parent.name}-{path.stem}",
        lambda path: path.name,
        lambda path: f"{path.resolve().parent.name}-{path.name}",
        lambda path: "-".join(path.resolve().parts[1:]),
    )
    names = {path: path.stem for path in photographs}
    for rule in rules[1:]:
        twice = _shared(names.values())
        by_stem: dict[str, list[Path]] = {}
        for path, name in names.items():
            if name in twice:
                by_stem.setdefault(path.stem, []).append(path)
        for paths in by_stem.values():
            tried = {path: rule(path) for path in paths}
            if not _shared(tried.values()):
                names |= tried
    taken: set[str] = set()
    for path, name in names.items():
        number = 2
        while names[path] in taken:
            names[path], number = f"{name}-{number}", number + 1
        taken.add(names[path])
    suffix = method.replace(":", ".")
    return {
        path: Place(folder / f"{name}.{suffix}.png", folder / f"{name}.{suffix}.npy")
        for path, name in names.items()
    }


def _shared(names: Iterable[str]) -> set[str]:
    return {name for name, uses in Counter(names).items() if uses > 1}


def is_overlay(path: Path) -> bool:
    """Whether an image is an overlay of an earlier run, and no photograph.

    It says so itself; one made before they did is called by a method, beside the map of its name.
    """
    if path.suffix != ".png":
        return False
    method = path.stem.rpartition(".")[2]
    named = method in subject.methods() and path.with_suffix(".npy").is_file()
    return named or bool(_note(path))


def is_begun(place: Place) -> bool:
    """Whether there is an array alone: a killed run's, it may be, that had no time for the rest."""
    return not os.path.lexists(place.overlay) and place.array.is_file()


def write(
    place: Place,
    made: str,
    image: np.ndarray,
    saliency: np.ndarray,
    title: str,
    *,
    overwrite: bool = True,
) -> None:
    """Writes the results of one photograph.

    Args:
      place: where.
      made: what they are made of, as a short name.
      image: the photograph as the model saw it.
      saliency: its raw map.
      title: what is written above it.
      overwrite: whether another array that is there gives way; one that is the same may stay.

    Raises:
      FileExistsError: it does not.
    """
    figure = plots.saliency_overlay(image, saliency, title=title)
    picture, array = io.BytesIO(), io.BytesIO()
    np.save(array, saliency, allow_pickle=False)
    content = array.getvalue()
    note = json.dumps({"made": made, "map": hashlib.sha256(content).hexdigest()})
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": "jc2i", NOTE: note})
    if place.array.is_file() and place.array.read_bytes() != content:
        subject.refuse_existing(place.array, overwrite)
    write_whole(place.array, content)
    write_whole(place.overlay, picture.getvalue())


def is_finished(place: Place, made: Callable[[], str]) -> bool:
    """Whether both files are there, whole, and made of the same.

    Args:
      place: where.
      made: gives what they would be made of; it is asked only where there is something.
    """
    note = _note(place.overlay)
    if not note.get("made") or note["made"] != made():
        return False
    try:
        content = place.array.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == note.get("map")


def _note(path: Path) -> dict[str, str]:
    """What an overlay says that it was made of; nothing where it is none.

    Of the file only the beginning is read, where `write` has it: it may be anybody's.
    """
    try:
        with files.opened(path, str(path)) as file:
            beginning = file.read(HEAD)
        before, found, after = beginning.partition(b"tEXt" + NOTE.encode() + b"\0")
        length = int.from_bytes(before[-4:], "big") - len(NOTE) - 1
        note = json.loads(after[:length]) if found else {}
    except (OSError, ValueError):
        return {}
    known = isinstance(note, dict) and all(isinstance(word, str) for word in note.values())
    return note if known else {}
