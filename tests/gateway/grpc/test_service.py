"""ModelService on real models: its answers are those of REST."""

from __future__ import annotations

import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from gateway.proto import model_service_pb2 as pb
from tests.gateway.grpc.conftest import METADATA, OpenDoor, told

TEXT = "a cat sits on the mat"


def embed(text: str, model: str = "") -> pb.PredictRequest:
    return pb.PredictRequest(model=model, embedding=pb.EmbeddingInput(text=text))


def classify(text: str, model: str = "") -> pb.PredictRequest:
    return pb.PredictRequest(model=model, classification=pb.ClassificationInput(text=text))


def generate(prompt: str, **sampling: object) -> pb.PredictRequest:
    return pb.PredictRequest(generation=pb.GenerationInput(prompt=prompt, sampling=pb.Sampling(**sampling)))


async def test_predict_answers_as_rest_does(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        vector = await d.stub.Predict(embed(TEXT), metadata=METADATA)
        rest = (await d.rest.post("/embed", json={"text": TEXT})).json()
        np.testing.assert_allclose(vector.embedding.values, rest["embedding"], atol=1e-6)
        assert (vector.model, vector.usage.input_tokens) == ("embed", rest["tokens"])
        assert vector.latency_ms > 0

        label = await d.stub.Predict(classify(TEXT, "sort"), metadata=METADATA)
        rest = (await d.rest.post("/classify", json={"text": TEXT})).json()
        assert label.classification.label == rest["label"]
        assert label.classification.score == pytest.approx(rest["score"])
        scores = {entry.label: entry.score for entry in label.classification.scores}
        assert scores == pytest.approx(rest["scores"])
        assert [entry.label for entry in label.classification.scores] == ["calm", "glad", "sad"]

        text = await d.stub.Predict(generate(TEXT, max_tokens=6), metadata=METADATA)
        rest = (await d.rest.post("/predict", json={"text": TEXT, "max_length": 6})).json()
        assert text.generation.text == rest["output"]
        assert text.usage.output_tokens == rest["tokens_generated"] == len(text.generation.token_ids)
        assert text.generation.finish_reason == pb.FINISH_REASON_LENGTH


async def test_a_stream_is_the_whole_answer_in_parts(grpc_door: OpenDoor) -> None:
    sampling = pb.Sampling(max_tokens=12, return_log_probs=True)
    turns = [pb.ChatMessage(role="user", content=TEXT)]
    asked = pb.GenerationInput(conversation=pb.Conversation(messages=turns), sampling=sampling)
    async with grpc_door() as d:
        whole = await d.stub.Predict(pb.PredictRequest(generation=asked), metadata=METADATA)
        call = d.stub.StreamPredict(pb.StreamPredictRequest(generation=asked), metadata=METADATA)
        parts = [part async for part in call]
    assert len(parts) > 3
    assert "".join(part.generation.text for part in parts) == whole.generation.text
    tokens = [token for part in parts for token in part.generation.token_ids]
    assert tokens == list(whole.generation.token_ids)
    log_probs = [value for part in parts for value in part.generation.log_probs]
    assert log_probs == pytest.approx(list(whole.generation.log_probs))
    assert len(log_probs) == len(tokens)
    assert [part.model for part in parts] == ["tinygen"] + [""] * (len(parts) - 1)
    ends = [part.generation.finish_reason for part in parts]
    assert ends == [pb.FINISH_REASON_UNSPECIFIED] * (len(parts) - 1) + [whole.generation.finish_reason]
    assert parts[-1].usage == whole.usage
    assert parts[-1].latency_ms > 0


async def test_a_batch_answers_each_in_its_place(grpc_door: OpenDoor) -> None:
    requests = [
        embed("one"),
        classify("two"),
        embed(""),
        generate("three", max_tokens=3),
        embed("four", "nobody"),
        embed("five", "sort"),
        pb.PredictRequest(),
        embed("six"),
        generate("seven", temperature=5),
    ]
    async with grpc_door() as d:
        batch = await d.stub.BatchPredict(pb.BatchPredictRequest(requests=requests), metadata=METADATA)
        alone = [await d.stub.Predict(requests[i], metadata=METADATA) for i in (0, 1, 3, 7)]
    kinds = [answer.WhichOneof("outcome") for answer in batch.answers]
    assert [i for i, kind in enumerate(kinds) if kind == "response"] == [0, 1, 3, 7]
    for position, single in zip((0, 1, 3, 7), alone, strict=True):
        answer = batch.answers[position].response
        assert answer.model == single.model
        np.testing.assert_allclose(answer.embedding.values, single.embedding.values, atol=1e-5)
        assert answer.classification.label == single.classification.label
        assert answer.generation == single.generation
    assert batch.usage.input_tokens == sum(single.usage.input_tokens for single in alone)
    assert batch.usage.output_tokens == 3
    errors = {i: answer.error for i, answer in enumerate(batch.answers) if answer.HasField("error")}
    assert {i: told(error, ErrorInfo).reason for i, error in errors.items()} == {
        2: "missing_field",
        4: "model_not_found",
        5: "wrong_task",
        6: "missing_field",
        8: "invalid_value",
    }
    fields = {i: told(error, ErrorInfo).metadata["field"] for i, error in errors.items()}
    assert fields[2] == "requests.2.embedding.text"
    assert fields[6] == "requests.6.input"
    assert fields[8] == "requests.8.generation.sampling.temperature"


async def test_a_batch_has_a_model_for_those_that_name_none(grpc_door: OpenDoor) -> None:
    request = pb.BatchPredictRequest(model="sort", requests=[classify("one"), embed("two", "embed")])
    async with grpc_door() as d:
        batch = await d.stub.BatchPredict(request, metadata=METADATA)
    assert [answer.response.model for answer in batch.answers] == ["sort", "embed"]


async def test_a_batch_of_one_task_is_one_request_to_the_model(grpc_door: OpenDoor) -> None:
    requests = [embed(f"text {i}") for i in range(4)]
    async with grpc_door() as d:
        asked: list[int] = []
        infer = d.facade.channel.infer

        async def watch(request, **rest):
            asked.append(request.inputs[0].shape[0])
            return await infer(request, **rest)

        d.facade.channel.infer = watch
        await d.stub.BatchPredict(pb.BatchPredictRequest(requests=requests), metadata=METADATA)
    assert asked == [4]
