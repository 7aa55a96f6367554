"""The fan-out model: a request of many rows becomes as many requests of one row to the engine.

Triton's TensorRT backend counts ``batch_input`` by request, so its ragged batches need one text a request.
"""
