"""Writes the weights that the base starts from: `python start.py`, in this folder, before `dvc repro`.

Weights are random, but for two kinds of attention heads, which copy: where a token occurs again, they expect what
followed it before. By themselves such heads form only after billions of tokens (induction heads: Olsson et al. 2022,
arXiv 2209.11895), more than a CPU can read.

- A previous-token head, in the first layer, writes which token came before, into directions of its own.
- An induction head, in a later layer, looks for the place that was written the token of its own place, and expects the
  token of that place.

What other heads and layers write is 0 at the start, so that it does not drown this.

Reads:  corpus/*.jsonl.xz, but for the held-out files and the share-alike one, for the vocabulary; params.yaml.
Writes: start/: weights in float32 and tokenizer.
"""

import math
from pathlib import Path

import torch
from ruamel.yaml import YAML
from texts import documents
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from stages.lib.checkpoint.tokenizers import train_tokenizer
from stages.lib.params.model import Architecture

TARGET = Path("start")
SEED = 1

HEADS = 2  # of a layer that copy
COPYING_LAYERS = 2, 4
PEAKS = 8.0, 6.0, 4.0, 3.0, 2.0  # of the scores for the place before, by the frequencies of positions, fastest first
SLOW = 0.02  # radians a place: a lower frequency does not disturb the comparison of tokens
MATCH_SCALE = 3.0  # of queries and keys
COPY_SCALE = 4.0  # of the token's own size in the hidden state
DEVIATION = 0.1  # of embeddings; smaller ones change too fast for the heads to follow
EMBEDDING_SIZE = DEVIATION * math.sqrt(2)  # with the direction that all share
LOGIT_SCALE = 0.8  # a smaller one gives nearly even probabilities


def main() -> None:
    values = YAML(typ="safe", pure=True).load(Path("params.yaml"))
    shape = Architecture.model_validate(values["architectures"]["llama"])
    assert shape.vocabulary_size
    tokenizer = train_tokenizer(documents(), shape.vocabulary_size, "causal", shape.pre_tokenizer)
    torch.manual_seed(SEED)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **shape.settings, **ends)
    network = AutoModelForCausalLM.from_config(config)
    add_copying_heads(network)
    network.save_pretrained(TARGET)
    tokenizer.save_pretrained(TARGET)


@torch.no_grad()
def add_copying_heads(network: LlamaForCausalLM) -> None:
    config, layers = network.config, network.model.layers
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    network.model.norm.weight.fill_(LOGIT_SCALE)
    shared = torch.randint(0, 2, (config.hidden_size,)) * 2.0 - 1
    network.model.embed_tokens.weight.normal_(std=DEVIATION).add_(DEVIATION * shared)
    speeds = config.rope_parameters["rope_theta"] ** (-torch.arange(config.head_dim // 2) / (config.head_dim // 2))
    token, before = (directions(HEADS * config.head_dim, shared) for _ in range(2))
    for head in range(HEADS):
        rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
        set_previous_token_head(layers[0].self_attn, rows, shared, speeds, token[rows], before[rows])
        for place in COPYING_LAYERS:
            set_induction_head(layers[place].self_attn, rows, shared, speeds, token, before)


def set_previous_token_head(
    attention: LlamaAttention, rows: slice, shared: Tensor, speeds: Tensor, token: Tensor, before: Tensor
) -> None:
    """Queries and keys are the same for all tokens, but for their positions."""
    query, key = peaks_before(speeds)
    constant = shared / len(shared) * math.sqrt(2)  # times any embedding, scaled by the norm: about 1
    attention.q_proj.weight[rows] = torch.outer(query, constant)
    attention.k_proj.weight[rows] = torch.outer(key, constant)
    attention.v_proj.weight[rows] = token
    attention.o_proj.weight[:, rows] = EMBEDDING_SIZE * before.T


def set_induction_head(
    attention: LlamaAttention, rows: slice, shared: Tensor, speeds: Tensor, token: Tensor, before: Tensor
) -> None:
    """Queries are tokens, keys the tokens before, both mixed into as many numbers as hardly turn with the position."""
    slow = torch.nonzero((speeds < SLOW).repeat(2)).flatten()
    mixed = torch.linalg.qr(torch.randn(len(token), len(slow)))[0].T
    attention.q_proj.weight[rows] = attention.k_proj.weight[rows] = 0.0
    attention.q_proj.weight[rows][slow] = MATCH_SCALE * mixed @ token
    attention.k_proj.weight[rows][slow] = MATCH_SCALE * mixed @ before
    copied = directions(rows.stop - rows.start, shared)
    attention.v_proj.weight[rows] = copied
    attention.o_proj.weight[:, rows] = COPY_SCALE * EMBEDDING_SIZE * copied.T


def directions(count: int, shared: Tensor) -> Tensor:
    """(count, width): random, orthogonal to each other and to the shared one."""
    drawn = torch.randn(len(shared), count)
    return torch.linalg.qr(drawn - torch.outer(shared, shared @ drawn) / len(shared))[0].T


def peaks_before(speeds: Tensor) -> tuple[Tensor, Tensor]:
    """A query and a key whose score, after both are rotated by their positions, is highest one place apart."""
    sizes = torch.zeros(len(speeds))
    sizes[: len(PEAKS)] = (torch.tensor(PEAKS) * math.sqrt(2 * len(speeds))).sqrt()
    return torch.cat([sizes, 0 * sizes]), torch.cat([sizes * speeds.cos(), sizes * speeds.sin()])


if __name__ == "__main__":
    main()
