"""Tokenizer and engine in one model: no tensor travels between two processes."""
