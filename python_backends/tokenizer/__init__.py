"""The tokenizer model: texts in, token ids out."""
