"""What runs inside Triton's Python backend.

The folder is copied into each version folder of a served model as ``served_backends``, so it uses
relative imports only and needs nothing of tritonforge: numpy, and ``tokenizers`` or an engine.
"""
