"""sentence-transformers behind FastAPI: one encode call a request, in FastAPI's thread pool."""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

from embedder import load
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = load()


class Question(BaseModel):
    """What is asked."""

    text: str


class Answer(BaseModel):
    """What comes back."""

    embedding: list[float]


@app.get("/health")
def health() -> dict[str, str]:
    """Answer once the model is loaded."""
    return {"status": "ok"}


@app.post("/embed")
def embed(question: Question) -> Answer:
    """Embed one text; `def`, as FastAPI's documentation has it for calls that block."""
    return Answer(embedding=model.encode(question.text).tolist())
