"""A model with the interface of a real generation model, which says its prompt back, and faults on demand.

Each word is a token, whose id is the word's length. A prompt (or the last message of a chat) may begin with
an order:

``!slow S WORDS``        take S seconds before each word
``!pause S WORDS``       take S seconds before each word from the third on
``!silent S WORDS``      say nothing for S seconds, or until the request is cancelled
``!break N WORDS``       answer INTERNAL after N words
``!unavailable K ID``    answer UNAVAILABLE to the first K requests that carry this ID
``!late ID WORDS``       answer UNAVAILABLE after the first word, once for this ID
``!invalid``             answer INVALID_ARG
``!inputs``              say what came in, as JSON
``!counts``              say how many requests were finished, were cancelled and go on, as JSON
"""

import json
import threading
import time
from collections import Counter

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class AskedError(Exception):
    """The prompt orders an error."""

    def __init__(self, message, code):
        super().__init__(message)
        self.error = pb_utils.TritonError(message, code)


class TritonPythonModel:
    def initialize(self, args):
        self.names = [one["name"] for one in json.loads(args["model_config"])["input"]]
        self.counts = Counter()
        self.refused = Counter()

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            inputs = {name: value for name in self.names if (value := read(request, name)) is not None}
            wanted = set(request.requested_output_names())
            threading.Thread(target=self.run, args=(sender, inputs, wanted), daemon=True).start()

    def run(self, sender, inputs, wanted):
        prompt = inputs["text_input"][0] if "text_input" in inputs else ""
        if "messages" in inputs:
            prompt = json.loads(inputs["messages"][0])[-1]["content"]
        self.counts["active"] += not prompt.startswith("!counts")
        try:
            ending = self.answer(sender, prompt, inputs, wanted)
        except AskedError as asked:
            sender.send(pb_utils.InferenceResponse(error=asked.error), flags=FINAL)
            ending = "failed"
        if not prompt.startswith("!counts"):
            self.counts[ending] += 1
            self.counts["active"] -= 1

    def answer(self, sender, prompt, inputs, wanted):
        streamed = inputs.get("stream", [False])[0]
        answer, held, last = [], [], None
        for word in self.words(prompt, inputs, sender.is_cancelled):
            if sender.is_cancelled():
                error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
                sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
                return "cancelled"
            if last is not None:
                answer.append(last)
                if streamed:
                    sender.send(response([last], wanted, inputs))
                else:
                    held.append(last)
            last = word
        held += [] if last is None else [last]
        completion = len(answer) + (last is not None)
        reason = "length" if completion == inputs.get("max_tokens", [10**9])[0] else "stop"
        end = {"finish_reason": reason, "prompt_tokens": len(prompt.split()), "completion_tokens": completion}
        sender.send(response(held, wanted, inputs, end), flags=FINAL)
        return "finished"

    def words(self, prompt, inputs, is_cancelled):
        order, *words = prompt.split(" ")
        limit = int(inputs.get("max_tokens", [10**9])[0])
        pause = 0.0
        if order == "!inputs":
            yield json.dumps(inputs)
            return
        if order == "!counts":
            yield json.dumps(dict(self.counts))
            return
        if order in ("!slow", "!pause"):
            pause = float(words.pop(0))
        elif order == "!silent":
            end = time.monotonic() + float(words.pop(0))
            while time.monotonic() < end and not is_cancelled():
                time.sleep(0.01)
        elif order == "!invalid":
            raise AskedError("asked to be invalid", pb_utils.TritonError.INVALID_ARG)
        elif order == "!unavailable":
            self.refuse(int(words[0]), words[1])
        elif order not in ("!break", "!late"):
            words.insert(0, order)
        breaks = int(words.pop(0)) if order == "!break" else None
        late = words.pop(0) if order == "!late" else None
        for number, word in enumerate(words[:limit]):
            # A word is sent when the next is known.
            time.sleep(pause if order == "!slow" or number > 1 else 0)
            if number == breaks:
                raise AskedError("the engine failed: asked to break", pb_utils.TritonError.INTERNAL)
            yield word if number == 0 else f" {word}"
            if late is not None and number == 1:
                self.refuse(1, late)

    def refuse(self, times, name):
        if self.refused[name] < times:
            self.refused[name] += 1
            raise AskedError("asked to be unavailable; try again later", pb_utils.TritonError.UNAVAILABLE)


def read(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    return [one.decode() if isinstance(one, bytes) else one for one in tensor.as_numpy().tolist()]


def response(words, wanted, inputs, end=None):
    lengths = np.array([len(word) for word in words])
    outputs = {
        "text_output": np.array(["".join(words).encode()], dtype=object),
        "token_ids": lengths.astype(np.int32),
    }
    if inputs.get("return_log_probs", [False])[0]:
        outputs["log_probs"] = (-lengths / 8).astype(np.float32)
    for name, value in (end or {}).items():
        outputs[name] = (
            np.array([value.encode()], object) if name == "finish_reason" else np.array([value], np.int32)
        )
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
    )
