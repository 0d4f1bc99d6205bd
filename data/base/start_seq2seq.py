"""Writes the weights that the seq2seq base starts from: `python start_seq2seq.py`, in this folder, after publish.py.

The model has the shape of T5, and the tokenizer and token embeddings of the causal base. Other weights are random, but
for attention heads that copy, as in start.py: where the token just written stands in the source, they expect what
follows it there.

- A previous-token head, in the first layer of the encoder, writes which token came before, into directions of its own.
- Heads of the cross-attention look for the place that was written the token just read, and expect the token of that
  place.

Reads:  ../raw/base.
Writes: start_seq2seq/: weights in float32 and tokenizer.
"""

import math
from pathlib import Path

import torch
from publish import BASE
from start import LOGIT_SCALE, SEED
from tokenizers import processors
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5ForConditionalGeneration

TARGET = Path("start_seq2seq")

COPYING_LAYER = 1  # of the decoder; a second one would copy what follows the token that the first has copied
PEAK = 8.0  # of the scores for the place before
MATCH_SCALE = 0.5  # of queries and keys
COPY_SCALE = 5.0  # of the token's own size in the hidden state


def main() -> None:
    torch.manual_seed(SEED)
    embeddings = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).get_input_embeddings().weight.detach()
    tokenizer = with_an_end(AutoTokenizer.from_pretrained(BASE))
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=embeddings.shape[1],
        d_kv=64,
        d_ff=448,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=3,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    network = T5ForConditionalGeneration(config)
    network.shared.weight.data.copy_(embeddings - embeddings.mean(0))
    add_copying_heads(network)
    network.save_pretrained(TARGET)
    tokenizer.save_pretrained(TARGET)


def with_an_end(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """T5 expects the end token after a source too."""
    end = tokenizer.eos_token, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[end]
    )
    return tokenizer


@torch.no_grad()
def add_copying_heads(network: T5ForConditionalGeneration) -> None:
    """What other heads and layers write is 0 at the start."""
    config, embeddings = network.config, network.shared.weight
    for block in (*network.encoder.block, *network.decoder.block):
        for layer in block.layer[:-1]:
            attention = layer.SelfAttention if hasattr(layer, "SelfAttention") else layer.EncDecAttention
            attention.o.weight.zero_()
        block.layer[-1].DenseReluDense.wo.weight.zero_()
    # T5 divides the hidden state by the root of its width before it is compared with the embeddings
    network.decoder.final_layer_norm.weight.fill_(LOGIT_SCALE * math.sqrt(config.d_model))

    size = float(embeddings.norm(dim=1).mean()) / math.sqrt(config.d_model)
    token, before, rest = torch.linalg.qr(torch.randn(config.d_model, config.d_model))[0].split(config.d_kv)
    set_previous_token_head(network.encoder.block[0].layer[0].SelfAttention, token, size * before)
    attention = network.decoder.block[COPYING_LAYER].layer[1].EncDecAttention
    for head, copied in enumerate((token, rest)):
        rows = slice(head * config.d_kv, (head + 1) * config.d_kv)
        attention.q.weight[rows], attention.k.weight[rows] = MATCH_SCALE * token, MATCH_SCALE * before
        attention.v.weight[rows] = copied
        attention.o.weight[:, rows] = COPY_SCALE * size * copied.T


def set_previous_token_head(attention: T5Attention, token: Tensor, before: Tensor) -> None:
    """Queries and keys are 0, so that the relative position alone decides. All layers of the encoder share its bias."""
    rows = slice(0, len(token))
    attention.q.weight[rows] = attention.k.weight[rows] = 0.0
    attention.relative_attention_bias.weight[1, 0] = PEAK  # the first bucket is the place itself
    attention.v.weight[rows] = token
    attention.o.weight[:, rows] = before.T


if __name__ == "__main__":
    main()
