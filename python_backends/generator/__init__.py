"""Text generation: a decoupled model that streams what an engine with continuous batching makes."""
