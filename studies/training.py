"""How a study's baseline is trained: the fields of TrainConfig that a study file may set, methods and their settings among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from studies.domains import Value
from studies.sentences import rule_error, sentence_error, shown, unknown_key
from studies.space import TRAINING_FIELDS
from trainers.config import Augmentation, DataConfig, LrCurve, Optimizer, Precision, TrainConfig
from trainers.errors import InputError
from trainers.methods.settings import SETTINGS, FilterSparsity, Grouping, MethodSettings, WeightSampling

_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
# Keys of the mapping that each method may be.
METHOD_SECTIONS: Final = {
    f"training.{key}": tuple(field.name for field in dataclasses.fields(settings)) for key, settings in SETTINGS.items()
}


class Training(BaseModel):
    """The baseline's training: the fields of TrainConfig that a study file may set, with its defaults and its rules.

    A method is its name, or a mapping of its name and settings, which hold for every name that is searched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    epochs: int = _DEFAULTS["epochs"]
    batch_size: int = _DEFAULTS["batch_size"]
    optimizer: Optimizer = _DEFAULTS["optimizer"]
    lr: float = _DEFAULTS["lr"]
    weight_decay: float = _DEFAULTS["weight_decay"]
    momentum: float = _DEFAULTS["momentum"]
    lr_curve: LrCurve = _DEFAULTS["lr_curve"]
    label_smoothing: float = _DEFAULTS["label_smoothing"]
    augment: tuple[Augmentation, ...] = _DEFAULTS["augment"]
    precision: Precision = _DEFAULTS["precision"]
    compile: bool = _DEFAULTS["compile"]
    accumulate: int = _DEFAULTS["accumulate"]
    weight_sampling: WeightSampling = Field(default_factory=WeightSampling)
    grouping: Grouping = Field(default_factory=Grouping)
    filter_sparsity: FilterSparsity = Field(default_factory=FilterSparsity)

    @field_validator(*SETTINGS, mode="before")
    @classmethod
    def _as_settings(cls, value: object, info: ValidationInfo) -> MethodSettings:
        try:
            return _method_settings(str(info.field_name), value)
        except InputError as error:
            raise sentence_error(error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _as_in_train_config(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name in SETTINGS:
            return value
        try:
            if info.field_name == "augment" and not isinstance(value, list | tuple):
                raise InputError(f"augment is {shown(value)}, it must be a list of any of {', '.join(get_args(Augmentation))}")
            TrainConfig(model="any", data=DataConfig(name="digits"), **{str(info.field_name): value})
            if info.field_name == "augment" and len(set(value)) < len(value):
                raise InputError(f"augment is {shown(value)}, it must list each only once")
        except InputError as error:
            raise rule_error(error) from None
        return value

    @property
    def methods(self) -> dict[str, MethodSettings]:
        """By their key."""
        return {key: getattr(self, key) for key in SETTINGS}

    @property
    def searchable(self) -> dict[str, Value]:
        """The baseline's values of what a search may choose beside the schedule; of a method that is its name."""
        names = {key: settings.name for key, settings in self.methods.items()}
        return {field: getattr(self, field) for field in TRAINING_FIELDS} | names

    def with_searched(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """The fields of a TrainConfig, those that are searched as in `params`."""
        methods = {key: dataclasses.replace(settings, name=params[key]) for key, settings in self.methods.items()}
        return dict(self) | {field: params[field] for field in TRAINING_FIELDS} | methods


def _method_settings(key: str, raw: object) -> MethodSettings:
    kind, section = SETTINGS[key], f"training.{key}"
    if isinstance(raw, kind):
        return raw
    if isinstance(raw, Mapping):
        for name in raw:
            if name not in METHOD_SECTIONS[section]:
                raise InputError(unknown_key(section, name, METHOD_SECTIONS))
    try:
        return kind(**raw) if isinstance(raw, Mapping) else kind(name=raw)  # type: ignore[arg-type]  # checked there
    except InputError as error:
        raise InputError(f"training.{error}") from None
