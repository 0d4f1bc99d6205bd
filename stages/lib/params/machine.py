"""Section `machine`: what fits this computer and can't change a result, so no stage declares it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from stages.lib.core.params import Section

Count = Annotated[int, Field(ge=1)]


class Machine(Section):
    data_workers: Count | None
    loader_workers: Annotated[int, Field(ge=0)]
    generation_batch_tokens: Count | None
    checkpoint_seconds: Annotated[float, Field(gt=0)]
    gradient_checkpointing: bool
    report_to: list[str]
    train_processes: Count
    nodes: Count
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")] | None
    sharded: bool
    tune_workers: Count
    predict_processes: Count
    study_database: Annotated[str, Field(pattern=r"^\w+(\+\w+)?://")] | None

    @property
    def world_size(self) -> int:
        """Processes that train one model together, on all nodes."""
        return self.train_processes * self.nodes

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("rendezvous: several nodes need an address to meet at, host:port of one of them")
        return self

    @model_validator(mode="after")
    def _shards_have_processes(self) -> Self:
        if self.sharded and self.world_size == 1:
            raise ValueError("sharded: one process holds the whole model; raise train_processes, or write false")
        return self
