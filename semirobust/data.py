"""Image data sets as memory-mapped pixels with labels.

A set is stored in ``ROOT/NAME/{train,test}_{images,labels}.npy`` (uint8 [N, H, W, C] and int64 [N]), where
ROOT is ``$SEMIROBUST_DATA`` or ``~/.cache/semirobust``. A set that is missing there is downloaded once by
torchvision, which verifies the published checksum before it unpickles anything. Nothing else here reads a
pickle.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import operator
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from semirobust import paths, runs

DIGITS_TEST = 500  # images held out of the 1,797 digits of scikit-learn, by a fixed seeded draw
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGIT_NAMES = tuple(str(digit) for digit in range(10))

#: name -> (image shape [C, H, W], class names)
DATASETS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    "digits": ((1, 8, 8), _DIGIT_NAMES),
    "mnist": ((1, 28, 28), _DIGIT_NAMES),
    "fashion_mnist": ((1, 28, 28), _FASHION),
    "cifar10": ((3, 32, 32), _CIFAR10),
    "cifar100": ((3, 32, 32), tuple(str(index) for index in range(100))),
}
_MISSING_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_schemas: torch.library.Library | None = None  # kept alive: the schemas go with the object
_REMEDY = "delete this file and the one beside it of the same split, and load the set again"
_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


@dataclass(frozen=True)
class Images:
    """Labelled images; the pixels stay uint8 (and memory-mapped, where they came from disk) until asked for.

    ``pixels`` uint8 [N, H, W, C]; ``labels`` int64 [N] in ``range(len(classes))``; ``name`` and ``split`` are
    the data set and its part.
    """

    pixels: np.ndarray
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, [C, H, W]."""
        _, height, width, channels = self.pixels.shape
        return channels, height, width

    @property
    def images(self) -> torch.Tensor:
        """All images, float32 [N, C, H, W] in [0, 1]; converted at every call."""
        return self.batch(slice(None))

    def batch(self, indices: slice | np.ndarray | torch.Tensor) -> torch.Tensor:
        """The images at ``indices``, float32 [n, C, H, W] in [0, 1], contiguous."""
        if isinstance(indices, torch.Tensor):
            indices = indices.numpy()
        pixels = torch.from_numpy(np.array(self.pixels[indices]))  # a copy: a memory map may be read-only
        # with one channel ``contiguous`` would keep the strides of channels_last, which steer convolutions
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def subset(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> Images:
        """The images at ``indices``, in that order."""
        index = np.asarray(indices)
        index = (
            index
            if index.dtype == bool
            else index.astype(np.int64, casting="same_kind" if index.size else "unsafe")
        )
        return replace(self, pixels=self.pixels[index], labels=self.labels[torch.from_numpy(index)])


def data_root() -> Path:
    """``$SEMIROBUST_DATA``, else ``~/.cache/semirobust``."""
    return paths.given("SEMIROBUST_DATA") or Path("~/.cache/semirobust").expanduser()


def load(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    classes: Sequence[int] | None = None,
    size: int | None = None,
) -> Images:
    """Load ``split`` ("train" or "test") of the data set ``name``.

    ``limit`` keeps the first images (after the choice of classes); ``classes`` keeps those labels only and
    renames them 0, 1, ... in the order given (two classes make a binary task); ``size`` resizes the 8 x 8
    ``digits`` bilinearly to ``size`` x ``size`` (the other sets have one size).

    Raises ``ValueError`` for an unknown name or split, a limit below 1, a class that the set does not have,
    or a size of a set other than digits; ``FileNotFoundError`` with the folder and the two ways to fill it
    where the set is missing and cannot be downloaded; ``runs.CorruptFile`` for a damaged file.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: train, test")
    if limit is not None and (not hasattr(limit, "__index__") or limit < 1):
        raise ValueError(f"limit must be an integer of at least 1 (or None for all images), got {limit!r}")
    names = DATASETS[name][1]
    if name == "digits":
        pixels, labels = _digits(split, 8 if size is None else size)
    elif size not in (None, DATASETS[name][0][1]):
        raise ValueError(f"{name} has one size, {DATASETS[name][0][1]}; only digits can be resized")
    else:
        pixels, labels = _stored(name, split, Path(root).expanduser() if root is not None else data_root())
    if classes is not None:
        unknown = [
            label for label in classes if not hasattr(label, "__index__") or not 0 <= label < len(names)
        ]
        if unknown or len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError(
                f"classes must be two or more different labels below {len(names)}, got {list(classes)}"
            )
        classes = [operator.index(label) for label in classes]
        keep = np.flatnonzero(np.isin(labels, classes))[:limit]
        rename = {label: new for new, label in enumerate(classes)}
        pixels, labels = (
            pixels[keep],
            np.array([rename[int(label)] for label in labels[keep]], dtype=np.int64),
        )
        names = tuple(names[label] for label in classes)
    return Images(pixels[:limit], torch.from_numpy(np.array(labels[:limit])), names, name, split)


def _digits(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 8 x 8 digits, resized, with a fixed held-out part."""
    from sklearn.datasets import load_digits

    if not hasattr(size, "__index__") or size < 8:
        raise ValueError(f"digits are 8 x 8: size must be an integer of at least 8, got {size!r}")
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16.0).float()[:, None]  # [N, 1, 8, 8]
    if size != 8:
        images = torch.nn.functional.interpolate(
            images, size=(size, size), mode="bilinear", align_corners=False
        )
    pixels = (
        images.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    )  # [N, size, size, 1]
    order = np.random.default_rng(0).permutation(len(pixels))
    keep = order[DIGITS_TEST:] if split == "train" else order[:DIGITS_TEST]  # drawn order: writers are mixed
    return np.ascontiguousarray(pixels[keep]), bunch.target[keep].astype(np.int64)


def _stored(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays on disk, downloaded first where they are missing, and checked."""
    folder = root / name
    paths = [folder / f"{split}_{what}.npy" for what in ("images", "labels")]
    if not all(path.exists() for path in paths):
        _download(name, folder)
    pixels, labels = (_mapped(path) for path in paths)
    (channels, height, width), names = DATASETS[name]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (height, width, channels):
        wanted = f"uint8 [N, {height}, {width}, {channels}]"
        raise runs.CorruptFile(
            paths[0], f"it holds {pixels.dtype} {list(pixels.shape)}, not {wanted}", _REMEDY
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise runs.CorruptFile(paths[1], "it does not hold one integer label for each image", _REMEDY)
    if labels.min() < 0 or labels.max() >= len(names):
        raise runs.CorruptFile(paths[1], f"it has labels outside 0..{len(names) - 1}", _REMEDY)
    return pixels, labels.astype(np.int64)


def _mapped(path: Path) -> np.ndarray:
    """The array in a .npy file, memory-mapped. A file of any other kind, such as a pickle, is refused without
    reading its content.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError) as error:
        raise runs.CorruptFile(path, str(error), _REMEDY) from error


def _download(name: str, folder: Path) -> None:
    """Fetch both splits with torchvision (which checks the md5 before it reads) and write them as plain
    arrays.
    """
    original = folder / "original"
    try:
        datasets = torchvision_datasets()
        folder.mkdir(parents=True, exist_ok=True)
        quiet = io.StringIO()  # torchvision draws a progress bar
        with runs.lock(folder), contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
            for split in ("train", "test"):
                if (folder / f"{split}_labels.npy").exists() and (folder / f"{split}_images.npy").exists():
                    continue
                source = getattr(datasets, _TORCHVISION[name])(
                    str(original), train=split == "train", download=True
                )
                pixels = np.asarray(source.data, dtype=np.uint8)
                pixels = pixels[..., None] if pixels.ndim == 3 else pixels  # [N, H, W, C]
                labels = np.asarray(source.targets, dtype=np.int64)
                for what, array in (("images", pixels), ("labels", labels)):
                    content = io.BytesIO()
                    np.save(content, array)
                    runs.write_atomic(folder / f"{split}_{what}.npy", content.getvalue())
    except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{name} is not in {folder} and could not be downloaded ({error!r}). Either run once "
            "where there is a network, or put train_images.npy, test_images.npy (uint8 [N, H, W, C]) and "
            f"train_labels.npy, test_labels.npy (int64 [N]) into {folder}; $SEMIROBUST_DATA moves the root."
        ) from error


def torchvision_datasets() -> ModuleType:
    """``torchvision.datasets``, with any build of torch.

    torchvision's compiled extension is built for one build of torch. With another one (a CPU build, say)
    its import stops with ``operator torchvision::nms does not exist``, although its data sets are pure
    Python. Defining the schemas of the two operators that the import looks up is enough.
    """
    global _schemas
    try:
        from torchvision import datasets
    except RuntimeError:
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _MISSING_OPERATORS.items():
            if not hasattr(torch.ops.torchvision, name):
                _schemas.define(schema)
        from torchvision import datasets
    return datasets
