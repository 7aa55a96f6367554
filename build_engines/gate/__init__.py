"""Is what was built good enough to serve?"""
