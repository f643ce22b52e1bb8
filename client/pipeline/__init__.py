"""Documents through a broker: submitted once, answered by any number of workers, stored before they are acknowledged.

A work item is one image of a document and what is asked about it. Its life:

1. `submit.py` puts the image into the image store and a row `waiting` into the database: nothing can be lost from here.
2. `feed.py` moves rows to the broker, a few of each document at a time: no document waits for the end of another.
3. `handler.py` takes a message, claims its row for a while, asks, stores the answer under its key, and lets go of the
   message only then. What comes again is found stored, and let go of.
4. A row that was tried too often, or a message that nobody understands, goes to the dead-letter queue with its reason.

`worker.py` holds `Settings` and `Worker`. Only `models.py` and `kinds.py` can be imported without the extra `pipeline`.
"""

from client.pipeline.models import Counts, State, Work

__all__ = ["Counts", "State", "Work"]
