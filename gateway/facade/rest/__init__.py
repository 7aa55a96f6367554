"""REST: a path and its batch form for each task that a model can declare.

A further task is a further module here, and its line in :data:`_TASKS`.
"""

from fastapi import APIRouter

from gateway.facade.rest import classification, embedding, generation, statistics

_TASKS = (embedding, classification, generation)

router = APIRouter()
for task in _TASKS:
    router.include_router(task.router)
router.include_router(statistics.router)
