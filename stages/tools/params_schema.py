"""Writes params.schema.json, the JSON schema of params.yaml: `python -m stages.tools.params_schema`.

Editors read it for completion and for marks at mistakes. It is made from the section classes, which remain the truth:
the rules that span several parameters are theirs alone.
"""

import json
from pathlib import Path
from typing import Any

from stages.lib.core.files import write_text
from stages.lib.core.params import CHECKPOINT, Section, schemas

TARGET = Path("params.schema.json")


def main() -> None:
    write_text(TARGET, rendered())


def rendered() -> str:
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"


def json_schema() -> dict[str, Any]:
    """Of the whole file. A definition's name begins with its section's, since sections share the names of classes."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {"scenario": {"type": "string"}}
    tasks: dict[str, Any] = {}
    for name, section in schemas().items():
        schema = _prefixed(section.model_json_schema(), name)
        definitions |= schema.pop("$defs", {})
        own, task = _divided(schema, section)
        properties[name] = own
        if section.of_scenario:
            tasks[name] = task
        if section.of_architecture:
            (architecture, _) = schema["properties"][section.of_architecture]["anyOf"]
            properties["architectures"] = {
                "type": "object",
                "properties": {CHECKPOINT: {"type": "object", "maxProperties": 0}},
                "additionalProperties": architecture,
            }
    properties["scenarios"] = {"type": "object", "additionalProperties": _closed(tasks, sorted(tasks))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        **_closed(properties, sorted(properties)),
        "$defs": definitions,
    }


def _prefixed(schema: dict[str, Any], name: str) -> dict[str, Any]:
    text = json.dumps(schema).replace("#/$defs/", f"#/$defs/{name}.")
    renamed: dict[str, Any] = json.loads(text)
    renamed["$defs"] = {f"{name}.{key}": value for key, value in renamed.get("$defs", {}).items()}
    return renamed


def _divided(schema: dict[str, Any], section: type[Section]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of the section itself, and those of its part in a scenario."""
    required = schema.get("required", [])
    parts = []
    for is_own in (True, False):
        names = [
            name
            for name in schema["properties"]
            if (name not in section.elsewhere() if is_own else name in section.of_scenario)
        ]
        properties = {name: schema["properties"][name] for name in names}
        parts.append(_closed(properties, [name for name in required if name in names]))
    return parts[0], parts[1]


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


if __name__ == "__main__":
    main()
