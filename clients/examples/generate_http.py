"""Stream an answer over HTTP with Python alone: ``generate_stream`` sends server-sent events.

With curl: ``curl -N localhost:8000/v2/models/smollm2/generate_stream -d '{"text_input": "Once upon a time",
"stream": true, "max_tokens": 50}'``. Run it with
``python -m clients.examples.generate_http --url localhost:8000 --model smollm2 "Once upon a time"``.
"""

import argparse
import json
import urllib.error
import urllib.request


def main() -> None:
    """Continue a text, and print what comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--url", default="localhost:8000", help="host:port of the HTTP endpoint")
    parser.add_argument("--model", default="smollm2", help="a model that generates text")
    args = parser.parse_args()

    fields = {"text_input": args.prompt, "stream": True, "max_tokens": 50, "temperature": 0.7, "seed": 1}
    request = urllib.request.Request(
        f"http://{args.url}/v2/models/{args.model}/generate_stream",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        # To leave the block early closes the connection, and the server stops with the next piece.
        with urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:
                    raise SystemExit(f"failed: {event['error']}")
                print(event["text_output"], end="", flush=True)
                if "finish_reason" in event:
                    print(f"\n({event['completion_tokens']} tokens, {event['finish_reason']})")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"failed: {error.read().decode()}") from error


if __name__ == "__main__":
    main()
