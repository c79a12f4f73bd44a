"""Warnings about others, each of them once: who is at fault may go on for days, and must not fill our log."""

import logging

REASONS_MAX = 16
"""For so many reasons a warning of one kind is repeated; a text may come from the other side."""


class Complaints:
    """What a port has warned of; the counters tell the rest."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._warned: dict[str, set[str]] = {}

    def warn_once(self, kind: str, text: str, *facts: object, reason: object = None) -> None:
        """Log a warning the first time a *kind* of thing happens for this *reason*."""
        warned = self._warned.setdefault(kind, set())
        why = "" if reason is None else _in_words(reason)
        if why not in warned and len(warned) < REASONS_MAX:
            warned.add(why)
            told = "; ".join(map(_in_words, (*facts, why) if why else facts))
            self._log.warning("%s (%s); further ones are only counted", text, told)

    def calmed(self, kind: str) -> None:
        """What `warn_once` told under *kind* is over, whatever its reason; tell it again if it comes back."""
        self._warned.pop(kind, None)


def _in_words(fact: object) -> str:
    return str(fact) or type(fact).__name__  # a TimeoutError has no text
