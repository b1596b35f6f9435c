"""Data sets: contents, subsets, damaged files, downloads."""

from __future__ import annotations

import http.client
import pickle
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semirobust import runs
from semirobust.data import DATASETS, load, torchvision_datasets
from semirobust.runs import storage

TRAIN, TEST = 1297, 500
HELD_OUT = [6, 6, 6, 2, 5, 6, 6, 2, 2, 1]  # labels of the first digits of the test split


def write_set(root: Path, name: str = "cifar10", *, n: int = 12, seed: int = 0) -> Path:
    """Both splits of ``name`` as plain arrays below ``root``; returns its folder."""
    (channels, height, width), names = DATASETS[name]
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        np.save(
            folder / f"{split}_images.npy", rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)
        )
        np.save(folder / f"{split}_labels.npy", np.arange(n, dtype=np.int64) % len(names))
    return folder


# --- digits ---


@pytest.mark.parametrize(("split", "n"), [("train", TRAIN), ("test", TEST)])
def test_digits_are_the_images_of_scikit_learn(split: str, n: int) -> None:
    from sklearn.datasets import load_digits

    digits = load("digits", split)
    assert len(digits) == n and digits.shape == (1, 8, 8) and digits.split == split
    assert digits.pixels.dtype == np.uint8 and digits.labels.dtype == torch.int64
    images = digits.images
    assert images.dtype == torch.float32 and images.shape == (n, 1, 8, 8)
    assert images.min() == 0 and images.max() == 1
    assert digits.classes == tuple("0123456789") and set(digits.labels.tolist()) == set(range(10))
    bunch = load_digits()
    original = {(image.tobytes(), label) for image, label in zip(bunch.images, bunch.target, strict=True)}
    back = (digits.pixels[..., 0].astype(np.float64) / 255 * 16).round()  # 0..16, as in scikit-learn
    assert {
        (image.tobytes(), label) for image, label in zip(back, digits.labels.numpy(), strict=True)
    } <= original


def test_digits_split_is_disjoint_complete_and_fixed() -> None:
    from sklearn.datasets import load_digits

    rows = [[p.tobytes() for p in load("digits", split).pixels] for split in ("train", "test")]
    assert not set(rows[0]) & set(rows[1])
    everything = np.round(load_digits().images / 16 * 255).astype(np.uint8)
    assert sorted(rows[0] + rows[1]) == sorted(image.tobytes() for image in everything)
    # every published number depends on which digits are held out
    assert load("digits", "test").labels[:10].tolist() == HELD_OUT
    np.testing.assert_array_equal(load("digits", "test").pixels, load("digits", "test").pixels)


def test_digits_are_resized_without_reordering() -> None:
    small, large = load("digits", "test"), load("digits", "test", size=16)
    assert large.shape == (1, 16, 16) and large.images.shape == (TEST, 1, 16, 16)
    assert torch.equal(small.labels, large.labels)
    pooled = torch.nn.functional.avg_pool2d(large.images, 2)
    agreement = np.corrcoef(pooled.flatten(), small.images.flatten())[0, 1]
    assert agreement > 0.97


def test_limit_keeps_the_first_images() -> None:
    everything, few = load("digits", "train"), load("digits", "train", limit=7)
    assert len(few) == 7 and torch.equal(few.images, everything.images[:7])
    assert torch.equal(few.labels, everything.labels[:7])
    assert len(load("digits", "test", limit=10_000)) == TEST


def test_classes_are_kept_and_renamed_in_the_order_given() -> None:
    everything = load("digits", "train")
    pair = load("digits", "train", classes=[7, 2])
    assert pair.classes == ("7", "2")
    keep = (everything.labels == 7) | (everything.labels == 2)
    assert torch.equal(pair.images, everything.images[keep])
    assert torch.equal(pair.labels, (everything.labels[keep] == 2).long())
    limited = load("digits", "train", classes=[7, 2], limit=5)
    assert len(limited) == 5 and torch.equal(limited.labels, pair.labels[:5])


def test_subsets_follow_their_indices() -> None:
    digits = load("digits", "test")
    for indices in ([5, 0, 5], np.array([5, 0, 5]), torch.tensor([5, 0, 5])):
        part = digits.subset(indices)
        assert torch.equal(part.images, digits.images[[5, 0, 5]])
        assert torch.equal(part.labels, digits.labels[[5, 0, 5]])
        assert torch.equal(digits.batch(np.asarray(indices)), part.images)
    mask = (digits.labels == 3).numpy()
    assert len(digits.subset(mask)) == mask.sum() and set(digits.subset(mask).labels.tolist()) == {3}
    assert len(digits.subset([])) == 0 and digits.subset([]).images.shape == (0, 1, 8, 8)
    assert torch.equal(digits.subset(range(4)).labels, digits.labels[:4])


# --- bad arguments ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("imagenet", "train", {}), "'imagenet'; known: digits, mnist, fashion_mnist, cifar10, cifar100"),
        (("digits", "validation", {}), "'validation'; known: train, test"),
        (("digits", "train", {"limit": 0}), "at least 1 .*got 0"),
        (("digits", "train", {"limit": 2.5}), "integer .*got 2.5"),
        (("digits", "train", {"size": 4}), "at least 8, got 4"),
        (("digits", "train", {"size": 0}), "at least 8, got 0"),
        (("cifar10", "train", {"size": 16}), "one size, 32"),
        (("digits", "train", {"classes": [3]}), "two or more"),
        (("digits", "train", {"classes": [3, 3]}), "different"),
        (("digits", "train", {"classes": [3, 10]}), "below 10, got \\[3, 10\\]"),
        (("digits", "train", {"classes": [-1, 3]}), "below 10"),
        (("digits", "train", {"classes": [0.5, 3]}), "below 10"),
    ],
)
def test_bad_arguments_say_what_is_known(arguments: tuple, message: str) -> None:
    name, split, options = arguments
    with pytest.raises(ValueError, match=message):
        load(name, split, **options)


# --- files ---


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_set_on_disk_is_mapped_not_read(tmp_path: Path, name: str) -> None:
    folder = write_set(tmp_path, name)
    images = load(name, "test", root=tmp_path)
    assert isinstance(images.pixels, np.memmap)
    assert isinstance(load(name, "test", root=tmp_path, limit=3).pixels, np.memmap)
    assert Path(images.pixels.filename) == folder / "test_images.npy"
    assert images.shape == DATASETS[name][0] and images.classes == DATASETS[name][1]
    expected = np.load(folder / "test_images.npy").transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(images.images.numpy(), expected)
    images.images.fill_(0)  # a copy: the file stays as it is
    np.testing.assert_array_equal(np.load(folder / "test_images.npy"), images.pixels)


def test_root_is_the_argument_then_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "one", n=3)
    write_set(tmp_path / "two", n=5)
    monkeypatch.setenv("SEMIROBUST_DATA", str(tmp_path / "two"))
    assert len(load("cifar10", "train", root=tmp_path / "one")) == 3
    assert len(load("cifar10", "train", root=str(tmp_path / "one"))) == 3
    assert len(load("cifar10", "train")) == 5
    monkeypatch.delenv("SEMIROBUST_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_set(tmp_path / "home" / ".cache" / "semirobust", n=4)
    assert len(load("cifar10", "train")) == 4


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def pickled(folder: Path) -> bytes:
    return pickle.dumps(Bomb(folder / "exploded"))


def object_array(folder: Path) -> bytes:
    np.save(folder / "bomb.npy", np.array([Bomb(folder / "exploded")], dtype=object), allow_pickle=True)
    return (folder / "bomb.npy").read_bytes()


def zipped(folder: Path) -> bytes:
    np.savez(folder / "zip.npz", np.zeros(3))
    return (folder / "zip.npz").read_bytes()


def truncated(folder: Path) -> bytes:
    return (folder / "train_images.npy").read_bytes()[:-1]


def beheaded(folder: Path) -> bytes:
    return (folder / "train_images.npy").read_bytes()[:50]


@pytest.mark.parametrize("what", ["images", "labels"])
@pytest.mark.parametrize(
    "damage", [pickled, object_array, zipped, truncated, beheaded, lambda _: b"", lambda _: b"x" * 999]
)
def test_damaged_files_are_refused_unread(tmp_path: Path, what: str, damage: Callable[[Path], bytes]) -> None:
    folder = write_set(tmp_path)
    path = folder / f"train_{what}.npy"
    path.write_bytes(damage(folder))
    with pytest.raises(runs.CorruptFile, match="delete") as caught:
        load("cifar10", "train", root=tmp_path)
    assert caught.value.path == path
    assert not (folder / "exploded").exists()
    assert len(load("cifar10", "test", root=tmp_path)) == 12  # the other split is as good as before


def test_any_flipped_bit_in_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "mnist", n=3)
    path = folder / "train_images.npy"
    whole = path.read_bytes()
    refused = 0
    for position in range(128):
        content = bytearray(whole)
        content[position] ^= 1 << position % 7
        path.write_bytes(bytes(content))
        try:
            assert load("mnist", "train", root=tmp_path).images.shape == (3, 1, 28, 28)
        except runs.CorruptFile:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("what", "array", "message"),
    [
        ("images", np.zeros((12, 32, 32, 3), np.float32), r"float32 \[12, 32, 32, 3\], not uint8"),
        ("images", np.zeros((12, 3, 32, 32), np.uint8), r"not uint8 \[N, 32, 32, 3\]"),
        ("images", np.zeros((12, 32, 32), np.uint8), "not uint8"),
        ("images", np.zeros((11, 32, 32, 3), np.uint8), "one integer label for each image"),
        ("labels", np.zeros(12), "one integer label for each image"),
        ("labels", np.zeros((12, 1), np.int64), "one integer label for each image"),
        ("labels", np.full(12, 10), r"outside 0\.\.9"),
        ("labels", np.full(12, -1), r"outside 0\.\.9"),
        ("labels", np.full(12, 2**63, np.uint64), r"outside 0\.\.9"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, what: str, array: np.ndarray, message: str) -> None:
    folder = write_set(tmp_path)
    np.save(folder / f"train_{what}.npy", array)
    with pytest.raises(runs.CorruptFile, match=message):
        load("cifar10", "train", root=tmp_path)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, n=0)
    with pytest.raises(runs.CorruptFile):
        load("cifar10", "train", root=tmp_path)


def test_labels_of_any_integer_type_become_int64(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    np.save(folder / "train_labels.npy", np.arange(12, dtype=np.uint8) % 10)
    assert load("cifar10", "train", root=tmp_path).labels.tolist() == [*range(10), 0, 1]


# --- download ---


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, name: str, source: Callable[..., object]) -> list[dict]:
    """Puts ``source(train)`` in the place of torchvision's class for ``name``; returns its calls."""
    calls: list[dict] = []

    def build(root: str, *, train: bool, download: bool) -> object:
        calls.append({"root": root, "train": train, "download": download})
        print("progress bar", file=sys.stderr)
        return source(train)

    monkeypatch.setattr(torchvision_datasets(), {"mnist": "MNIST", "cifar10": "CIFAR10"}[name], build)
    return calls


def cifar10_source(train: bool) -> SimpleNamespace:
    rng = np.random.default_rng(int(train))
    n = 6 if train else 4
    return SimpleNamespace(
        data=rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), targets=[i % 10 for i in range(n)]
    )


def mnist_source(train: bool) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(int(train))
    pixels = torch.randint(0, 256, (5, 28, 28), generator=generator, dtype=torch.uint8)
    return SimpleNamespace(data=pixels, targets=torch.arange(5))


@pytest.mark.parametrize(("name", "source"), [("cifar10", cifar10_source), ("mnist", mnist_source)])
def test_a_missing_set_is_downloaded_once(
    name: str, source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    calls = fake_torchvision(monkeypatch, name, source)
    for _ in range(2):
        for split in ("train", "test"):
            images = load(name, split, root=tmp_path)
            wanted = source(split == "train")
            pixels = np.asarray(wanted.data).reshape(images.pixels.shape)
            np.testing.assert_array_equal(images.pixels, pixels)
            assert images.labels.tolist() == [int(label) for label in wanted.targets]
            assert isinstance(images.pixels, np.memmap)
    assert [(call["train"], call["download"]) for call in calls] == [(True, True), (False, True)]
    assert all(Path(call["root"]).is_relative_to(tmp_path / name) for call in calls)
    names = {path.name for path in (tmp_path / name).iterdir()}
    assert names == {f"{s}_{w}.npy" for s in ("train", "test") for w in ("images", "labels")}
    assert not list(tmp_path.rglob(".*"))  # no lock, no temporary file
    assert capfd.readouterr() == ("", "")


def test_a_download_that_breaks_leaves_whole_files_only_and_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(train: bool) -> SimpleNamespace:
        if not train:
            raise urllib.error.URLError("connection lost")
        return cifar10_source(train)

    fake_torchvision(monkeypatch, "cifar10", breaks)
    with pytest.raises(FileNotFoundError, match="connection lost"):
        load("cifar10", "test", root=tmp_path)
    assert sorted(path.name for path in (tmp_path / "cifar10").iterdir()) == [
        "train_images.npy",
        "train_labels.npy",
    ]
    assert len(load("cifar10", "train", root=tmp_path)) == 6  # needs no network any more
    calls = fake_torchvision(monkeypatch, "cifar10", cifar10_source)
    assert len(load("cifar10", "test", root=tmp_path)) == 4
    assert [call["train"] for call in calls] == [False]


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchvision(monkeypatch, "cifar10", cifar10_source)
    replace, written = storage.os.replace, []

    def full(source: Path, target: Path) -> None:
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(target)
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(FileNotFoundError, match="disk is full"):
        load("cifar10", "train", root=tmp_path)
    monkeypatch.undo()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "cifar10" / "train_images.npy"]
    np.testing.assert_array_equal(np.load(files[0]), cifar10_source(True).data)


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        ConnectionResetError("reset"),
        RuntimeError("File not found or corrupted."),
        http.client.IncompleteRead(b""),
    ],
)
def test_no_network_names_the_folder_and_the_two_ways(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(train: bool) -> SimpleNamespace:
        raise error

    fake_torchvision(monkeypatch, "cifar10", fails)
    with pytest.raises(FileNotFoundError) as caught:
        load("cifar10", "train", root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "cifar10") in message
    assert "network" in message and "train_images.npy" in message and "SEMIROBUST_DATA" in message
    assert caught.value.__cause__ is error


# --- torchvision ---


def test_torchvision_imports_beside_this_torch_without_a_word() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from semirobust.data import torchvision_datasets\n"
        "assert torchvision_datasets().CIFAR10.tgz_md5 == 'c58f30108f718f92721af3b95e74349a'\n"
        "import torchvision.models; print('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


def test_the_package_does_not_import_torchvision_until_it_downloads() -> None:
    code = "import sys, semirobust.data as d; d.load('digits', 'test'); print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("False\n", "")


# --- the real sets ---


@pytest.mark.data("cifar10")
def test_real_cifar10() -> None:
    train, test = load("cifar10", "train", limit=2000), load("cifar10", "test")
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert [train.classes[label] for label in train.labels[:2]] == ["frog", "truck"]
    assert isinstance(train.pixels, np.memmap) and train.pixels.dtype == np.uint8
    images = train.images
    assert images.shape == (len(train), 3, 32, 32) and images.min() == 0 and images.max() == 1
    means, deviations = images.mean((0, 2, 3)), images.std((0, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.015, rtol=0)
    torch.testing.assert_close(deviations, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.015, rtol=0)
    assert torch.bincount(train.labels, minlength=10).min() > len(train) / 20


@pytest.mark.data("mnist")
def test_real_mnist() -> None:
    train, test = load("mnist", "train", limit=2000), load("mnist", "test")
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    images = train.images
    assert images.shape == (len(train), 1, 28, 28) and images.min() == 0 and images.max() == 1
    assert images.mean().item() == pytest.approx(0.1307, abs=0.005)
    pair = load("mnist", "train", classes=[3, 8], limit=100)
    assert pair.classes == ("3", "8") and set(pair.labels.tolist()) == {0, 1}
