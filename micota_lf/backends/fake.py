"""Instant responses that depend on prompt, seed and which of several they are: for tests and notebooks."""

import random
from collections.abc import Iterable, Iterator

from ..system.files import digest
from . import Base, Completion, Request


class Backend(Base):
    """A short text with a boxed number between 0 and 99."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield them in the order of the requests."""
        for request in requests:
            own = [request.id] if self.sampling.samples > 1 else []
            rng = random.Random(digest([self.model.ref, request.text, self.sampling.seed, *own]))
            words = f"Let me think. The answer is \\boxed{{{rng.randrange(100)}}}.".split(" ")
            kept = words[: self.sampling.room(len(request.text.split()))]
            reason = "stop" if len(kept) == len(words) else "length"
            yield Completion(request.id, " ".join(kept), reason, len(request.text.split()), len(kept))
