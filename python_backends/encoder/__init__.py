"""The engine model: token ids in, embeddings or class scores out."""
