"""Which version answers, set from outside while a replica serves; no Ray, no event loop.

Knows slots, the states beside them and the folders in which versions are published. Everything here
may block, and is called from the one thread that loads.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from ifa_ray.errors import RequestError
from ifa_ray.sequence_states import SequenceStates
from ifa_ray.serving.settings import LiveSettings
from ifa_ray.serving.slots import Loaded, Slot
from ifa_ray.training.storage import newest_version

__all__ = ["LOG", "UnknownSlotError", "apply_pins", "forgetting"]

LOG = logging.getLogger("ray.serve")
"""Serve's, which adds the replica's name, and writes JSON where asked to."""


class UnknownSlotError(RequestError):
    """A request or a pin names a slot that this application does not have."""


def apply_pins(
    live: LiveSettings,
    slots: Sequence[Slot],
    roots: Sequence[Path | str | None],
    states: Sequence[SequenceStates],
) -> None:
    """Pins the slots that are listed and unpins all others; all of them or, on an error, none.

    A slot that is unpinned catches up with what was published meanwhile.

    Args:
        live: what is wanted.
        slots: of a replica.
        roots: of each slot, the folder or URL of its versions; None where it has none.
        states: of each slot; empty where none are kept.

    Raises:
        UnknownSlotError: if a slot is not there.
        CheckpointError: if a version is not there, or the slot's is fixed by its settings.
    """
    brought: dict[int, Loaded] = {}
    for pin in live.pins:
        if pin.slot >= len(slots):
            raise UnknownSlotError(f"slot == {pin.slot}, must be in [0, {len(slots) - 1}].")
        brought[pin.slot] = slots[pin.slot].bring(pin.version)
    for place, slot in enumerate(slots):
        before, wanted = slot.pinned, brought.get(place)
        if wanted is None and before is None:
            continue
        with forgetting(slot, states[place] if states else None):
            slot.pin(wanted)
            if wanted is None:
                _catch_up(slot, roots[place])
        how = "unpinned" if wanted is None else "pinned"
        LOG.info("slot %d %s: version %d answers", place, how, slot.current.version)


def _catch_up(slot: Slot, root: Path | str | None) -> None:
    newest = None if root is None else newest_version(root)
    if newest is not None:
        slot.load(newest)


@contextlib.contextmanager
def forgetting(slot: Slot, states: SequenceStates | None) -> Iterator[None]:
    """Drops the states of versions that a slot gives up meanwhile."""
    before = slot.versions
    yield
    for gone in set(before) - set(slot.versions) if states is not None else ():
        assert states is not None
        states.forget_version(gone)
