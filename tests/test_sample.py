"""The sample that ships with the project: made by its script, and fit to learn from."""

from collections import defaultdict

from stages.tools.compose_sample import TARGET, compose, render


def test_the_script_makes_the_file_byte_for_byte() -> None:
    assert render().encode() == TARGET.read_bytes()


def test_it_is_large_and_has_several_references_for_part_of_the_inputs() -> None:
    references: dict[str, set[str]] = defaultdict(set)
    for facts, text in compose():
        assert text not in references[facts]
        references[facts].add(text)
    several = sum(len(texts) > 1 for texts in references.values())
    assert len(references) >= 2000
    assert several > len(references) / 3
