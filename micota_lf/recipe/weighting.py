"""The merge weight: a number, one for each layer, or one for each part of a layer, as mergekit takes them.

    weight: 0.5
    weight: [0.3, 0.6]                              # from the first layer to the last, on a straight line
    weight: [{filter: mlp, value: 0.6}, {value: 0.4}] # by names of tensors; the first that fits counts

What belongs to no layer (embeddings, last norm, head) has the first number of a list (mergekit/plan.py).
"""

from typing import Annotated, Any, NotRequired

from annotated_types import MinLen
from pydantic import BeforeValidator, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from ..system.fields import CONFIG


@with_config(CONFIG)
class PartWeight(TypedDict):
    """The weight, or those by layer, of all tensors whose names hold `filter`; without it, of all others."""

    value: float | list[float]
    filter: NotRequired[str]


Given = float | Annotated[list[float], MinLen(1)] | Annotated[list[PartWeight], MinLen(1)]
GIVEN: TypeAdapter[Any] = TypeAdapter(Given, config=CONFIG)


def _known(value: Any) -> Any:
    try:
        found = GIVEN.validate_python(value)
    except ValidationError:
        raise ValueError(
            "is neither a number, nor numbers by layer, nor entries of `value` and `filter`"
        ) from None
    if isinstance(found, list) and isinstance(found[-1], dict) and "filter" in found[-1]:
        raise ValueError("lacks a last entry without `filter`, for all other tensors")
    return found


Weight = Annotated[Given, BeforeValidator(_known)]
