from tests.serving.storage.conftest import postgres

__all__ = ["postgres"]
