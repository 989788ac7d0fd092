"""A made-up data set on disk: small grey pictures in class folders, as a user would have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_image_folder(
    folder: Path, *, train: int = 15, test: int = 5, size: int = 12, classes: int = 3
) -> Path:
    """Write noise with a brighter row for each class, so that there is something to learn.

    ``train`` and ``test`` count the pictures of each class.
    """
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label in range(classes):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 200, (size, size), dtype=np.uint8)
                pixels[label] += 55
                Image.fromarray(pixels).save(place / f"{index:03}.png")
    return folder
