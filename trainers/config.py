"""What one training is: everything `train` needs, as frozen values that pickle, compare and travel to a worker. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from trainers.checks import check_integer, check_name, check_number
from trainers.errors import InputError
from trainers.methods.settings import FilterSparsity, Grouping, WeightSampling, check_together
from trainers.schedule import Schedule

DatasetName = Literal["digits", "cifar10", "cifar100", "fashion_mnist", "folder"]
Augmentation = Literal["crop", "flip", "cutout"]
Optimizer = Literal["sgd", "adamw", "adam"]
LrCurve = Literal["one_cycle", "cosine"]
Precision = Literal["fp32", "bf16"]

# Side in pixels of the datasets that have one of their own.
DATASET_SIDE_PX: Final = {"digits": 32, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28}
DEFAULT_VAL_FRAC: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which images.

    name: one of DatasetName.
    root: folder that holds the files (`folder`: with train/<class>/ and, to confirm, test/<class>/ or val/<class>/ below it).
    side_px: full side of the images; only `folder` needs it, the others have their own.
    train_images, val_images: how many images to draw, class-balanced, from the dataset's training part; default: a tenth of it
        for validation, all the rest for training.
    split_seed: of that draw; part of what an accuracy means, so apart from a trial's seed.
    """

    name: DatasetName
    root: str = "data"
    side_px: int | None = None
    train_images: int | None = None
    val_images: int | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_name("dataset name", self.name, get_args(DatasetName))
        for name in ("side_px", "train_images", "val_images"):
            value = getattr(self, name)
            if value is not None:
                check_integer(name, value, lowest=1)
        if self.name == "folder" and self.side_px is None:
            raise InputError("dataset 'folder' needs side_px, the full side of its images in pixels")
        if self.name != "folder" and self.side_px is not None:
            raise InputError(f"side_px is {self.side_px}, but only dataset 'folder' takes it: '{self.name}' has a side of its own")

    @property
    def full_px(self) -> int:
        """Full side of the images in pixels."""
        return DATASET_SIDE_PX[self.name] if self.side_px is None else self.side_px


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run.

    model: a network of trainers.models, a torchvision classifier, or the user's `module:factory`.
    batch_size: images a step. lr: peak of the learning-rate curve. weight_decay: on weights of convolutions and linear layers only.
    momentum: of SGD (Nesterov); adam and adamw keep their defaults. adam's weight decay is L2 regularisation, added to the gradient.
    label_smoothing: share in [0, 1).
    augment: any of crop (shift by up to an eighth of the side), flip, cutout (a square of a quarter of the side).
    precision: bf16 is autocast on CUDA only. compile: with torch.compile, one graph for each kind of step.
    accumulate: micro-batches a step, of ceil(its images / accumulate) images each, for what doesn't fit into memory; their gradients are
        those of the whole batch, their batch-norm statistics are their own.
    seed: of initial weights, order, augmentation and stochastic schedules.
    device: `auto` takes CUDA where there is one. threads: CPU threads of torch; None leaves torch's own choice.
    ranks: processes that share every batch equally, each on a GPU of its own (on a CPU: with a share of the threads); batch-norm
        statistics are those of each rank's part.
    checkpoint: place (a folder or fsspec URL, see trainers.places) whose newest checkpoint the training goes on from, whichever attempt
        wrote it, and to which it writes one after every epoch; None writes nothing. attempt: under whose number, from 1.
    weight_sampling, grouping, filter_sparsity: methods that join the training beside its schedule (trainers/methods).
    """

    model: str
    data: DataConfig
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    lr: float = 0.2
    weight_decay: float = 5e-4
    momentum: float = 0.9
    lr_curve: LrCurve = "one_cycle"
    label_smoothing: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    precision: Precision = "fp32"
    compile: bool = False
    accumulate: int = 1
    weight_sampling: WeightSampling = field(default_factory=WeightSampling)
    grouping: Grouping = field(default_factory=Grouping)
    filter_sparsity: FilterSparsity = field(default_factory=FilterSparsity)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    ranks: int = 1
    checkpoint: str | None = None
    attempt: int = 1

    def __post_init__(self) -> None:
        check_name("optimizer", self.optimizer, get_args(Optimizer))
        check_name("lr_curve", self.lr_curve, get_args(LrCurve))
        check_name("precision", self.precision, get_args(Precision))
        for augmentation in self.augment:
            check_name("augment", augmentation, get_args(Augmentation))
        if not isinstance(self.compile, bool):
            raise InputError(f"compile is {self.compile!r}, it must be true or false")
        for name in ("epochs", "batch_size", "accumulate", "ranks", "attempt"):
            check_integer(name, getattr(self, name), lowest=1)
        check_shared_batch("batch_size", self.batch_size, self.ranks)
        check_number("lr", self.lr, above=0)
        check_number("weight_decay", self.weight_decay)
        check_number("momentum", self.momentum, high=1)
        check_number("label_smoothing", self.label_smoothing, high=1)
        check_integer("seed", self.seed, lowest=0)
        check_together(self.grouping, self.filter_sparsity)


def check_shared_batch(what: str, batch_size: int, ranks: int) -> None:
    """InputError unless `ranks` processes can share a batch equally; `what` says what the batch size is called."""
    if batch_size % ranks:
        nearest = max(1, (2 * batch_size + ranks) // (2 * ranks)) * ranks
        rule = f"it must be a multiple of {ranks}, the ranks (GPUs) that share it"
        raise InputError(f"{what} is {batch_size}, {rule}; the nearest is {nearest}")
