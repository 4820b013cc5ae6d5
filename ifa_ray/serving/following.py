"""Slots that look for newer versions by themselves, now and then.

Knows slots, a way to load and where versions lie; no Ray, no event loop. A push or a request that
asks for a version is faster; this is for versions that come from where nobody pushes, such as a
training that publishes to a bucket. A store that cannot be reached changes nothing: the slot goes
on with what it has, and looks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ifa_ray.errors import IfaRayError
from ifa_ray.serving.pins import LOG
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.slots import Slot
from ifa_ray.training.storage import newest_version

__all__ = ["Following", "follow_slots", "look_once"]


class Following:
    """A thread that looks every so many seconds, until it is closed."""

    def __init__(self, look: Callable[[], object], every_s: float) -> None:
        """Starts it.

        Args:
            look: called each time, first after `every_s`; raises nothing.
            every_s: seconds between the end of a look and the next.
        """
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(look, every_s), name="following", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends it after the look that it is at."""
        self._ended.set()
        self._thread.join()

    def _run(self, look: Callable[[], object], every_s: float) -> None:
        while not self._ended.wait(every_s):
            look()


def follow_slots(
    settings: AppSettings, slots: Sequence[Slot], load: Callable[[int, int], None]
) -> list[Following]:
    """Starts a thread for each slot whose settings ask for it.

    Args:
        settings: of the application.
        slots: of a replica.
        load: brings a version into memory, given the slot's place and the version.
    """

    def looking(place: int, checkpoints: str) -> Callable[[], object]:
        return lambda: look_once(place, slots[place], checkpoints, load)

    return [
        Following(looking(place, slot.checkpoints), slot.follow_s)
        for place, slot in enumerate(settings.slots)
        if slot.follow_s is not None and slot.checkpoints is not None and place < len(slots)
    ]


def look_once(place: int, slot: Slot, checkpoints: str, load: Callable[[int, int], None]) -> bool:
    """Loads the newest version of a folder or URL if the slot has an older one.

    A slot that is pinned is left alone; it catches up when it is unpinned.

    Returns:
        Whether a version was loaded. Where one could not be, the log says why.
    """
    try:
        newest = newest_version(checkpoints)
        if newest is None or newest <= slot.newest.version or slot.pinned is not None:
            return False
        load(place, newest)
    except (IfaRayError, OSError) as error:
        LOG.warning("slot %d goes on with version %d: %s", place, slot.current.version, error)
        return False
    LOG.info("slot %d: version %d answers", place, slot.current.version)
    return True
