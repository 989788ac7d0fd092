"""Images in files: which of a folder's files are images, their pixels, and a cache of these.

A file is used whole and right, or refused in one sentence.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from swrlib.checks import import_package
from swrlib.files import replacing
from swrlib.memory import free_memory

ImagesByClass = dict[str, list[Path]]
#: Training images and labels, test images and labels.
Splits = tuple[Tensor, Tensor, Tensor, Tensor]
#: Mean and standard deviation of each channel, on a scale of 0 to 1.
Constants = tuple[tuple[float, ...], tuple[float, ...]]

#: What systems put into folders, beside what is hidden or begins with one of _AUXILIARY_STARTS.
_AUXILIARY = {"lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
_AUXILIARY_STARTS = ("@", "#", "$", "__")


def _listed(folder: Path, passed: list[Path]) -> tuple[list[Path], list[Path]]:
    """List the folders and the files in a folder but for what is hidden or auxiliary."""
    folders: list[Path] = []
    files: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.exists():
            _unreadable(path, "it is a broken link")
        if path.name.lower() in _AUXILIARY or path.name.startswith(_AUXILIARY_STARTS):
            passed.append(path)
        else:
            (folders if path.is_dir() else files).append(path)
    return folders, files


def images_by_class(folder: Path, passed: list[Path]) -> ImagesByClass:
    """List the images in each class folder, both in alphabetical order, and what is none."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: images are looked for in train/<class>/ and "
            "test/<class>/ (or val/<class>/)"
        )
    classes, beside = _listed(folder, passed)
    if not classes:
        raise ValueError(f"{folder} has no class folder: images are looked for in <class>/ there")
    passed += beside
    images = {}
    for place in classes:
        here = [path for path in _files_below(place, passed) if _is_image(path, passed)]
        if not here:
            raise ValueError(f"the class folder {place} has no image: add some or remove it")
        images[place.name] = sorted(here, key=lambda path: (str(path.parent), path.name))
    return images


def _files_below(folder: Path, passed: list[Path], above: tuple[Path, ...] = ()) -> list[Path]:
    here = (*above, folder.resolve())
    if here[-1] in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in: remove the link")
    folders, files = _listed(folder, passed)
    return files + [file for place in folders for file in _files_below(place, passed, here)]


def _unreadable(file: Path, reason: object) -> NoReturn:
    """Refuse a file in one sentence."""
    said = str(reason).strip().partition("\n")[0].rstrip(".") or type(reason).__name__
    raise ValueError(f"{file} cannot be read ({said}): replace or remove it")


def _is_image(file: Path, passed: list[Path]) -> bool:
    """Return whether a file is used as an image: its ending says so, or Pillow knows what it is."""
    pillow = import_package("PIL.Image")
    if not file.is_file():
        _unreadable(file, "it is no regular file")
    kind = mimetypes.guess_type(file.name)[0] or ""
    if kind.startswith("image/") or file.suffix.lower() in pillow.registered_extensions():
        return True
    try:
        with pillow.open(file):
            return True
    except pillow.UnidentifiedImageError:
        passed.append(file)
        return False
    except Exception as error:
        _unreadable(file, error)


#: Raised by hand when decoding gives other pixels.
_DECODING = 2


def read_images(
    name: str,
    folder: Path,
    train: ImagesByClass,
    test: ImagesByClass,
    *,
    always_color: bool = False,
) -> Splits:
    """Decode the images of both splits, or take them from the cache of an earlier time.

    Parameters
    ----------
    name : str
        Of the data set.
    folder : Path
        Where they lie; the cache is beside it.
    train, test : dict of str to list of Path
        By class; the classes of the test images are among the others.
    always_color : bool
        Whether there are three channels even if all pixels are grey.

    Returns
    -------
    tuple of torch.Tensor
        Training images (uint8 [N, C, H, W]) and labels (positions of classes), then test images
        and labels.

    Raises
    ------
    ValueError
        If a file is no image that can be used, or they differ in size.
    MemoryError
        If the decoded images do not fit into the memory.
    """
    files = [file for split in (train, test) for listed in split.values() for file in listed]
    cache = folder.parent / f".{name}-{_digest(name, files)}.npy"
    try:
        pixels = np.load(cache)
    except (OSError, ValueError, EOFError):  # none yet, or a damaged one, which is replaced
        pixels = _decode(files, always_color=always_color)
        with suppress(OSError):  # no room or no right to write: decoded again next time
            with replacing(cache) as opened:
                np.save(opened, pixels)
            _remove_older(cache, {name, folder.name})
    position = {label: index for index, label in enumerate(train)}
    train_labels, test_labels = (
        torch.tensor([position[label] for label, listed in split.items() for _ in listed])
        for split in (train, test)
    )
    sizes = [len(train_labels), len(test_labels)]
    train_images, test_images = torch.from_numpy(pixels).split(sizes)
    return train_images, train_labels, test_images, test_labels


def _digest(name: str, files: Sequence[Path]) -> str:
    """Return a short digest of what decides on the pixels."""
    content = hashlib.sha256(repr((_DECODING, name)).encode())
    for file in files:
        try:
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            _unreadable(file, error.strerror or error)
    return content.hexdigest()[:16]


def _remove_older(cache: Path, names: set[str]) -> None:
    """Remove the caches of what the folder held before."""
    older = re.compile(rf"\.({'|'.join(map(re.escape, names))})-[0-9a-f]{{16}}\.npy")
    for path in cache.parent.iterdir():
        if path != cache and older.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _decode(files: Sequence[Path], *, always_color: bool) -> np.ndarray:
    """Decode images of one size into a uint8 array [N, C, H, W]."""
    pixels: np.ndarray = np.empty(0)
    grey = not always_color
    for index, file in enumerate(files):
        decoded = _decode_one(file)
        if index == 0:
            needed, free = len(files) * decoded.size, free_memory(torch.device("cpu"))
            if needed > free:
                raise MemoryError(
                    f"{len(files)} images as large as {file} need {needed / 2**20:.0f} MiB, but "
                    f"{max(free, 0) / 2**20:.0f} MiB of memory are free: make them smaller"
                )
            pixels = np.empty((len(files), *decoded.shape), np.uint8)
        if decoded.shape != pixels.shape[1:]:
            raise ValueError(
                f"{file} has {decoded.shape[1]}x{decoded.shape[2]} pixels, {files[0]} has "
                f"{pixels.shape[2]}x{pixels.shape[3]}: bring all images to one size"
            )
        grey = grey and bool((decoded == decoded[:1]).all())
        pixels[index] = decoded
    return pixels[:, :1].copy() if grey else pixels


def _decode_one(file: Path) -> np.ndarray:
    """Decode an image, upright, into a uint8 array [3, H, W]."""
    pillow, operations = import_package("PIL.Image"), import_package("PIL.ImageOps")
    try:
        with pillow.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise ValueError(f"it has {frames} frames, of which one would be used")
            # Pillow cuts 16 bits of a colour down to 8 without a word, but says so in its plan.
            if image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile):
                raise ValueError("it has more than 8 bits a channel")
            upright = operations.exif_transpose(image)
            if upright.mode[-1] in "Aa" or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                if upright.getextrema()[3][0] < 255:
                    raise ValueError("parts of it are transparent, and have no colour")
            return np.asarray(upright.convert("RGB")).transpose(2, 0, 1)
    except Exception as error:  # Pillow's readers raise many kinds at a damaged file
        _unreadable(file, error)


def channel_statistics(images: Tensor) -> Constants:
    """Mean and standard deviation of each channel, on a scale of 0 to 1."""
    total = square = torch.zeros(images.shape[1], dtype=torch.int64)
    for part in images.split(1024):  # whole numbers: the same on every machine
        total = total + part.long().sum((0, 2, 3))
        square = square + part.long().square().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = total.double() / count
    # A channel that is constant must not be divided by zero: at least one of 255 levels.
    std = (square.double() / count - mean**2).clamp(min=1).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
