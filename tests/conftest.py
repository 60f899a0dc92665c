import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("kvbound", deadline=None)  # busy machines stall: a slow example is no failure
settings.load_profile("kvbound")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell sets it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep made traces out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVBOUND_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
