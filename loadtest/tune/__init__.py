"""Searches the serving settings of a recipe with the real server under real load.

Only what cannot change an answer is searched: batching, instances, threads, the token budget. Engines are not
built again: each trial serves the published files with configs that the build's own functions write.
"""
