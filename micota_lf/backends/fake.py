"""Instant responses that depend on the prompt and the seed alone: for tests and notebooks."""

import random
from collections.abc import Iterable, Iterator

from ..system.files import digest
from . import Base, Completion, Request


class Backend(Base):
    """A short text with a boxed number between 0 and 99."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield them in the order of the requests."""
        for request in requests:
            rng = random.Random(digest([self.model.ref, request.text, self.sampling.seed]))
            words = f"Let me think. The answer is \\boxed{{{rng.randrange(100)}}}.".split(" ")
            kept = words[: self.sampling.room(len(request.text.split()))]
            reason = "stop" if len(kept) == len(words) else "length"
            yield Completion(request.id, " ".join(kept), reason, len(request.text.split()), len(kept))
