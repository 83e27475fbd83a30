import os
import signal

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=200)
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Shells have what runs in their background ignore Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng(request):
    """Random numbers of the test's own: the same in every run, others in every test."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
