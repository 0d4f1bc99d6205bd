"""Section `machine`: what fits this computer and cannot change a result, so that no stage declares it."""

from typing import Annotated

from pydantic import Field

from stages.lib.params import Section


class Machine(Section):
    processes: Annotated[int, Field(ge=1)] | None
    generation_batch_size: Annotated[int, Field(ge=1)]
    loader_workers: Annotated[int, Field(ge=0)]
    checkpoint_seconds: Annotated[float, Field(gt=0)]
    gradient_checkpointing: bool
    report_to: list[str]
