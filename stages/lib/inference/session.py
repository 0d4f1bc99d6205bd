"""Questions and answers in a terminal, or line by line through a pipe."""

import math
import sys
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from stages.lib.core.templates import RejectedRow
from stages.lib.generation.decoding import Prompt, decode
from stages.lib.generation.sampling import sample_seed
from stages.lib.generation.settings import generation_config
from stages.lib.inference.prompt_lookup import with_prompt_lookup
from stages.lib.inference.prompts import Asked, Prompts
from stages.lib.inference.trained import Trained
from stages.lib.models.devices import place_network
from stages.lib.models.families import interface_of

NEW = "/new"  # begins a conversation anew


class Session:
    """Keeps the turns of a conversation. Samples differ with the number of the question."""

    def __init__(self, model: Trained) -> None:
        self._model, self._prompts = model, Prompts(model.tokenizer, model.settings)
        place_network(model.network, "generate")
        model.network.eval()
        self._messages: list[dict[str, str]] = []
        self._number = 0

    def run(self) -> None:
        """Until the input ends."""
        if sys.stdin.isatty():
            with suppress(ImportError):  # some systems have none
                import_module("readline")  # lines can be edited
            print(f"{self._welcome()} Ctrl-D ends.")
        for texts in iter(self._read, None):
            if self._prompts.is_conversation and texts == [NEW]:
                self._messages = []
                continue
            try:
                self._answer(texts)
            except RejectedRow as problem:
                print(problem.detail, file=sys.stderr)
            except KeyboardInterrupt:  # of this answer
                print()

    def _welcome(self) -> str:
        if self._prompts.is_conversation:
            return f"{self._model.settings.scenario}: a conversation; {NEW} begins another one."
        return f"{self._model.settings.scenario}: write {', then '.join(self._prompts.fields)}."

    def _read(self) -> list[str] | None:
        """A line for each field; None at the end of the input."""
        names = ["user"] if self._prompts.is_conversation else self._prompts.fields
        try:
            return [input(f"{name}: " if sys.stdin.isatty() else "") for name in names]
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                print()
            return None

    def _answer(self, texts: list[str]) -> None:
        """Raises RejectedRow if prepare or tokenize would reject this row."""
        (asked,) = self._prompts.ask([self._prompts.example(self._prompts.row(texts, self._messages))])
        if isinstance(asked, RejectedRow):
            raise asked
        answer = self._written(asked)
        self._messages += [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": answer}]
        self._number += 1

    def _written(self, asked: Asked) -> str:
        """What has been printed, too."""
        settings = self._model.settings
        params = settings.predict
        # others are known when they have ended, or `generate` has no such setting
        is_plain = not settings.labels and params.candidates == 1 and not params.stop and not params.is_constrained
        if is_plain and params.strategy != "beam":
            return self._streamed(asked)
        prompt = Prompt(asked.ids, str(self._number))
        network, tokenizer = self._model.network, self._model.tokenizer
        (decoded,) = decode(network, tokenizer, [prompt], params, None, title=None, labels=settings.labels)
        chance = f"  {math.exp(decoded.log_probability):.3f}" if settings.labels else ""
        print(f"{decoded.text}{chance}", flush=True)
        return decoded.text

    def _streamed(self, asked: Asked) -> str:
        network, tokenizer, seed = self._model.network, self._model.tokenizer, self._model.settings.predict.seed
        batch = interface_of(network).generation_inputs(network, [asked.ids], int(tokenizer.pad_token_id))
        torch.manual_seed(sample_seed(seed, str(self._number)))
        written: Any = network.generate(  # type: ignore[operator]
            **batch,
            generation_config=self._config,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
        first = 1 if network.config.is_encoder_decoder else len(asked.ids)
        return str(tokenizer.decode(written[0, first:], skip_special_tokens=True)).strip()

    @cached_property
    def _config(self) -> GenerationConfig:
        network = self._model.network
        return with_prompt_lookup(network, generation_config(network.generation_config, self._model.settings.predict))
