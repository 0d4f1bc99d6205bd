"""The model card: README.md beside the weights, with the metadata that a model hub reads.

No text of the data is in it: a card is published more often than the data.
"""

import json
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core.markdown import table
from stages.lib.records.examples import SPLITS
from stages.lib.reports.numbers import decimals, finite, fixed, flattened, in_words, plain, span
from stages.lib.reports.search import summary

Figures = Mapping[str, Any]

# names of metrics on the hub, where they are not ours
_METRICS = {
    **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), "rouge"),
    **dict.fromkeys(("macro_f1", "token_f1"), "f1"),
}
_PIPELINES = {
    "causal": "text-generation",
    "seq2seq": "text2text-generation",
    "bert2bert": "text2text-generation",
    "classifier": "text-classification",
}
_IMPORTS = ["import json", "from pathlib import Path", ""]
_PROMPT = [
    "",
    'prompt = json.loads(Path(FOLDER, "prompt.json").read_text())',
    'text = prompt["template"].replace("{source}", source)',
]
_USE = {
    "text-generation": [
        "from transformers import pipeline",
        "",
        'ask = pipeline("text-generation", FOLDER)',
        'ask([{"role": "user", "content": source}])[0]["generated_text"][-1]["content"]',
    ],
    "text-classification": [
        *_IMPORTS,
        "from transformers import pipeline",
        *_PROMPT,
        'pipeline("text-classification", FOLDER)(text)',
    ],
    "text2text-generation": [
        *_IMPORTS,
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        *_PROMPT,
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        "model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER)",
        'inputs = tokenizer(text, add_special_tokens=prompt["add_special_tokens"], return_tensors="pt")',
        "tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)",
    ],
}


def model_card(figures: Figures) -> str:
    """Markdown with a head of YAML.

    `figures` are those of `pages.report_page`, with class (causal, seq2seq, bert2bert or classifier) and base_model
    (its name on the hub, or None). Of params, it reads prepare and predict.
    """
    metadata = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.dump(_metadata(figures), metadata)
    return "\n".join(["---", metadata.getvalue().rstrip(), "---", *_text(figures), ""])


def _metadata(figures: Figures) -> dict[str, Any]:
    base = figures["base_model"]
    return {
        **({"base_model": base} if base else {}),
        "library_name": "transformers",
        "pipeline_tag": _PIPELINES[figures["class"]],
        **({"model-index": [{"name": figures["task"], "results": [_results(figures)]}]} if figures["scores"] else {}),
    }


def _results(figures: Figures) -> dict[str, Any]:
    return {
        "task": {"type": _PIPELINES[figures["class"]], "name": figures["task"].replace("_", " ")},
        "dataset": {"type": figures["task"], "name": figures["task"], "split": "test"},
        "metrics": [
            {
                "type": _METRICS.get(name, name),
                "name": name,
                "value": float(f"{score['score']:.6g}"),
                "args": {"signature": score["signature"]},
            }
            for name, score in figures["scores"].items()
        ],
    }


def _text(figures: Figures) -> Iterator[str]:
    size = f"{figures['examples']:,} test examples"
    groups = f" in {figures['groups']:,} groups" if figures["groups"] != figures["examples"] else ""
    yield from (
        f"# {figures['task'].replace('_', ' ').capitalize()}",
        "",
        f"The model before training: {figures['model']}.",
    )
    header = ("score", "better", "result", "95 % interval", "before training", "ceiling", "highest floor")
    named = {name: figures["scores"][name] for name in figures["headline"]} | figures["scores"]
    if named:
        yield from table(f"Results on {size}{groups}", header, (_row(*score) for score in named.items()))
        yield from ("", "The interval says how far chance in the choice of the test examples moves a score.")
    else:
        yield from ("", f"## Results on {size}{groups}")
    if figures["notes"]:
        yield from ("", *(f"- {note}" for note in figures["notes"]))
    if figures["goals"]:
        rows = [
            (name, plain(goal["goal"]), goal["verdict"], goal["needs"] or "") for name, goal in figures["goals"].items()
        ]
        yield from table("Goals", ("score", "goal", "verdict", "test examples that would decide it"), rows)
    yield from table("Signs of broken output", header[:4], (_row(*sign)[:4] for sign in figures["diagnostics"].items()))
    yield from _limits(figures)
    yield from _use(figures)
    yield from table("Data", ("", *SPLITS), _data(figures["prepare"]))
    yield from table(
        "Training", ("", ""), [(in_words(name), plain(value)) for name, value in flattened(figures["train"])]
    )
    if searched := list(summary(figures["tune_hyperparameters"])):
        yield from ("", f"Settings were searched for on validation. {' '.join(searched)}")
    yield from table("Settings", ("parameter", "value"), [(name, plain(v)) for name, v in flattened(figures["params"])])


def _row(name: str, score: Figures) -> tuple[str, ...]:
    low, high = finite(score.get("low")), finite(score.get("high"))
    places = decimals(score["score"], low, high)
    floors = score.get("floors", {}).items()
    pick = min if score["better"] == "lower" else max
    floor = pick(floors, key=lambda entry: entry[1], default=None)
    before, ceiling = (score.get(name) for name in ("before_training", "ceiling"))
    return (
        f"`{name}`",
        score["better"],
        fixed(score["score"], places),
        span(low, high, places),
        "" if before is None else fixed(before, places),
        "" if ceiling is None else fixed(ceiling, places),
        f"{fixed(floor[1], places)} ({in_words(floor[0])})" if floor else "",
    )


def _limits(figures: Figures) -> Iterator[str]:
    yield from ("", "## Limits", "")
    yield "- It was tried on texts like those of its training alone; nothing is known about others."
    faulty = sum(bool(own["faults"]) for own in figures["predictions"])
    if faulty:
        share = f"{faulty:,} of {len(figures['predictions']):,}"
        yield f"- Faults were found in {share} test outputs, such as what the source does not say, or what is left out."


def _use(figures: Figures) -> Iterator[str]:
    """For who has the folder that export_model writes."""
    prepare, predict = figures["params"]["prepare"], figures["params"]["predict"]
    pipeline = _PIPELINES[figures["class"]]
    yield from ("", "## Use", "", "```python", *_USE[pipeline], "```", "")
    yield f"`FOLDER` is this folder, and `source` is {_source(prepare, pipeline)}. {_wording(pipeline)}"
    if prepare["labels"] and pipeline != "text-classification":
        yield "The results are the likeliest of the `labels` in `prompt.json`, not what `generate` writes."
    yield f"Decoding of the results: {predict['strategy']}, at most {predict['max_new_tokens']} new tokens."


def _source(prepare: Figures, pipeline: str) -> str:
    if prepare["messages"] and pipeline == "text-generation":
        return "what the user says; a conversation can have more messages before it"
    if prepare["messages"]:
        return "a conversation, a turn a line, such as `user: Hello`"
    if prepare["source"] is None:
        return "the opening of the text"
    found = prepare["source"]
    template = found if isinstance(found, str) else found.get("test", found["train"])
    return f"a text in the form of `{json.dumps(template, ensure_ascii=False)}`"


def _wording(pipeline: str) -> str:
    place = "The chat template" if pipeline == "text-generation" else "`prompt.json`"
    return f"{place} has the wording of training around it, and `generation_config.json` the decoding."


def _data(prepare: Figures) -> Iterator[tuple[str, ...]]:
    for name, values in prepare.items():
        if isinstance(values, Mapping) and values.keys() == set(SPLITS):
            yield (in_words(name), *(plain(values[split]) for split in SPLITS))
    for name in ("rows_read", "rows_kept", "rows_rejected"):
        yield (f"{in_words(name)}, all splits", plain(prepare[name]), "", "")
