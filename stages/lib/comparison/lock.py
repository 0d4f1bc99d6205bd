"""What dvc.lock says that a run has read."""

from collections.abc import Mapping
from typing import Any, Self

from ruamel.yaml import YAML

from stages.lib.comparison.run import flat
from stages.lib.core.process import UserError

Value = int | float  # of a parameter


class Lock:
    """The stages of a run, each with its parameters, and the hashes of what it has read and written."""

    def __init__(self, stages: Mapping[str, Any]) -> None:
        self._stages = stages
        self._made = {out["path"]: _hash(out) for entry in stages.values() for out in entry.get("outs", ())}

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(YAML(typ="safe", pure=True).load(text)["stages"])

    def inputs(self) -> dict[tuple[str, str], Any]:
        """Stage and name -> the value or hash of each parameter, and of each path that no stage has made."""
        found: dict[tuple[str, str], Any] = {}
        for stage, entry in self._stages.items():
            for values in entry.get("params", {}).values():
                found |= {(stage, name): value for name, value in flat(values)}
            deps = [dep for dep in entry.get("deps", ()) if dep["path"] not in self._made]
            found |= {(stage, dep["path"]): _hash(dep) for dep in deps}
            found[stage, "cmd"] = entry["cmd"]
        return found

    def inputs_but_for(self, parameter: str) -> dict[tuple[str, str], Any]:
        return {place: value for place, value in self.inputs().items() if place[1] != parameter}

    def value(self, parameter: str) -> Value:
        """Raises UserError if no stage has read the parameter."""
        for (_, name), value in self.inputs().items():
            if name == parameter:
                number: Value = value
                return number
        raise UserError(f"{parameter}: this run is older than the parameter: run `make repro`, and commit dvc.lock")

    def is_whole(self) -> bool:
        """Whether each stage has run with what the stages before it have made, and all of them with one value of each
        parameter. Of an experiment that has run some stages only, the others are from before."""
        names: dict[str, Any] = {}
        for entry in self._stages.values():
            if any(self._made.get(dep["path"], _hash(dep)) != _hash(dep) for dep in entry.get("deps", ())):
                return False
            for values in entry.get("params", {}).values():
                for name, value in flat(values):
                    if names.setdefault(name, value) != value:
                        return False
        return True


def _hash(path: Mapping[str, Any]) -> Any:
    return path.get("md5", path)
