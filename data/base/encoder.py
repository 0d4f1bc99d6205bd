"""Makes the encoder that the project ships: `python encoder.py UPDATES`, in this folder, after publish.py.

The model has the shape of BERT, and learns to tell masked tokens (Devlin et al. 2019, arXiv 1810.04805). The stages
train for tasks, and masked tokens are none: the Trainer of transformers does it. A killed run continues.

It starts from the token embeddings of the causal base, and from two attention heads that look at the token before and
at the token after. Until it has found these neighbours by itself, such a model knows no more than how frequent tokens
are, for longer than a CPU can read.

Reads:  corpus/*.jsonl.xz, but for the held-out files and the share-alike one; ../raw/base.
Writes: data/encoder/, checkpoints; ../raw/models/encoder/.
"""

import math
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from facts import SEED
from publish import BASE, LIMITS, SISTERS, SOURCES, publish
from texts import documents
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from stages.lib.checkpoint.tokenizers import END, MASK, START

CHECKPOINTS = Path("data/encoder")
TARGET = SISTERS / "encoder"

HEAD = 64  # numbers of an attention head
SHARPNESS = 1.5  # of the look at a neighbour
PIECE_TOKENS = 126  # without the two around it
BATCH = 32
LEARNING_RATE = 0.001
MASKED_SHARE = 0.2


def main(updates: int) -> None:
    tokenizer = with_marks(AutoTokenizer.from_pretrained(BASE))
    torch.manual_seed(SEED)
    network = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=3 * HEAD,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=768,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    add_neighbour_heads(network)
    arguments = TrainingArguments(
        str(CHECKPOINTS),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        max_steps=updates,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=updates // 20,
        weight_decay=0.01,
        save_steps=max(updates // 10, 1),
        save_total_limit=1,
        logging_steps=max(updates // 20, 1),
        report_to="none",
        seed=SEED,
    )
    trainer = Trainer(
        network,
        arguments,
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_SHARE),
        train_dataset=list(islice(pieces(tokenizer, ""), BATCH * updates)),
        eval_dataset=list(pieces(tokenizer, "_heldout")),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(CHECKPOINTS)) if CHECKPOINTS.is_dir() else None)
    publish(network, tokenizer, TARGET, "fill-mask", card(network, updates, trainer.evaluate()["eval_loss"]))


def with_marks(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Around a text stand a start and an end token, and a token may be masked."""
    tokenizer.add_special_tokens({"cls_token": START, "bos_token": START, "sep_token": END, "mask_token": MASK})
    marks = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (START, END)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=marks
    )
    return tokenizer


@torch.no_grad()
def add_neighbour_heads(network: BertForMaskedLM) -> None:
    """Positions are waves, in directions of their own. What other heads and layers write is 0 at the start."""
    config, bert = network.config, network.bert
    for layer in bert.encoder.layer:
        layer.attention.output.dense.weight.zero_()
        layer.output.dense.weight.zero_()
    place, *others = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0].split(HEAD)

    known = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).get_input_embeddings().weight
    tokens = known - known.mean(0)  # without what all share
    tokens = tokens - tokens @ place.T @ place
    bert.embeddings.word_embeddings.weight[: len(known)] = tokens
    size = tokens.norm(dim=1).mean()
    speeds = 3 * torch.linspace(0.1, 1.0, HEAD // 2) ** 2  # radians a place; evenly spaced ones would repeat
    angles = torch.outer(torch.arange(config.max_position_embeddings), speeds)
    waves = torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(HEAD // 2)
    bert.embeddings.position_embeddings.weight.copy_(size * waves @ place)

    attention = bert.encoder.layer[0].attention
    for head, (distance, told) in enumerate(zip((-1, 1), others, strict=True)):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        cos, sin = (distance * speeds).cos().diag(), (distance * speeds).sin().diag()
        turned = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
        attention.self.query.weight[rows] = SHARPNESS * turned @ place
        attention.self.key.weight[rows] = place
        attention.self.value.weight[rows] = told
        attention.output.dense.weight[:, rows] = told.T


def pieces(tokenizer: PreTrainedTokenizerBase, ending: str) -> Iterator[dict[str, list[int]]]:
    """Documents in random order, cut into pieces that do not overlap."""
    texts = list(documents(ending))
    random.Random(SEED).shuffle(texts)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for at in range(0, len(ids) - PIECE_TOKENS, PIECE_TOKENS):
            yield {"input_ids": [tokenizer.cls_token_id, *ids[at : at + PIECE_TOKENS], tokenizer.sep_token_id]}


def card(network: BertForMaskedLM, updates: int, loss: float) -> list[str]:
    config = network.config
    read = updates * BATCH * PIECE_TOKENS
    return [
        "A small English encoder to fine-tune",
        f"An encoder of {network.num_parameters():,} parameters in the shape of BERT, the sister of the causal base: "
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, its tokenizer with marks around a text and "
        "one for masked tokens, and at the start its token embeddings. Weights are bfloat16.",
        f"**Data**: {read / 1e6:.1f} million tokens of English: {SOURCES}",
        f"**Training**: {updates:,} updates of {BATCH} pieces of {PIECE_TOKENS} tokens, of which {MASKED_SHARE:.0%} "
        f"were masked, from random weights among which two heads look at the neighbours of a token; AdamW, peak "
        f"learning rate {LEARNING_RATE:g}, cosine schedule. `encoder.py` in `data/base/` is the recipe, without the "
        "corpus.",
        f"**Held-out loss**: {loss:.3f} nats a masked token of documents that were never trained on.",
        f"**Limits**: it has read little, and no reviews; {LIMITS}",
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]))
