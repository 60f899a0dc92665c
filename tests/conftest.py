import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("kvbound", deadline=None)  # busy machines stall: a slow example is no failure
settings.load_profile("kvbound")

# A shell has them ignored for what runs in the background or under nohup. Tests send them to themselves and
# to processes that they start, which inherit what is ignored, but no handler.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep made traces out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVBOUND_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
