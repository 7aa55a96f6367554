"""OpenAI's API: embeddings, chat, completions, models.

https://platform.openai.com/docs/api-reference; docs/gateway_openai.md says what is honoured.
"""

from fastapi import APIRouter

from gateway.facade.openai import chat, completions, embeddings, models

router = APIRouter(tags=["openai"])
for room in (chat, completions, embeddings, models):
    router.include_router(room.router)
