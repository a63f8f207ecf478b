"""A tiny random Llama, a tokenizer, a template: ``python -m tests.vllm.tiny_model DIR``.

4 layers of width 256, a byte-level BPE tokenizer trained on the text below, 2048 positions. It says
nothing sensible; it starts in seconds on a CPU and behaves in every other way like a model.
"""

import json
import sys
from pathlib import Path

POSITIONS = 2048
MOST_TOKENS = 512
SEED = 7

TEXT = """
The carpool leaves the yard at seven. Whoever waits at the corner may come along, and whoever is
late takes the next car. The driver asks each of them where they want to go, thinks for a moment,
and finds the way that serves all. Nobody drives alone, no seat stays empty, and the road is free.
On Monday it rains; on Tuesday the bridge is closed; on Wednesday the engine will not start, and
they all push until it does. What is a good journey? One that ends, says the driver, where it was
meant to end, with everyone still on board. Count the people: one, two, three, four, five, six,
seven, eight, nine, ten. Count them again when you arrive. If one is missing, go back.
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|pad|>", "<|start|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def build(directory: Path) -> Path:
    """Write the model into a directory, the same weights every time; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    _weights(directory, vocabulary=_tokenizer(directory))
    return directory


def _tokenizer(directory: Path) -> int:
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TEXT.splitlines(), vocab_size=MOST_TOKENS, min_frequency=1, special_tokens=_SPECIAL
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": POSITIONS,
        "pad_token": _SPECIAL[0],
        "bos_token": _SPECIAL[1],
        "eos_token": _SPECIAL[2],
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration))
    return int(tokenizer.get_vocab_size())


def _weights(directory: Path, *, vocabulary: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    configuration = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(configuration).to(torch.bfloat16).save_pretrained(directory)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
