"""Distillation: the loss against its formula, and what can't be a teacher."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from stages import train
from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.core.files import read_json, write_json
from stages.lib.core.process import UserError
from stages.lib.models.families import interface_of
from stages.lib.models.families.interface import IGNORED, Batch
from stages.lib.models.losses import losses_of, summed_loss
from stages.lib.records.tokenized_examples import Label, write_label_ids
from stages.lib.training import distillation
from stages.lib.training.distillation import Teacher, load_teacher
from stages.lib.training.kernels import use_kernels
from tests import tiny
from tests.build import scratch_model

LABELS = [Label("good", [0]), Label("bad", [1]), Label("so so", [2])]
KINDS = ["gpt2", "t5", "bert"]  # bert is a classifier here


def saved(folder: Path, name: str, tokens: PreTrainedTokenizerBase, **overrides: Any) -> Path:
    """A teacher on disk, as another run of the project leaves it: a wider model of this kind."""
    width = "d_model" if name == "t5" else "n_embd" if name == "gpt2" else "hidden_size"
    architecture = tiny.ARCHITECTURES[name][0] | {width: 64} | overrides
    words = [label.word for label in labels_of(name)]
    tiny.model(tokens, seed=7, architecture=architecture, labels=words).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def labels_of(name: str) -> list[Label]:
    return LABELS if name == "bert" else []


def student_of(name: str, tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    words = [label.word for label in labels_of(name)]
    return tiny.model(tokens, architecture=tiny.ARCHITECTURES[name][0], labels=words).eval()


def taught(folder: Path, student: PreTrainedModel, tokens: PreTrainedTokenizerBase, **overrides: Any) -> Teacher:
    settings = tiny.settings(**{"teacher": "folder", "teacher_folder": str(folder)} | overrides)
    labels = LABELS if student.config.num_labels == len(LABELS) else []
    with TemporaryDirectory() as data:
        teacher = load_teacher(settings, student, tokens, labels, tiny.dataset(tokens, Path(data)))
    assert teacher is not None
    return teacher


def batch_of(name: str, tokens: PreTrainedTokenizerBase) -> Batch:
    examples = [tiny.example(tokens, source) for source in tiny.FACTS[2:6]]
    if name == "bert":
        examples = [each._replace(target_ids=[number % 3]) for number, each in enumerate(examples)]
    if name == "gpt2":  # a turn of another speaker within the target
        examples = [each._replace(masked_positions=[1, 2]) for each in examples]
    return interface_of(student_of(name, tokens)).training_batch(examples, tokens.pad_token_id)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_the_formula(name: str, weighted: bool, tmp_path: Path) -> None:
    tokens = tiny.tokenizer(tiny.ARCHITECTURES[name][1])
    student = student_of(name, tokens)
    teacher = taught(saved(tmp_path, name, tokens), student, tokens, teacher_share=0.3, teacher_temperature=2.5)
    batch = batch_of(name, tokens)
    if weighted:
        batch["weights"] = torch.linspace(0.5, 2.0, batch["labels"].numel()).view(batch["labels"].shape)
    interface = interface_of(student)
    wide = interface.auto_class.from_pretrained(tmp_path).eval()
    expected = torch.tensor(0.0)
    with torch.no_grad():
        for row, column in batch["labels"].ne(IGNORED).nonzero().tolist():
            own, other = (interface.target_logits(each, batch)[row, column] for each in (student, wide))
            softened = (other / 2.5).softmax(-1)
            divergence = (softened * (softened.log() - (own / 2.5).log_softmax(-1))).sum()
            right = F.cross_entropy(own, batch["labels"][row, column], label_smoothing=0.1)
            weight = batch["weights"][row, column] if weighted else 1.0
            expected += weight * (0.7 * right + 0.3 * 2.5**2 * divergence)
    loss = teacher.summed_loss(interface, student, batch, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_probabilities_in_chunks_change_neither_loss_nor_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    teacher = taught(saved(tmp_path, "gpt2", tokens), student, tokens)

    def loss_and_gradient() -> list[torch.Tensor]:
        student.zero_grad()
        loss = teacher.summed_loss(interface_of(student), student, batch_of("gpt2", tokens), 0.0)
        loss.backward()
        return [loss.detach(), *(weights.grad.clone() for weights in student.parameters() if weights.grad is not None)]

    whole = loss_and_gradient()
    monkeypatch.setattr(distillation, "_CHUNK_BYTES", 3 * 4 * 300)  # three tokens
    torch.testing.assert_close(loss_and_gradient(), whole)


def test_who_predicts_as_its_teacher_does_has_nothing_left_to_learn_from_it(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    student.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    teacher = taught(tmp_path, student, tokens, teacher_share=0.25)
    batch, interface = batch_of("gpt2", tokens), interface_of(student)
    usual = summed_loss(interface, student, batch, 0.0)
    torch.testing.assert_close(teacher.summed_loss(interface, student, batch, 0.0), 0.75 * usual)


def test_the_student_comes_to_predict_as_its_teacher_does_and_the_teacher_stays(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    teacher = taught(saved(tmp_path, "gpt2", tokens), student, tokens, teacher_share=1.0)
    before = [weights.clone() for weights in teacher.network.parameters()]
    optimizer = torch.optim.AdamW(student.parameters(), 0.01)
    losses = list[float]()
    for _ in range(20):
        loss = teacher.summed_loss(interface_of(student), student, batch_of("gpt2", tokens), 0.0)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 5
    assert all(weights.grad is None for weights in teacher.network.parameters())
    torch.testing.assert_close(list(teacher.network.parameters()), before, rtol=0, atol=0)


def test_train_learns_from_the_teacher_and_validates_by_cross_entropy(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    source = tmp_path / "tokenize"
    tokens.save_pretrained(source / "tokenizer")
    write_label_ids(source / "label_ids.json", [])
    for split in ("train", "validation"):
        data = tiny.dataset(tokens, source / split)
    write_json(tmp_path / "best.json", {})
    folder = saved(tmp_path / "teacher", "gpt2", tokens)

    def losses(name: str, **overrides: Any) -> dict[str, Any]:
        settings = tiny.settings(epochs=1, **overrides)
        places: dict[str, Any] = {
            "source": source,
            "tuned": tmp_path / "best.json",
            "target": tmp_path / name,
            "folder": tmp_path / "s",
        }
        train.run(settings, scratch_model(tiny.ARCHITECTURE), tiny.machine(), **places)
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        return read_json(tmp_path / name / "report/curve.json")

    alone = losses("alone")
    taught = losses("taught", teacher="folder", teacher_folder=str(folder), teacher_share=1.0)
    assert taught["training"][0][1] != pytest.approx(alone["training"][0][1], rel=0.01)
    assert taught["validation"] != alone["validation"]
    nats, count = losses_of(AutoModelForCausalLM.from_pretrained(tmp_path / "taught/model"), list(data))
    best = min(loss for _, loss in taught["validation"])
    assert float(nats.sum() / count.sum()) == pytest.approx(best, rel=1e-4)


def test_a_packed_batch_is_taught_as_its_examples_alone(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    teacher = taught(saved(tmp_path, "gpt2", tokens), student, tokens)
    use_kernels(student, tiny.settings())
    interface: Any = interface_of(student)
    examples = [tiny.example(tokens, source) for source in tiny.FACTS[2:6]]
    packed = interface.packed_batch(examples, tokens.pad_token_id)
    alone = [interface.training_batch([example], tokens.pad_token_id) for example in examples]
    losses = [teacher.summed_loss(interface, student, batch, 0.0) for batch in alone]
    torch.testing.assert_close(teacher.summed_loss(interface, student, packed, 0.0), torch.stack(losses).sum())


def test_embeddings_that_stand_for_no_token_are_left_out(tmp_path: Path) -> None:
    """Qwen2.5 of 7 B has 152,064 embeddings for a tokenizer that is also that of 0.5 B, with 151,936."""
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    network = student_of("gpt2", tokens)
    network.resize_token_embeddings(320)
    network.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    teacher = taught(tmp_path, student, tokens, teacher_share=1.0)
    loss = teacher.summed_loss(interface_of(student), student, batch_of("gpt2", tokens), 0.0)
    assert abs(float(loss.detach())) < 1e-3


def test_a_teacher_without_the_pad_token_that_the_model_got_can_teach(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    folder = saved(tmp_path, "gpt2", tokens)
    tokens.add_special_tokens({"pad_token": "<pad of the student>"})
    student = student_of("gpt2", tokens)
    teacher = taught(folder, student, tokens)
    loss = teacher.summed_loss(interface_of(student), student, batch_of("gpt2", tokens), 0.0)
    assert bool(loss.isfinite())


def test_without_a_name_there_is_no_teacher(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    data = tiny.dataset(tokens, tmp_path)
    assert load_teacher(tiny.settings(), student_of("gpt2", tokens), tokens, [], data) is None


def refusal(folder: Path, student: PreTrainedModel, tokens: PreTrainedTokenizerBase) -> str:
    with pytest.raises(UserError) as error:
        taught(folder, student, tokens)
    (line,) = error.value.lines
    return line


def test_another_tokenizer_is_refused_with_the_first_token_that_differs(tmp_path: Path) -> None:
    tokens, other = tiny.tokenizer(), train_tokenizer(["other words, other pieces"], 300, "causal")
    line = refusal(saved(tmp_path, "gpt2", other), student_of("gpt2", tokens), tokens)
    assert line.startswith("train -> teacher: it has another tokenizer: `")
    assert "stages.tools.teach" in line


def test_another_class_is_refused(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    line = refusal(saved(tmp_path, "t5", tokens), student_of("gpt2", tokens), tokens)
    assert line == (
        "train -> teacher: it is a seq2seq model, and the one that learns is causal; both must be of one class"
    )


def test_other_labels_or_their_order_are_refused(tmp_path: Path) -> None:
    tokens = tiny.tokenizer("encoder")
    words = ["bad", "good", "so so"]
    architecture = tiny.ARCHITECTURES["bert"][0]
    tiny.model(tokens, architecture=architecture, labels=words).save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    line = refusal(tmp_path, student_of("bert", tokens), tokens)
    assert "its labels are bad, good, so so, in place of good, bad, so so" in line


def test_a_teacher_of_fewer_positions_than_an_example_has_tokens_is_refused(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    line = refusal(saved(tmp_path, "gpt2", tokens, n_positions=16), student_of("gpt2", tokens), tokens)
    assert re.fullmatch(r"train -> teacher: an example has \d+ tokens more than it has positions for", line)


def test_a_folder_without_a_checkpoint_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    tokens = tiny.tokenizer()
    student = student_of("gpt2", tokens)
    assert refusal(tmp_path, student, tokens).startswith("train -> teacher_folder: no config.json in ")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert refusal(tmp_path, student, tokens).startswith("train -> teacher: ")
    with pytest.raises(UserError, match=r"^train -> teacher: can't load no-one/nothing: .*$"):
        taught(tmp_path, student, tokens, teacher="no-one/nothing")
