"""One frozen, validated value that describes a whole study."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from studies.domains import Fixed, Value
from studies.rules import (
    BOTH_KNOWN,
    OBJECTIVES,
    Direction,
    check_both_known,
    check_folder,
    check_gpus,
    check_model,
    check_objectives,
    check_patience,
    check_storage,
    check_study_name,
    check_timeout,
    parse_duration,
    url_has_password,
)
from studies.sentences import MAPPING_RULE, first_sentence, ruled, sentence_error, shown, unknown_key
from studies.space import FIELDS, METHOD_FIELDS, SearchSpace, canonical_params, parse_space
from studies.stopper import StopperChoice, named_stopper
from studies.training import METHOD_SECTIONS, Training
from trainers.checks import check_integer, check_name
from trainers.config import DataConfig, TrainConfig, check_shared_batch
from trainers.errors import InputError
from trainers.presets import TO_THE_END

__all__ = [
    "OBJECTIVES",
    "SECTIONS",
    "Budget",
    "Checkpoints",
    "Direction",
    "Keep",
    "Resources",
    "Sampler",
    "StartMark",
    "StudySpec",
    "Training",
    "check_study_name",
    "parse_duration",
    "url_has_password",
]

Keep = Literal["running", "front", "all"]
Sampler = Literal["tpe", "nsga2", "gp", "random", "qmc", "known_cost"]
# Marks of a study's start points: the full training, shorter ones at full resolution, and known schedules by name.
StartMark = Literal["baseline", "shorter", "preset"]

# Epochs of the shorter full-resolution start points over those of the baseline. Our own choice: they span the methods' usual gains.
SHORTER_START_FRACS: Final = (0.75, 0.5, 0.35)

# The largest side of a JPEG file.
_LARGEST_SIDE_PX: Final = 65_535
# The largest seed that NumPy takes.
_LARGEST_SEED: Final = 2**32 - 1
_FROZEN: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _parse_dataset(value: object) -> DataConfig:
    try:
        return value if isinstance(value, DataConfig) else _data_config(value)
    except InputError as error:
        raise sentence_error(error) from None


def _data_config(raw: object) -> DataConfig:
    if not isinstance(raw, Mapping):
        raise InputError(f"dataset is {shown(raw)}, {MAPPING_RULE}")
    for key in raw:
        if key not in SECTIONS["dataset"]:
            raise InputError(unknown_key("dataset", key, SECTIONS))
    if "name" not in raw:
        raise InputError("dataset.name is missing, every study needs it")
    check_folder("dataset.root", raw.get("root", "data"))
    check_integer("dataset.split_seed", raw.get("split_seed", 0), lowest=0)
    if raw.get("side_px") is not None:
        check_integer("dataset.side_px", raw["side_px"], lowest=1, highest=_LARGEST_SIDE_PX)
    try:
        return DataConfig(**raw)
    except InputError as error:
        text = str(error).replace("dataset name ", "dataset.name ", 1)
        raise InputError(f"dataset.{text}" if text.split()[0] in SECTIONS["dataset"] else text) from None


def _parse_search(value: object, info: ValidationInfo) -> SearchSpace:
    if isinstance(value, SearchSpace):
        value = value.to_json_dict()
    # A key that was refused is only left out of info.data: its own sentence comes first, so any training and images will do here.
    training = info.data.get("training") or Training()
    dataset = info.data.get("dataset") or DataConfig(name="digits")
    try:
        return parse_space(value, training.searchable, dataset.full_px)
    except InputError as error:
        raise sentence_error(error) from None


def _default_sampler(data: Mapping[str, Any]) -> Sampler:
    """What found the front first on recorded trainings (docs/search.md), and for other objectives, which it doesn't take, the runner-up."""
    return "known_cost" if sorted(data.get("objectives", BOTH_KNOWN)) == sorted(BOTH_KNOWN) else "tpe"


class Budget(BaseModel):
    """How much a study may spend. trials: finished ones, rivals included. timeout: of one launch.

    accelerator_time: that finished trials may have held their devices, in all. patience: ends the search when the last so many finished
    trials have not raised the hypervolume beyond its noise.
    """

    model_config = _FROZEN

    trials: Annotated[int, ruled(partial(check_integer, lowest=1))] = 50
    timeout: Annotated[str | None, ruled(check_timeout)] = None
    accelerator_time: Annotated[str | None, ruled(check_timeout)] = None
    patience: Annotated[int | None, ruled(check_patience)] = None

    @property
    def timeout_s(self) -> int | None:
        """The timeout in seconds."""
        return None if self.timeout is None else parse_duration(self.timeout)

    @property
    def accelerator_time_s(self) -> int | None:
        """The accelerator time in seconds."""
        return None if self.accelerator_time is None else parse_duration(self.accelerator_time)


class Resources(BaseModel):
    """What one trial gets. cpus: cores, hence threads. gpus: devices, each for a rank of its own, or a share of one."""

    model_config = _FROZEN

    cpus: Annotated[int, ruled(partial(check_integer, lowest=1))] = 1
    gpus: Annotated[float, ruled(check_gpus)] = 0

    @property
    def ranks(self) -> int:
        """Processes that share each batch of a trial."""
        return max(1, int(self.gpus))


class Checkpoints(BaseModel):
    """Which checkpoints stay on disk: of `running` trials only, of the `front`'s too, or `all`."""

    model_config = _FROZEN

    keep: Annotated[Keep, ruled(partial(check_name, names=get_args(Keep)))] = "front"


class StudySpec(BaseModel):
    """A study file, validated. Build it with `studies.load_study` or `from_json_dict`, whose errors are single sentences."""

    model_config = _FROZEN

    name: Annotated[str, ruled(check_study_name)]
    dataset: Annotated[DataConfig, PlainValidator(_parse_dataset), PlainSerializer(dataclasses.asdict)]
    model: Annotated[str, ruled(check_model)]
    training: Training = Field(default_factory=Training)
    search: Annotated[SearchSpace, PlainValidator(_parse_search), PlainSerializer(SearchSpace.to_json_dict)]
    objectives: Annotated[tuple[str, ...], ruled(check_objectives)] = BOTH_KNOWN
    sampler: Annotated[Sampler, ruled(partial(check_name, names=get_args(Sampler)))] = Field(default_factory=_default_sampler)
    stopper: Annotated[StopperChoice, BeforeValidator(named_stopper)] = Field(default_factory=StopperChoice)
    budget: Budget = Field(default_factory=Budget)
    resources: Resources = Field(default_factory=Resources)
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    seed: Annotated[int, ruled(partial(check_integer, lowest=0, highest=_LARGEST_SEED))] = 0
    storage: Annotated[str | None, ruled(check_storage)] = None

    @model_validator(mode="after")
    def _gpus_share_batches(self) -> Self:
        try:
            check_shared_batch("training.batch_size", self.training.batch_size, self.resources.ranks)
        except InputError as error:
            raise sentence_error(error) from None
        return self

    @model_validator(mode="after")
    def _search_takes_the_objectives(self) -> Self:
        try:
            if self.sampler == "known_cost":
                check_both_known("sampler", self.sampler, self.objectives, instead="tpe")
            if self.stopper.name != "none":
                check_both_known("stopper", self.stopper.name, self.objectives, instead="none")
            if self.budget.patience is not None:
                check_both_known("budget.patience", self.budget.patience, self.objectives)
        except InputError as error:
            raise sentence_error(error) from None
        return self

    @model_validator(mode="after")
    def _methods_are_used_and_go_together(self) -> Self:
        for key, settings in self.training.methods.items():
            if settings != type(settings)() and self.search[key] == Fixed("none"):
                given = shown(dataclasses.asdict(settings))
                raise sentence_error(InputError(f"training.{key} is {given}, it must have another name, or search.{key} one, to be used"))
        for names in itertools.product(*(self.search[key].members or () for key in METHOD_FIELDS)):
            try:
                self.train_config(self.baseline_params() | dict(zip(METHOD_FIELDS, names, strict=True)), 0)
            except InputError as error:
                raise sentence_error(InputError(f"search.{error}")) from None
        return self

    @classmethod
    def from_json_dict(cls, raw: object) -> StudySpec:
        """The spec of a mapping as a study file or `to_json_dict` gives it; InputError in one sentence for whatever is wrong."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise InputError(first_sentence(error, SECTIONS)) from None

    def to_json_dict(self) -> dict[str, Any]:
        """All keys, defaults written out, in types that JSON has; `from_json_dict` reads it back equal."""
        return self.model_dump(mode="json")

    def train_config(
        self,
        params: Mapping[str, Value],
        seed: int,
        *,
        device: str = "auto",
        threads: int | None = None,
        checkpoint: str | None = None,
        root: str | None = None,
    ) -> TrainConfig:
        """The training of one trial; InputError where `params` is no point of the search space. root: of the images, else the study's."""
        complete = self.search.complete(params)
        return TrainConfig(
            model=self.model,
            data=self.dataset if root is None else dataclasses.replace(self.dataset, root=root),
            schedule=self.search.schedule(complete, seed),
            seed=seed,
            device=device,
            threads=threads,
            ranks=self.resources.ranks,
            checkpoint=checkpoint,
            **self.training.with_searched(complete),
        )

    def baseline_params(self) -> dict[str, Value]:
        """Parameters of the study's full training: full resolution, all epochs."""
        return self._full_resolution_params(self.training.epochs)

    def start_points(self) -> list[tuple[dict[str, Value], StartMark]]:
        """What every study tries first: the baseline, shorter full-resolution runs, then the presets that are searched, each once."""
        points: list[tuple[dict[str, Value], StartMark]] = [(self.baseline_params(), "baseline")]
        for frac in SHORTER_START_FRACS:
            params = self._full_resolution_params(self.search["epochs"].nearest(frac * self.training.epochs))
            if params not in [earlier for earlier, _ in points]:
                points.append((params, "shorter"))
        presets = [name for name in self.search["preset"].members or () if name != "none"]
        return points + [(self._preset_params(name), "preset") for name in presets]

    def _full_resolution_params(self, epochs: int) -> dict[str, Value]:
        training = self.training.searchable | {"epochs": epochs}
        params = {field: domain.canonical for field, domain in self.search.items()} | {"frequency": 0.0} | training
        return canonical_params(self.search, params)

    def _preset_params(self, name: str) -> dict[str, Value]:
        params = {field: domain.canonical for field, domain in self.search.items()} | self.training.searchable
        params |= {"frequency": self.search["frequency"].highest, "preset": name}
        if name in TO_THE_END and self.search["batch_norm"].contains("separate"):
            params["batch_norm"] = "separate"
        return canonical_params(self.search, params)


# Keys of each mapping of a study file; "" is the top level.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "": tuple(StudySpec.model_fields),
    "dataset": tuple(field.name for field in dataclasses.fields(DataConfig)),
    "training": tuple(Training.model_fields),
    "search": FIELDS,
    "stopper": tuple(StopperChoice.model_fields),
    "budget": tuple(Budget.model_fields),
    "resources": tuple(Resources.model_fields),
    "checkpoints": tuple(Checkpoints.model_fields),
    **METHOD_SECTIONS,
}
