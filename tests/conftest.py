"""One fixed profile for property tests: the same examples on every machine, no wall clock."""

from hypothesis import settings

settings.register_profile("fixed", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("fixed")
