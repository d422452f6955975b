"""a tiny BERT with random weights and a tokenizer of whole words, and rows to train a head on"""

import json
from pathlib import Path

CIVIL = ["kind", "calm", "gentle", "warm", "honest", "patient"]
RUDE = ["rotten", "vile", "nasty", "foul", "rank", "grim"]
WIDTH = 32  # more than there are words, so that a head can tell any of them
FILLER = ["the", "day", "was", "a", "and", "we", "had", "tea", "then", "rain"]


def tokenizer_of(words):
    """Whole words, with BERT's special tokens."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=engine,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )


def save_encoder(folder: Path, seed: int = 0, **config) -> Path:
    """A one-layer BERT with its tokenizer."""
    import torch
    import transformers

    tokenizer = tokenizer_of([*CIVIL, *RUDE, *FILLER])
    torch.manual_seed(seed)
    settings = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,
        **config,
    )
    model = transformers.BertModel(settings)
    # as in a trained encoder, a word matters more than its place
    model.embeddings.position_embeddings.weight.data.mul_(0.1)
    model.embeddings.token_type_embeddings.weight.data.mul_(0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def labelled_rows(n: int, seed: int = 0, words_per_text: int = 3) -> list[dict]:
    """Rows in turn civil and rude, by one or several words of a kind among others."""
    import random

    draw = random.Random(seed)
    rows = []
    for i in range(n):
        kind = RUDE if i % 2 else CIVIL
        words = draw.choices(kind, k=words_per_text) + draw.choices(FILLER, k=draw.randint(3, 12))
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": i % 2})
    return rows


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
