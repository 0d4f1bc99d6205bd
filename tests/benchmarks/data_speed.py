"""Tokenizing against the tokenizers library alone, and prepare with everything switched on. Run: `python -m
tests.benchmarks.data_speed`. Claims: at least 70 % of the library; at least 20 MB of text a minute for each core."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stages import prepare, tokenize
from stages.lib.batches import cores
from stages.lib.encoding import Encoder
from stages.lib.examples import read_examples
from stages.lib.pairs import write_pairs
from stages.lib.params.model import Model
from stages.lib.params.prepare import Prepare
from stages.lib.params.tokenize import Tokenize
from stages.lib.vocabulary import open_vocabulary
from tests.benchmarks.synthetic import write_csv
from tests.build import section

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
        print(f"prepare, everything on: {size / took * 60 / cores():.0f} MB a minute for each of {cores()} cores")

        settings = section(Tokenize, vocabulary_size=2048), section(Model)
        tokenize.run(*settings, processes=None, source=folder / "prepare", target=folder / "tokenize")
        tokenizer = open_vocabulary(folder / "tokenize/tokenizer")
        examples = list(read_examples(folder / "prepare/train"))
        texts = [[f"{example.source}\n" for example in examples], [t for example in examples for t in example.targets]]
        encoder = Encoder(tokenizer, settings[0])

        def ours() -> None:
            account = tokenize.Account(len(examples))
            encoded = tokenize._encoded(encoder, folder / "prepare/train", len(examples))
            pairs = tokenize._pairs(encoded, "train", account, lambda record: None)
            write_pairs(folder / "again", tokenize._counted(pairs, account, 5))

        def library() -> None:
            for part in texts:
                tokenizer.backend_tokenizer.encode_batch_fast(part, add_special_tokens=False)

        # in turn, so that a busier minute meets both
        times = [(seconds(library), seconds(ours)) for _ in range(ROUNDS)]
        ratio = statistics.median(alone / stage for alone, stage in times)
        print(f"tokenize, reading and writing included: {ratio:.0%} of the speed of the tokenizers library alone")


if __name__ == "__main__":
    main()
