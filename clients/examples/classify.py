"""Classify texts over gRPC: best label and score of each, and the scores of all labels.

Run it with ``python -m clients.examples.classify --url localhost:8001 --model spam``.
"""

import argparse

import numpy as np
import tritonclient.grpc as triton

TEXTS = ["You have won a prize, send your account number!", "The meeting moved to three o'clock."]


def main() -> None:
    """Send one request and print a line for each text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", required=True, help="a classification model")
    parser.add_argument("texts", nargs="*", default=TEXTS, help="texts to classify")
    args = parser.parse_args()

    text = triton.InferInput("text", [len(args.texts), 1], "BYTES")
    text.set_data_from_numpy(np.array([[t.encode()] for t in args.texts], dtype=np.object_))
    outputs = [triton.InferRequestedOutput(name) for name in ("label", "score", "scores")]
    with triton.InferenceServerClient(args.url) as client:
        result = client.infer(args.model, [text], outputs=outputs, client_timeout=30)
    labels, best, scores = (result.as_numpy(name) for name in ("label", "score", "scores"))
    for line, label, score, row in zip(args.texts, labels[:, 0], best[:, 0], scores, strict=True):
        print(f"{label.decode():12} {score:.3f}  {np.round(row, 3)}  {line}")


if __name__ == "__main__":
    main()
