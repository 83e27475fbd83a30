import os

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=200)
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def rng(request):
    """Random numbers of the test's own: the same in every run, others in every test."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
