"""Tokenizing against the tokenizers library alone, and prepare with everything switched on. Run: `python -m
tests.benchmarks.data_speed`. Claims: at least 70 % of the library; at least 20 MB of text a minute for each core."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stages import prepare, tokenize
from stages.lib.checkpoint.tokenizers import load_tokenizer
from stages.lib.core.worker_pool import available_cores
from stages.lib.encoding.encoder import Encoder
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.records.examples import read_examples
from stages.lib.records.tokenized_examples import write_tokenized_examples
from tests.benchmarks.data_scale import ARCHITECTURE
from tests.benchmarks.synthetic import write_csv
from tests.build import scratch_model, section

ROWS, ROUNDS = 200_000, 5


def seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def everything_on() -> Prepare:
    usual = section(Prepare, train="rows.csv", validation=None, test=None).model_dump()
    usual["clean"]["whitespace"] = "collapse"
    usual["mask"] |= {"emails": True, "phones": True, "phone_region": "US", "cards": True}
    usual["duplicates"]["near"] = 0.8
    return Prepare.model_validate(usual)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        write_csv(folder / "rows.csv", ROWS)
        took = seconds(lambda: prepare.run(everything_on(), None, folder, folder / "prepare"))
        size = (folder / "rows.csv").stat().st_size / 1e6
        cores = available_cores()
        print(f"prepare, everything on: {size / took * 60 / cores:.0f} MB a minute for each of {cores} cores")

        params, model = section(Tokenize), scratch_model(ARCHITECTURE)
        tokenize.run(params, model, workers=None, source=folder / "prepare", target=folder / "tokenize")
        tokenizer = load_tokenizer(folder / "tokenize/tokenizer")
        examples = list(read_examples(folder / "prepare/train"))
        texts = [[f"{example.source}\n" for example in examples], [t for example in examples for t in example.targets]]
        encoder = Encoder(tokenizer, params)

        def ours() -> None:
            stats = tokenize.Stats(len(examples))
            encoded = tokenize._encoded(encoder, folder / "prepare/train", None, len(examples))
            accepted = tokenize._accepted(encoded, "train", stats, lambda record: None)
            write_tokenized_examples(folder / "again", tokenize._counted(accepted, stats, 5))

        def library() -> None:
            for part in texts:
                tokenizer.backend_tokenizer.encode_batch_fast(part, add_special_tokens=False)

        # in turn, so that other load on the machine slows both
        times = [(seconds(library), seconds(ours)) for _ in range(ROUNDS)]
        ratio = statistics.median(alone / stage for alone, stage in times)
        print(f"tokenize, reading and writing included: {ratio:.0%} of the speed of the tokenizers library alone")


if __name__ == "__main__":
    main()
