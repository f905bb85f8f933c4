"""Models as files: ours, those of `transformers`, and OpenAI's of 2018."""

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
INDEX_FILE = f"{MODEL_FILE}.index.json"
TOKENIZER_FILE = "tokenizer.json"
HF_VOCABULARY = ("vocab.json", "merges.txt")
CHECKPOINT_FILES = (
    CONFIG_FILE, MODEL_FILE, INDEX_FILE, "model-*.safetensors", *HF_VOCABULARY, TOKENIZER_FILE,
    "encoder_bpe_*.json", "vocab_*.bpe",
)  # fmt: skip
"""Patterns of the files that a language model's folder can be read from."""
