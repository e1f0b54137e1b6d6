"""Who ends a study's weak trials early: the key `stopper` of a study file, a name or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from studies.sentences import rule_error, ruled, sentence_error, shown
from trainers.checks import check_name, check_number
from trainers.errors import InputError

StopperName = Literal["none", "dominance", "pareto_asha"]

# Our own choice: needs 19 completed trials before anything is stopped.
_CONFIDENCE: Final = 0.95
_LOWEST, _HIGHEST = 0.5, 0.999


class StopperChoice(BaseModel):
    """name: of the stopper. confidence: of dominance, that a trial it stops would not have reached the front; None for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[StopperName, ruled(partial(check_name, names=get_args(StopperName)))] = "none"
    confidence: Annotated[float | None, Field(validate_default=True)] = None

    @field_validator("confidence", mode="before")
    @classmethod
    def _of_dominance(cls, value: Any, info: ValidationInfo) -> Any:
        # A name that was refused is only left out of info.data: its own sentence comes first.
        name = info.data.get("name", "dominance")
        if value is None:
            return _CONFIDENCE if name == "dominance" else None
        try:
            check_number("confidence", value, low=_LOWEST, high=_HIGHEST)
            if name != "dominance":
                raise InputError(f"confidence is {shown(value)}, it must be left out, because only the stopper dominance has one")
        except InputError as error:
            raise rule_error(error) from None
        return value


def named_stopper(value: object) -> object:
    """A bare name as the mapping that it stands for; for pydantic."""
    try:
        if isinstance(value, str):
            check_name("stopper", value, get_args(StopperName))
            return {"name": value}
        if not isinstance(value, Mapping | StopperChoice):
            raise InputError(f"stopper is {shown(value)}, it must be one of {', '.join(get_args(StopperName))}, or a mapping with a name")
    except InputError as error:
        raise sentence_error(error) from None
    return value
