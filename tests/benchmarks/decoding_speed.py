"""Speed of decoding against transformers' `generate` and `pipeline`, for prompts of the sample.

Run: `python -m tests.benchmarks.decoding_speed [--model FOLDER] [--prompts N] [--rounds N] [--conversations [FILE]]`.
The model is the one that `make repro` has trained, unless a folder of a causal model is named; one with a chat template
is asked in it. With `--conversations`, the prompts are the questions of the sample of dialogue, or of a file like it,
each with all turns before it.

Claims: more texts a second than a plain loop of `generate` over batches of 64 sources or more, alike in length, and 5
times as many as `pipeline` with its defaults; the same texts; 5 beams within 4 times the greedy time. All contenders
run in turn; medians of processor time are compared.
"""

import argparse
import csv
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextGenerationPipeline,
)

from stages.lib.core.process import keep_freed_memory
from stages.lib.generation.decoding import Decoder, Prompt
from stages.lib.generation.settings import generation_config
from stages.lib.models.devices import uses_bfloat16
from stages.lib.models.families import interface_of
from stages.lib.params.predict import Predict
from tests.build import PROJECT, section

TEXTS = PROJECT / "data/raw/data_to_text/places.csv"
CONVERSATIONS = PROJECT / "data/raw/dialogue/conversations.jsonl"
MAX_NEW_TOKENS, BATCH, BEAMS = 96, 64, 5

Texts = list[str]
Messages = list[dict[str, str]]


class Contest:
    def __init__(self, folder: Path, prompts: int, conversations: Path | None) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.network.config.pad_token_id = self.tokenizer.pad_token_id
        form = "Describe this place in a sentence. {}" if self.tokenizer.chat_template else "{}"
        asked = questions(conversations) if conversations else descriptions(form)
        self.prompts = [Prompt(self.ids(messages), str(number)) for number, messages in enumerate(asked[:prompts])]
        longest = max(len(prompt.ids) for prompt in self.prompts)
        self.batch_tokens = BATCH * (longest + MAX_NEW_TOKENS)

    def ids(self, messages: Messages) -> list[int]:
        if not self.tokenizer.chat_template:
            return list(self.tokenizer("".join(message["content"] + "\n" for message in messages))["input_ids"])
        asked: Any = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(asked["input_ids"])

    def generated(self, part: Sequence[int], config: Any) -> list[list[int]]:
        sources = [self.prompts[place].ids for place in part]
        batch = interface_of(self.network).generation_inputs(self.network, sources, self.tokenizer.pad_token_id)
        generate: Any = self.network.generate
        return generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :].tolist()

    def decoder(self, strategy: str = "greedy", precision: str = "float32") -> Decoder:
        network = self.network if precision == "float32" else deepcopy(self.network)
        params = settings(strategy, precision)
        width = BEAMS if strategy == "beam" else 1
        return Decoder(network, self.tokenizer, self.prompts, [], params, width * self.batch_tokens)

    def ours(self, strategy: str, precision: str = "float32") -> Callable[[], Texts]:
        decoder = self.decoder(strategy, precision)

        def run() -> Texts:
            texts: dict[int, str] = {}
            for part in decoder.parts:
                texts |= zip(part, (own.text for own in decoder.decode(part)), strict=True)
            return [texts[place] for place in range(len(texts))]

        return run

    def loop(self, strategy: str) -> Callable[[], Texts]:
        """Plain `generate`, over batches as large as ours, alike in length."""
        parts = self.parts_by_length()
        config = generation_config(self.network.generation_config, settings(strategy))

        def run() -> Texts:
            texts: dict[int, str] = {}
            for part in parts:
                texts |= zip(part, map(self.text, self.generated(part, config)), strict=True)
            return [texts[place] for place in range(len(texts))]

        return run

    def parts_by_length(self) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for place in sorted(range(len(self.prompts)), key=lambda place: -len(self.prompts[place].ids)):
            longest = len(self.prompts[[*parts[-1], place][0]].ids)
            if (len(parts[-1]) + 1) * (longest + MAX_NEW_TOKENS) > self.batch_tokens:
                parts.append([])
            parts[-1].append(place)
        return parts

    def pipeline(self) -> Callable[[], Texts]:
        """One prompt after the other, as `pipeline` does it unless it is asked for batches."""
        pipe = TextGenerationPipeline(model=self.network, tokenizer=self.tokenizer)
        config = generation_config(self.network.generation_config, settings("greedy"))
        sources: Any = [self.tokenizer.decode(prompt.ids) for prompt in self.prompts]

        def run() -> Texts:
            found: Any = pipe(sources, generation_config=config, return_full_text=False)
            return [own[0]["generated_text"].strip() for own in found]

        return run

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def descriptions(form: str) -> list[Messages]:
    with TEXTS.open(newline="") as lines:
        return [[{"role": "user", "content": form.format(row["facts"])}] for row in csv.DictReader(lines)]


def questions(file: Path) -> list[Messages]:
    conversations = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    return [own[:turn] for own in conversations for turn in range(len(own)) if own[turn]["role"] == "assistant"]


def settings(strategy: str, precision: str = "float32") -> Predict:
    return section(Predict, strategy=strategy, max_new_tokens=MAX_NEW_TOKENS, beams=BEAMS, precision=precision)


def seconds(run: Callable[[], Texts]) -> tuple[float, Texts]:
    started = time.process_time()
    texts = run()
    return time.process_time() - started, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PROJECT / "data/train/model")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=Path, nargs="?", const=CONVERSATIONS)
    arguments = parser.parse_args()
    keep_freed_memory()
    contest = Contest(arguments.model, arguments.prompts, arguments.conversations)
    contenders = {
        "greedy": contest.ours("greedy"),
        "greedy, generate": contest.loop("greedy"),
        "greedy, pipeline": contest.pipeline(),
        "5 beams": contest.ours("beam"),
        "5 beams, generate": contest.loop("beam"),
        "sample": contest.ours("sample"),
    }
    if uses_bfloat16("auto", "predict"):
        contenders["greedy, bfloat16"] = contest.ours("greedy", "bfloat16")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    texts: dict[str, Texts] = {}
    for number in range(arguments.rounds):
        for name, run in contenders.items():
            taken, texts[name] = seconds(run)
            times[name].append(taken)
            print(f"round {number + 1}: {name}: {taken:.2f} s", flush=True)
    medians = {name: statistics.median(own) for name, own in times.items()}
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {arguments.model.name}")
    for name, median in medians.items():
        print(f"{name:20} {len(contest.prompts) / median:7.1f} texts/s")
    for one, other in (
        ("greedy, generate", "greedy"),
        ("greedy, pipeline", "greedy"),
        ("5 beams", "greedy"),
        ("5 beams, generate", "5 beams"),
        ("greedy", "greedy, bfloat16"),
        ("sample", "greedy"),
    ):
        if other in medians:
            print(f"{one} / {other}: {medians[one] / medians[other]:.2f} times")
    for one, other in (
        ("greedy", "greedy, generate"),
        ("greedy", "greedy, pipeline"),
        ("5 beams", "5 beams, generate"),
        ("greedy", "greedy, bfloat16"),
    ):
        if other in texts:
            equal = sum(map(str.__eq__, texts[one], texts[other]))
            print(f"{one} = {other}: {equal} of {len(contest.prompts)} texts")


if __name__ == "__main__":
    main()
