"""Which source words a text leans on: right numbers, right words, and a page that says so."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.lib.attribution.choice import choose
from stages.lib.attribution.explainer import Explainer, Explanation
from stages.lib.attribution.figures import TIMES, explained
from stages.lib.attribution.gradients import gradient_times_input
from stages.lib.attribution.occlusion import log_probabilities, occlusion
from stages.lib.attribution.words import Word, words_of
from stages.lib.core.files import write_json
from stages.lib.core.process import UserError
from stages.lib.inference.trained import of_run
from stages.lib.models.families import interface_of
from stages.lib.models.losses import losses_of
from stages.lib.records.chats import Turn
from stages.lib.records.examples import Example
from stages.lib.records.predictions import Prediction
from stages.lib.records.tokenized_examples import TokenizedExample
from stages.lib.reports.pages import explained_page
from stages.tools import explain
from tests import tiny
from tests.browser import CHROMIUM, browser
from tests.build import prediction
from tests.random_weights import moved
from tests.runs import sources, untrained_run
from tests.tokenizer_kinds import sentencepiece_bpe

TASKS = {"gpt2": (), "llama": (), "t5": (), "bart": (), "bert": ("bad", "good")}
HOSTILE = "</script><script>document.title='taken'</script>"
SAMPLE = "Größe: «12 µm», 日本 🙂 and the Swan Pond; it is."


def network_of(architecture: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Random weights, in float64, of a classifier where the task has labels."""
    own, family = tiny.ARCHITECTURES[architecture]
    tokens = tiny.tokenizer(family)
    network = tiny.model(tokens, architecture=own, dropout=0.0, labels=TASKS[architecture])
    return moved(network).double(), tokens


def example_of(architecture: str, tokens: PreTrainedTokenizerBase, source: str = tiny.FACTS[3]) -> TokenizedExample:
    whole = tiny.example(tokens, source)
    return whole._replace(target_ids=[1] if TASKS[architecture] else whole.target_ids[:5])


def by_differences(network: Any, example: TokenizedExample, token: int) -> Tensor:
    """(T): the norm over the embedding of one source token of its numbers times the slope of the log-probability."""
    step = 3e-3  # parts of some networks compute in float32
    reader = network.get_encoder() if network.config.is_encoder_decoder else network
    table = reader.get_input_embeddings()
    width = table.weight.shape[1]
    moves = torch.cat([torch.eye(width), -torch.eye(width)]).double() * step
    looked_up = list[Tensor]()

    def move(module: object, inputs: object, output: Tensor) -> Tensor:
        looked_up.append(output[0, token].clone())
        if len(looked_up) == 1:  # not that of a decoder which shares the table
            output = output.clone()
            output[:, token] += moves
        return output

    hook = table.register_forward_hook(move)
    up, down = torch.stack(log_probabilities(network, [example] * 2 * width, "padded")).split(width)
    hook.remove()
    return ((up - down) / (2 * step) * looked_up[0][:, None]).norm(dim=0)


@pytest.mark.parametrize("architecture", TASKS)
def test_gradient_times_input_is_what_finite_differences_give(architecture: str) -> None:
    network, tokens = network_of(architecture)
    example = example_of(architecture, tokens)
    found = gradient_times_input(network, example)
    assert found.shape == (len(example.target_ids), len(example.source_ids))
    assert found.min() >= 0
    for token in (1, len(example.source_ids) - 2):
        expected = by_differences(network, example, token)
        assert expected.max() > 1e-4
        torch.testing.assert_close(found[:, token], expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("architecture", TASKS)
def test_occlusion_is_the_loss_without_a_part_less_the_loss_with_it(architecture: str) -> None:
    network, tokens = network_of(architecture)
    example = example_of(architecture, tokens)
    parts = [[1], [2, 3], list(range(len(example.source_ids)))]
    whole, found = occlusion(network, example, parts, "padded")
    (loss,), _ = losses_of(network, [example])
    assert whole.sum().item() == pytest.approx(-loss.item(), rel=1e-9)
    start = tokens.eos_token_id if tokens.bos_token_id is None else tokens.bos_token_id
    for part, own in zip(parts, found.T, strict=True):
        left = [token for place, token in enumerate(example.source_ids) if place not in part] or [start]
        (without,), _ = losses_of(network, [example._replace(source_ids=left)])
        assert own.sum().item() == pytest.approx((without - loss).item(), rel=1e-6), part
    assert occlusion(network, example, [], "padded")[1].shape == (len(example.target_ids), 0)


@pytest.mark.parametrize("architecture", TASKS)
def test_neither_pads_nor_neighbours_matter(architecture: str) -> None:
    network, tokens = network_of(architecture)
    examples = [example_of(architecture, tokens, source) for source in (tiny.FACTS[0], tiny.FACTS[3], tiny.FACTS[6])]
    examples[0] = examples[0]._replace(source_ids=examples[0].source_ids * 2, target_ids=examples[0].target_ids[:2])
    together, alone = (log_probabilities(network, examples, layout) for layout in ("padded", "single"))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


MARKED, PLAIN = [10, 11, 12, 13], [20, 21, 22, 23, 24, 25]  # ids


def copying(architecture: str) -> tuple[PreTrainedModel, list[TokenizedExample]]:
    """A network that has learned to write the only marked token of its source, and examples of this."""
    own, family = tiny.ARCHITECTURES[architecture]
    tokens = tiny.tokenizer(family)
    labels = ("a", "b", "c", "d") if family == "encoder" else ()
    network: Any = tiny.model(tokens, architecture=own, dropout=0.0, labels=labels)
    random, rows = torch.Generator().manual_seed(1), list[TokenizedExample]()
    for _ in range(512):
        length, marked = (
            3 + int(torch.randint(4, (1,), generator=random)),
            int(torch.randint(4, (1,), generator=random)),
        )
        source = [PLAIN[int(n)] for n in torch.randint(len(PLAIN), (length,), generator=random)]
        place = int(torch.randint(length, (1,), generator=random))
        source[place] = MARKED[marked]
        rows.append(TokenizedExample(str(place), source, [marked if labels else MARKED[marked]], [], 0))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    interface = interface_of(network)
    for start in range(0, 448 * 10, 64):
        batch = interface.training_batch(rows[start % 448 : start % 448 + 64], 0)
        logits = interface.target_logits(network, batch)
        torch.nn.functional.cross_entropy(logits[:, 0], batch["labels"][:, 0]).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    return network, rows[-20:]  # new ones


@pytest.mark.parametrize("architecture", ["gpt2", "bart", "bert"])
def test_a_network_that_copies_leans_on_what_it_copies(architecture: str) -> None:
    network, examples = copying(architecture)
    for example in examples:
        place = int(example.id)
        parts = [[token] for token in range(len(example.source_ids))]
        assert log_probabilities(network, [example], "single")[0].exp().min() > 0.8
        assert int(occlusion(network, example, parts, "padded")[1][0].argmax()) == place
        assert int(gradient_times_input(network, example)[0].argmax()) == place


def lower_case_pieces() -> PreTrainedTokenizerBase:
    """As BERT has them: no case, no accents, an unknown token for what it does not know."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    backend.train_from_iterator([SAMPLE.replace("🙂", "")] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": tiny.tokenizer,
    "sentencepiece": lambda: PreTrainedTokenizerFast(
        tokenizer_object=sentencepiece_bpe([SAMPLE.replace("日本", "")] * 4, 330), unk_token="<unk>", eos_token="</s>"
    ),
    "lower-case pieces": lower_case_pieces,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_token_belongs_to_the_word_that_it_stands_for(kind: str) -> None:
    tokens = TOKENIZERS[kind]()
    before, own, after = (tokens(text, add_special_tokens=False)["input_ids"] for text in ("Tell: ", SAMPLE, "\nIt is"))
    words = words_of(SAMPLE, [*before, *own, *after], tokens)
    assert [word.text for word in words] == re.findall(r"[日本]|[^\s日本]+", SAMPLE)
    assert [SAMPLE[word.start : word.end] for word in words] == [word.text for word in words]
    given = [token for word in words for token in word.tokens]
    assert given == sorted(given)
    unknown = 1 if kind == "lower-case pieces" else 0  # a smile
    left_out = {place + len(before) for place in range(len(own))} - set(given)
    blanks = [place for place in left_out if not str(tokens.decode([[*before, *own][place]])).strip()]
    assert len(left_out) - len(blanks) == unknown
    assert min(given) >= len(before)
    assert max(given) < len(before) + len(own)
    assert [word.text for word in words if not word.is_read] == ["🙂"] * unknown
    assert str(tokens.decode([[*before, *own][token] for token in words[0].tokens])).lower().startswith("gr")


def test_short_turns_of_a_conversation_are_found_in_a_template() -> None:
    tokens = tiny.tokenizer()
    text = "user: Hi\nassistant: No.\nuser: Go"
    rendered = "A chat. <user>\nHi\n<assistant>\nNo.\n<user>\nGo\n<assistant>\n"
    words = words_of(text, tokens(rendered, add_special_tokens=False)["input_ids"], tokens)
    assert all(word.is_read for word in words)


def test_words_that_were_cut_off_are_not_read() -> None:
    tokens = tiny.tokenizer()
    kept = SAMPLE.partition(", ")[2]
    words = words_of(SAMPLE, tokens(kept, add_special_tokens=False)["input_ids"], tokens)
    assert [word.text for word in words if not word.is_read] == ["Größe:", "«12", "µm»,"]


RUNS: dict[str, tuple[str, list[Example], dict[str, Any]]] = {
    "causal": (
        "gpt2",
        [Example(str(n), source, ["A target."]) for n, source in enumerate(sources(12))],
        {"tokenize_": {"prompt": "Tell: {source}\ntext: "}},
    ),
    "encoder-decoder": ("t5", [Example(str(n), own, ["A target."]) for n, own in enumerate(sources(3))], {}),
    "labels": (
        "bert",
        [Example(str(n), own, [("bad", "good")[n % 2]]) for n, own in enumerate(sources(3))],
        {"labels": ["bad", "good"]},
    ),
    "dialogue": (
        "gpt2",
        [
            Example(
                "0",
                "",
                ["Nobody.", "Never."],
                [
                    Turn("user", "Who is there?"),
                    Turn("assistant", "Nobody."),
                    Turn("user", "And when, «what»?"),
                    Turn("assistant", "Never."),
                ],
            )
        ],
        {"prepare": {"source": None, "target": None, "messages": "messages"}},
    ),
    "free text": (
        "gpt2",
        [Example(str(n), "", [f"{own} {own}"]) for n, own in enumerate(sources(3))],
        {"prepare": {"source": None}, "tokenize_": {"max_target_tokens": 250}, "prefix_tokens": 8},
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Prediction]]:
    """A finished run of a causal model."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        predictions = finished_run(folder, "causal")
    return folder, predictions


def finished_run(folder: Path, kind: str) -> list[Prediction]:
    architecture, examples, options = RUNS[kind]
    predictions = untrained_run(folder, examples, architecture, max_new_tokens=8, **options)
    write_json(Path("metrics/scores.json"), {"headline": ["chrf"]})
    return predictions


@pytest.mark.parametrize("kind", RUNS)
def test_the_words_of_every_kind_of_task_are_explained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictions = finished_run(tmp_path, kind)
    examples = {question.id: own for own in RUNS[kind][1] for question in own.questions()}
    explainer = Explainer(of_run())
    for own in predictions:
        tokenized = explainer.tokenized(own, examples[own.id])
        found = explainer.explain(own, examples[own.id])
        assert found is not None
        assert tokenized is not None
        assert all(word.tokens for word in found.source)
        assert "".join(word.text for word in found.source) == "".join(own.source.split())
        assert "".join(word.text for word in found.written) == "".join(own.prediction.split())
        assert found.occlusion.shape == found.gradient.shape == (len(found.written), len(found.source))
        # nothing but tokens between and around the words is lost
        of_tokens = gradient_times_input(explainer.network, tokenized)
        sides = [[token for word in words for token in word.tokens] for words in (found.written, found.source)]
        total = of_tokens[sides[0]][:, sides[1]].sum()
        torch.testing.assert_close(found.gradient.sum(), total)
        (whole,) = log_probabilities(explainer.network, [tokenized], "single")
        assert sum(found.log_probabilities) == pytest.approx(float(whole[sides[0]].sum()))
        if kind == "labels":  # by its share among the labels
            assert own.confidence == pytest.approx(sum(found.log_probabilities), abs=1e-3)


def test_neighbours_share_a_weight_in_a_long_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [Example("0", " ".join("ab"[n % 3 % 2] for n in range(130)), ["A target."])]
    (own,) = untrained_run(tmp_path, examples, "t5", max_new_tokens=3)
    found = Explainer(of_run()).explain(own, examples[0])
    assert found is not None
    torch.testing.assert_close(found.occlusion[:, 0::2], found.occlusion[:, 1::2])
    assert found.occlusion[:, 0::2].unique().numel() > 1


def test_the_source_is_asked_as_predict_has_asked_it(made: tuple[Path, list[Prediction]], monkeypatch: Any) -> None:
    """With its prompt, so that the probabilities of the texts are those that predict has found."""
    monkeypatch.chdir(made[0])
    explainer = Explainer(of_run())
    unended = [own for own in made[1] if own.finish_reason == "end"]
    examples = {own.id: own for own in RUNS["causal"][1]}
    for own in unended:
        tokenized = explainer.tokenized(own, examples[own.id])
        assert tokenized is not None
        (found,) = log_probabilities(explainer.network, [tokenized], "single")
        assert float(found.mean()) == pytest.approx(own.confidence, abs=1e-3)


def test_each_kind_of_prediction_is_shown_and_none_twice() -> None:
    predictions = [prediction("x", "y", id=str(n), confidence=-n / 10) for n in range(40)]
    flags = [["listed"] if n in (7, 8) else [] for n in range(40)]
    ranks = [float(n * 7 % 40) for n in range(40)]
    chosen = choose(predictions, ranks, flags, 10)
    assert len({own.place for own in chosen}) == 10
    assert len({own.title for own in chosen}) == 5
    assert {0, 17, 39} <= {own.place for own in chosen}  # the worst, the best, the least sure
    assert {own.place for own in chosen if own.title == "Flagged"} <= {7, 8}
    assert choose(predictions, ranks, flags, 10) == chosen
    assert len(choose(predictions, ranks, flags, 100)) == 40
    unknown = choose([prediction("x") for _ in range(3)], [0.0] * 3, [[]] * 3, 10)
    assert {own.title for own in unknown} == {"At random"}
    assert len(unknown) == 3


class Parsed(HTMLParser):
    """What stands in each element of a class, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [own for _, own in self.elements if name in (own.get("class") or "").split()]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["explain", *arguments])
    explain.main()
    return Path("explained.html").read_text()


def test_the_page_shows_for_each_example_what_a_reader_needs(
    made: tuple[Path, list[Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, predictions = made
    monkeypatch.chdir(folder)
    page = run(monkeypatch, "--examples", "4")
    parsed = Parsed(page)
    assert len(parsed.of_class("example")) == 4
    ids = re.findall(r"id ([^<]+)</small>", page)
    shown = [next(own for own in predictions if own.id == name) for name in ids]
    assert len({own.id for own in shown}) == 4
    headings = ("What the model wrote", "How sure it was", "What was flagged", "most similar source", "a person wrote")
    assert [page.count(heading) for heading in headings] == [4] * 5
    # without a script: a sentence at each written word, and marks for the whole text
    views = json.loads(parsed.scripts[0])["examples"]
    sentences = [each["sentence"] for own in views for each in own["left_out"][1:]]
    assert [own["title"] for own in parsed.of_class("to")] == sentences
    assert len(sentences) == sum(len(own.prediction.split()) for own in shown)
    marks = [int(own["data-mark"] or 0) for own in parsed.of_class("from") if "data-word" in own]
    assert max(marks) == 4
    assert "http:" not in page
    assert "https:" not in page
    assert {own.get("src") for tag, own in parsed.elements if tag in ("script", "img", "link")} == {None}
    assert run(monkeypatch, "--examples", "4") == page


def test_predictions_are_shown_by_their_ids(
    made: tuple[Path, list[Prediction]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made[0])
    first, second = made[1][5].id, made[1][2].id
    page = run(monkeypatch, first, second)
    assert re.findall(r"id ([^<]+)</small>", page) == [first, second]
    assert "explained.html: open it in a browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "nonsense: no prediction has this id"),
        (["--examples", "0"], "--examples 0: at least 1 is needed"),
        (["--output", "explained.html/x.html"], "explained.html/x.html: "),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], told: str, made: tuple[Path, list[Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[0])
    Path("explained.html").touch()
    with pytest.raises(UserError) as error:
        run(monkeypatch, *arguments)
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith(told)


def test_a_project_without_a_run_is_told_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/predict/predictions\.jsonl: not there; run `make repro`"):
        run(monkeypatch)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_written_word_marks_its_source_words(
    width: int, made: tuple[Path, list[Prediction]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made[0])
    page = run(monkeypatch, "1", max(made[1], key=lambda own: len(own.prediction.split())).id)
    views = json.loads(Parsed(page).scripts[0])["examples"]
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as tab:
        tab.open(tmp_path / "page.html", width, 900)
        example = "document.querySelectorAll('.example')[1]"
        told = f"{example}.querySelector('.leaning').textContent"
        marked = f"[...{example}.querySelectorAll('.from')].filter(own => +own.dataset.mark)"
        marks = f"Object.fromEntries({marked}.map(own => [own.dataset.word, +own.dataset.mark]))"
        for view in ("left_out", "gradient"):
            tab.run(f"document.querySelector('input[value={view}]').click()")
            expected = views[1][view]
            assert (tab.run(told), tab.run(marks)) == (expected[0]["sentence"], expected[0]["marks"])
            tab.run(f"{example}.querySelectorAll('.to')[1].click()")
            assert (tab.run(told), tab.run(marks)) == (expected[2]["sentence"], expected[2]["marks"])
            tab.run(f"{example}.querySelectorAll('.to')[1].click()")  # once more: the whole text
        keys = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})"
        tab.run(
            f"{example}.querySelectorAll('.to')[0].focus(), {example}.querySelectorAll('.to')[0].dispatchEvent({keys})"
        )
        assert tab.run(f"document.activeElement === {example}.querySelectorAll('.to')[1]")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert (tab.complaints, len(tab.requests)) == ([], 1)


def test_texts_can_not_run_code() -> None:
    own = own_explanation()
    source = [own.source[0], Word(HOSTILE, 4, 4 + len(HOSTILE), [1])]
    found = explained(replace(own, source=source), f"tea {HOSTILE}", "the tea")
    texts = {"source": HOSTILE, "prediction": HOSTILE, "references": [HOSTILE], "flags": [HOSTILE], "sure": HOSTILE}
    example = {"number": 1, "id": HOSTILE, "title": "x", "why": "y", **texts, "explained": found}
    about = {"task": HOSTILE, "model": HOSTILE, "total": 1, "times": TIMES}
    for own_found in (found, None):
        nearest = {"source": HOSTILE, "target": HOSTILE} if own_found else None
        page = explained_page({**about, "examples": [{**example, "nearest": nearest, "explained": own_found}]})
        assert len(Parsed(page).scripts) == 2
        assert "<script>document" not in page


def own_explanation() -> Explanation:
    """Of a text whose second word leans on the first source word, by both methods."""
    source = [Word("tea", 0, 3, [0]), Word("cup", 4, 7, [1])]
    written = [Word("the", 0, 3, [0]), Word("tea", 4, 7, [1])]
    left_out, gradient = torch.tensor([[0.01, -0.5], [2.5, 0.3]]), torch.tensor([[0.1, 0.1], [0.9, 0.2]])
    return Explanation(source, written, [-0.01, -1.2], left_out, gradient)


def test_numbers_are_told_in_words() -> None:
    found = explained(own_explanation(), "tea cup", "the tea")
    whole, first, second = found["views"]["left_out"]
    assert first == {"marks": {}, "sentence": "“the” (99 % sure): no single word of the source mattered much to it."}
    assert (
        second["sentence"]
        == "“tea” (30 % sure): without “tea” 12 times less likely, without “cup” 1.3 times less likely."
    )
    assert second["marks"] == {0: 3, 1: 1}
    assert whole["sentence"] == "Over the whole text, it leaned most on “tea”, “cup”."
    assert [piece["text"] for piece in found["source"]] == ["tea", " ", "cup"]
    assert (found["agreeing"], found["leaning"], found["unsure"]) == (1, 1, [("“tea”", "30 %")])
