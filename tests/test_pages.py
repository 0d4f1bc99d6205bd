"""The report, the comparison and the model card: what a reader sees, and what no text of the data can do to it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from stages.lib.reports.model_card import model_card
from stages.lib.reports.numbers import decimals, fixed, plain, signed
from stages.lib.reports.pages import comparison_page, report_page
from stages.lib.reports.word_differences import word_differences
from tests.browser import CHROMIUM, Page, browser

STYLE = Path("stages/lib/reports/templates/style.css")
HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><!--\u2028&amp;"
)
DESKTOP, TABLET, PHONE = (1280, 800), (770, 1024), (390, 844)
Figures = dict[str, Any]


def score(value: float, half: float, better: str = "higher", **more: Any) -> Figures:
    interval = {"low": value - half, "high": value + half, "smallest_difference": half * 1.4}
    return {"score": value, **interval, "better": better, "signature": "case:mixed|tok:13a", **more}


def prediction(number: int) -> Figures:
    return {
        "id": f"{number:016x}",
        "source": f"name: Place {number}; kind: pub",
        "references": [f"Place {number} is a pub.", f"There is a pub, Place {number}."],
        "prediction": f"Place {number} is a tavern.",
        "faults": ["missing kind: pub"] if number % 4 == 0 else [],
        "flags": [],
        "scores": {"bleu": (number * 37) % 101, "slot_error": (number % 4 == 0) / 2},
    }


SEARCH_STATS: Figures = {
    **{"trials": 70, "complete": 60, "pruned": 9, "failed": 1, "updates": 6300, "metric": "loss"},
    **{"best_trial": 2, "value": 1.31321, "value_of_params": 1.4, "settings": {"learning_rate": 0.004}},
    **{"cost": 3443136, "on_front": 1, "confirmed": 1.21021, "confirmed_sd": 0.015, "confirmed_runs": 3},
    **{"chance_best": 0.7, "second_trial": 3, "second_confirmed": 1.25, "chance_second": 0.3, "rank_agreement": 0.33},
}


def trial(number: int) -> dict[str, str]:
    """The higher its number, the higher its loss, but for the last ones: nine that were pruned, and one that failed."""
    state = "complete" if number <= 60 else "pruned" if number < 70 else "failed"
    value = "" if state == "failed" else f"{1.3 + number / 100:g}" if state == "complete" else "1.1"
    cost, reason = str(3443136 * number), HOSTILE if state == "failed" else ""
    return {
        **{"trial": str(number), "state": state, "updates": "100", "value": value},
        **{
            "cost": cost if state == "complete" else "",
            "learning_rate": f"{number / 1000:g}",
            "freeze.first_layers": "2",
        },
        **{"model": HOSTILE, "on_front": "yes" if number == 1 else "", "reason": reason},
    }


def searched() -> Figures:
    run = {"run_1": "1.2", "run_2": "1.22", "run_3": "", "sd": "0.015"}
    return {
        "trials": [trial(number) for number in range(1, 71)],
        "history": [
            {"trial": str(number), "state": "complete", "value": str(1.3 + number / 100), "best_so_far": "1.31"}
            for number in range(1, 61)
        ],
        "importances": [{"setting": "learning_rate", "importance": "0.725", "low": "0.3", "high": "0.93"}],
        "confirmed": [
            {"trial": number, **run, "mean": mean, "chance_best": chance}
            for number, mean, chance in (("2", "1.21021", "0.7"), ("3", "1.25", ""))
        ],
        "notes": [HOSTILE],
    }


def report_figures(predictions: int = 120) -> Figures:
    return {
        "task": "data_to_text",
        "model": "a base of 3,443,136 parameters",
        "examples": predictions,
        "groups": predictions,
        "scores": {
            "bleu": score(33.17, 2.67, before_training=0.08, ceiling=96.4, floors={"nearest_example": 35.7}),
            "slot_error": score(0.213, 0.03, "lower", before_training=0.98, ceiling=0.0),
            "perplexity": score(1.5163, 0.02, "lower", before_training=143.48),
            "chrf": {"score": 48.7, "better": "higher", "signature": "nc:6"},
        },
        "diagnostics": {"empty": score(0.0, 0.0, "lower")},
        "properties": {"distinct_1": 0.09},
        "labels": [
            {"label": label, "support": 30, "predicted": 40, "right": 20, "f1": 57.1, "precision": 50.0, "recall": 66.7}
            | {f"{name}_{end}": 40.0 for name in ("precision", "recall") for end in ("low", "high")}
            for label in (HOSTILE, "pub")
        ],
        "confidence": {
            "reliability": [
                {"probability": share, "right": share - 0.1, "low": 0.1, "high": 0.9, "examples": 60}
                for share in (0.4, 0.9)
            ]
        },
        "coverage_curve": [[50.0, 95.0], [100.0, 90.0]],
        "chrf_correlations": {"fluency_bits_per_byte": {"rho": 0.2, "low": 0.1, "high": 0.3, "says": "something else"}},
        "headline": ["bleu", "slot_error"],
        "goals": {"bleu": {"goal": 45, "verdict": "undecided", "needs": 900}},
        "notes": ["bleu is below its floor"],
        "breakdowns": [
            {"by": "kind", "value": kind, "examples": n, "small": n < 20, "score": "bleu"}
            | {"result": 30 + n, "low": 25 + n, "high": 35 + n}
            for kind, n in (("pub", 30), (HOSTILE, 9))
        ],
        "curve": {"training": [[3, 4.9], [6, 2.1], [9, 0.7]], "validation": [[5, 1.4], [9, 0.8]]},
        "search": searched(),
        "tune_hyperparameters": SEARCH_STATS,
        "prepare": {
            "examples": {"test": predictions, "train": 1908, "validation": 265},
            "rejected": {"empty_target": 3},
            "rows_kept": 4863,
            "rows_read": 4866,
            "rows_rejected": 3,
        },
        "tokenize": {"train": {"source_tokens": {"longest": 52}}, "test": {"source_tokens": {"longest": 49}}},
        "train": {"parameters": 3443136, "validation_loss": {"best": 0.41828}},
        "class": "causal",
        "base_model": "google-t5/t5-small",
        "params": {
            "prepare": {"source": "{facts}", "messages": None, "labels": None},
            "train": {"freeze": {"first_layers": 2}},
            "predict": {"strategy": "greedy", "max_new_tokens": 77},
        },
        "predictions": list(map(prediction, range(predictions))),
    }


def difference(first: float, change: float, half: float, better: str, verdict: str, headline: bool) -> Figures:
    interval = {"difference": change, "low": change - half, "high": change + half, "smallest_difference": half * 1.4}
    counts = {"p": 0.0004, "p_holm": 0.0012, "wins": 120, "losses": 60, "ties": 47}
    ends = {"first": first, "second": first + change}
    return ends | interval | counts | {"better": better, "verdict": verdict, "headline": headline}


def comparison_figures() -> Figures:
    changed = {
        "source": HOSTILE,
        "references": ["x"],
        "score": "bleu",
        "first_score": 12,
        "second_score": 70,
    }
    breakdown = {"by": "kind", "value": "pub", "examples": 30, "small": False, "score": "bleu"}
    pair = {
        "first": "main",
        "second": "a-branch-with-a-rather-long-name",
        "examples": 227,
        "groups": 100,
        "notes": ["3 test examples are only in a-branch"],
        "refused": {"ter": "ter: counted with case on one side only"},
        "scores": {
            "bleu": difference(33.17, 2.9, 1.8, "higher", "better", True),
            "bits_per_byte": difference(0.19861, 0.0075, 0.004, "lower", "worse", False),
            "chrf": difference(48, 0.5, 1.3, "higher", "undecided", False),
        },
        "breakdowns": [breakdown | {"first": 33, "second": 36, "difference": 3, "low": 1, "high": 5}],
        "changed": [
            {
                **changed,
                "first": "A cheap pub near the river.",
                "second": "A cheap inn near the river.",
                "verdict": word,
            }
            for word in ("better", "worse")
        ],
        "params": [{"name": "fit.learning_rate", "first": 0.004, "second": None}],
        "data": [{"what": "training data", "first": "a8f2c91d", "second": "77be10c3"}],
        "verdict": "a-branch is better than main: bleu +2.9",
    }
    names = ("main", "a-branch-with-a-rather-long-name")
    revisions = [{"name": n, "commit": "ff0fada", "task": "data_to_text", "model": "m", "examples": 227} for n in names]
    return {"revisions": revisions, "comparisons": [pair, pair | {"verdict": "No difference is shown"}]}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(page: Page, html: str, folder: Path, size: tuple[int, int]) -> None:
    file = folder / "page.html"
    file.write_text(html, "utf-8")
    page.open(file, *size)


@pytest.mark.parametrize("size", [DESKTOP, TABLET, PHONE])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_a_page_loads_nothing_complains_of_nothing_and_fits_the_width(
    page: Page, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    figures = report_figures()
    figures["predictions"][0] |= {
        "source": "unbroken" * 100,
        "prediction": "المقهى يقع بالقرب من النهر",
        "references": ["茶屋" * 99],
    }
    show(page, report_page(figures) if kind == "report" else comparison_page(comparison_figures()), tmp_path, size)
    page.run("document.querySelectorAll('details').forEach((closed) => { closed.open = true })")
    assert page.complaints == []
    assert page.requests == [(tmp_path / "page.html").as_uri()]
    # on a phone, content that is too wide would widen the layout as well
    assert page.run("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [size[0], True]


def shown_ids(page: Page) -> list[int]:
    found = page.run("[...document.querySelectorAll('#rows .id')].map((id) => id.textContent)")
    return [int(text, 16) for text in found]


def press(page: Page, name: str) -> None:
    page.run(f"[...document.querySelectorAll('button')].find((b) => b.textContent.startsWith('{name}')).click()")


def search(page: Page, text: str) -> None:
    page.run(f"(() => {{ search.value = {json.dumps(text)}; search.dispatchEvent(new Event('input')) }})()")


def test_predictions_are_searched_sorted_and_turned(page: Page, tmp_path: Path) -> None:
    show(page, report_page(report_figures()), tmp_path, DESKTOP)
    assert shown_ids(page) == list(range(50))
    press(page, "Next")
    assert shown_ids(page) == list(range(50, 100))
    by_bleu = sorted(range(120), key=lambda number: ((number * 37) % 101, number))
    press(page, "bleu")
    assert shown_ids(page) == by_bleu[:50]
    press(page, "bleu")
    assert shown_ids(page)[0] == max(by_bleu, key=lambda number: ((number * 37) % 101, -number))
    press(page, "slot_error")
    assert shown_ids(page)[:3] == [0, 4, 8]
    press(page, "worst first")
    assert shown_ids(page) == list(range(50))
    search(page, "place 11")
    assert shown_ids(page) == [11, *range(110, 120)]
    page.run("faulty.click()")
    assert shown_ids(page) == [112, 116]
    search(page, "no such text")
    assert page.run("[rows.children.length, document.getElementById('status').textContent]") == [0, "0 predictions"]


def test_hostile_texts_stay_texts(page: Page, tmp_path: Path) -> None:
    figures = report_figures()
    figures |= {"task": HOSTILE, "model": HOSTILE, "notes": [HOSTILE], "params": figures["params"] | {"a": HOSTILE}}
    figures["predictions"][0] |= {
        "source": HOSTILE,
        "prediction": HOSTILE,
        "references": [HOSTILE],
        "faults": [HOSTILE],
        "flags": [HOSTILE],
    }
    show(page, report_page(figures), tmp_path, DESKTOP)
    search(page, "onerror")
    assert page.run("[...document.querySelectorAll('#rows .text')].map((t) => t.textContent)") == [HOSTILE] * 3
    assert page.run("document.title").startswith("</script>")
    assert page.run("document.querySelectorAll('img').length") == 0
    show(page, comparison_page(comparison_figures()), tmp_path, DESKTOP)
    assert page.run("[document.title, document.querySelector('.source').textContent]") == [
        "main, a-branch-with-a-rather-long-name: comparison",
        HOSTILE,
    ]


def embedded(html: str) -> Figures:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html)
    assert found
    content: Figures = json.loads(found[1])
    return content


def test_of_ten_thousand_predictions_the_page_holds_the_worst_and_some_of_all() -> None:
    html = report_page(report_figures(10_000))
    kept = [int(row["id"], 16) for row in embedded(html)["rows"]]
    assert kept[:1000] == list(range(1000))
    assert kept[1000:] == list(range(1000, 10_000, 9))
    assert "2,000 of the 10,000 predictions are here" in html


def test_long_texts_do_not_make_the_page_large() -> None:
    figures = report_figures(600)
    figures["predictions"] = [own | {"source": "長い文" * 5000} for own in figures["predictions"]]
    html = report_page(figures)
    assert len(html.encode()) < 5_000_000
    assert len(embedded(html)["rows"]) >= 100


def test_a_lone_surrogate_can_be_written() -> None:
    figures = report_figures()
    figures["predictions"][0] |= {"prediction": "half \ud83d"}
    html = report_page(figures)
    html.encode("utf-8")
    assert embedded(html)["rows"][0]["prediction"] == "half \ud83d"


def test_a_run_without_scores_shows_its_texts_and_no_empty_tables(page: Page, tmp_path: Path) -> None:
    figures = report_figures(60) | {"scores": {}, "headline": [], "breakdowns": []}
    figures["goals"] = {"bleu": {"goal": 45, "score": None, "verdict": "not measured", "needs": 0}}
    for own in figures["predictions"]:
        own |= {"references": [], "scores": {}}
    show(page, report_page(figures), tmp_path, DESKTOP)
    assert page.complaints == []
    assert shown_ids(page) == list(range(50))
    assert page.run("document.getElementById('sorts').hidden")
    cells = page.run("[...document.querySelectorAll('.goals tbody tr > *')].map((cell) => cell.textContent)")
    assert cells == ["bleu", "45", "", "not measured"]


def test_a_run_without_what_is_optional_has_a_page() -> None:
    figures = report_figures(3) | {
        "diagnostics": {},
        "properties": {},
        "goals": {},
        "notes": [],
        "labels": [],
        "confidence": {},
        "coverage_curve": [],
        "breakdowns": [],
        "tune_hyperparameters": {"trials": 0},
        "search": {"trials": [], "history": [], "importances": [], "confirmed": [], "notes": []},
    }
    figures |= {"curve": {"training": [], "validation": []}, "tokenize": {}, "train": {}, "params": {}}
    assert not {"Breakdowns", "Tuning", "Labels and confidence"} & set(
        re.findall(r"<h2[^>]*>([^<]+)<", report_page(figures))
    )
    assert "searched" not in model_card(figures | {"params": report_figures()["params"]})


def test_equal_facts_give_equal_bytes_in_any_order_of_hashing() -> None:
    assert report_page(report_figures()) == report_page(json.loads(json.dumps(report_figures())))
    assert comparison_page(comparison_figures()) == comparison_page(json.loads(json.dumps(comparison_figures())))


def test_the_report_shows_each_result_with_interval_and_what_to_compare_it_with() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report_page(report_figures())))
    assert "bleu ↑ , higher is better before training 0.08 · nearest example 35.7 · ceiling 96.4" in text
    assert "33.2 30.5 to 35.8" in text
    assert "rejected, empty target 3" in text
    assert "about 900 test examples would decide it" in text
    assert "48.70 unknown" in text
    assert "freeze.first_layers 2" in text


def test_the_search_is_told_with_its_best_trials_first() -> None:
    section = report_page(report_figures()).partition('<section id="tuning"')[2].partition("</section>")[0]
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section))
    assert "70 trials: 60 complete, 9 pruned, 1 failed. 6,300 updates." in text
    assert "Trial 2 was chosen: its validation loss is 1.31321; with the settings of params.yaml, it is 1.4." in text
    assert "Its cost is 3.44 M; one trial is on the front" in text
    assert "At full length it has 1.21021 ± 0.015 over 3 runs; the chance that it is the best one is 70 %." in text
    assert "The second is trial 3, 1.25; the chance that it is the best one is 30 %." in text
    assert "learning rate 0.72 0.30 to 0.93" in text
    assert "3 1.2000 1.2200 1.2500 ± 0.015 unknown" in text
    rows = re.findall(
        r'<th scope="row" class="number">(\d+)</th>\s*<td class="state">(\w+)(?: <abbr[^>]*>(\w+))?', section
    )
    assert [int(number) for number, *_ in rows] == list(range(1, 51))
    assert [number for number, _, chosen in rows if chosen == "chosen"] == ["2"]


def test_pruned_and_failed_trials_come_last_and_a_failed_one_with_its_reason() -> None:
    figures = report_figures()
    figures["search"]["trials"] = [trial(number) for number in (70, 65, 1)]
    section = report_page(figures).partition("Trials, the best first")[2].partition("</table>")[0]
    places = [section.index(f'<td class="state">{state}') for state in ("complete", "pruned", "failed")]
    assert places == sorted(places)
    assert section.index("&lt;/script&gt;", places[2]) > 0


def test_a_higher_score_is_better_than_a_lower_one_but_for_the_loss() -> None:
    figures = report_figures() | {"tune_hyperparameters": SEARCH_STATS | {"metric": "bleu"}}
    section = report_page(figures).partition('<section id="tuning"')[2]
    assert section.index('class="number">60</th>') < section.index('class="number">59</th>')


def test_the_verdict_comes_first_and_differing_words_are_marked() -> None:
    html = comparison_page(comparison_figures())
    assert html.index("a-branch is better than main") < html.index("95 % interval")
    assert "A cheap <del>pub</del> near" in html
    assert "A cheap <ins>inn</ins> near" in html
    assert "ter: counted with case on one side only" in html
    assert "3 test examples are only in a-branch" in html
    assert html.index("Examples that became worse") < html.index("Examples that became better")
    assert html.count("<section") == 2


@pytest.mark.parametrize(
    ("first", "second", "marked"),
    [
        ("the old mill", "the new mill", (["old"], ["new"])),
        ("open late", "open late, cheap", ([], [", cheap"])),
        ("川沿いの安い店", "川沿いの高い店", (["安"], ["高"])),
        ("", "all new", ([], ["all new"])),
        ("same", "same", ([], [])),
    ],
)
def test_words_that_differ_are_found_in_any_script(
    first: str, second: str, marked: tuple[list[str], list[str]]
) -> None:
    sides = word_differences(first, second)
    assert tuple([piece.text for piece in side if piece.differs] for side in sides) == marked
    assert ["".join(piece.text for piece in side) for side in sides] == [first, second]


def test_numbers_have_the_digits_that_their_interval_supports() -> None:
    assert fixed(33.1745, decimals(33.1745, 30.5, 35.84)) == "33.2"
    assert fixed(0.19861, decimals(0.19861, 0.192, 0.205)) == "0.1986"
    assert fixed(1234.5, decimals(1234.5, 1100, 1400)) == "1,234"
    assert fixed(1e304, decimals(1e304, None, None)) == "1e+304"
    assert [signed(n, 1) for n in (2.91, -0.5, 0.01, -0.01)] == ["+2.9", "\N{MINUS SIGN}0.5", "0.0", "0.0"]
    assert [plain(v) for v in (None, True, 4866, 0.004, ["bleu", "ter"])] == [
        "none",
        "true",
        "4,866",
        "0.004",
        "bleu, ter",
    ]


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_can_be_read_on_their_ground(scheme: int) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5."""
    block = re.findall(r":root \{([^}]*)\}", STYLE.read_text())[scheme]
    colours = {name: luminance(value) for name, value in re.findall(r"--(\w+): #(\w+)", block)}
    for text in ("ink", "quiet", "main", "better", "worse", "floor"):
        for ground in ("page", "soft"):
            darker, lighter = sorted((colours[text], colours[ground]))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)
    for ground in ("removed", "added"):
        darker, lighter = sorted((colours["ink"], colours[ground]))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, ground


def card(**about: str | None) -> str:
    return model_card(report_figures() | about)


def metadata(text: str) -> dict[str, Any]:
    return ModelCard(text).data.to_dict()


def test_a_hub_reads_the_results_from_the_card() -> None:
    read = metadata(card())
    assert [read[name] for name in ("base_model", "library_name")] == ["google-t5/t5-small", "transformers"]
    assert "base_model" not in metadata(card(base_model=None))
    (result,) = read["model-index"][0]["results"]
    assert {own["name"]: own["value"] for own in result["metrics"]}["bleu"] == 33.17


@pytest.mark.parametrize(
    ("used", "pipeline"),
    [
        ("causal", "text-generation"),
        ("seq2seq", "text2text-generation"),
        ("bert2bert", "text2text-generation"),
        ("classifier", "text-classification"),
    ],
)
def test_the_card_names_the_pipeline_that_runs_the_model(used: str, pipeline: str) -> None:
    assert metadata(card(**{"class": used}))["pipeline_tag"] == pipeline


def test_the_card_states_results_and_faults_and_no_text_of_the_data() -> None:
    text = card()
    assert "| `bleu` | higher | 33.2 | 30.5 to 35.8 | 0.1 | 96.4 | 35.7 (nearest example) |" in text
    assert "30 of 120 test outputs" in text
    assert "Settings were searched for on validation. 70 trials" in text
    assert "Place 4" not in text
