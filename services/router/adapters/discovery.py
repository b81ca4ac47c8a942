"""The local copy of what etcd holds: instances, slot tables, pins, triggers.

Watches feed the core; no request waits for etcd. Values are validated here, since
anything may have written them; an invalid one is logged and ignored.

Source: design, section 6, invariant I8.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from relaygr.domain.instance import ID_BYTES_MAX, InstanceRecord, InvalidRecord
from relaygr.registry import Change, Deleted, Listed, Put, Registry, Watch, keys
from relaygr.runtime.logs import next_step
from services.router.core import events
from services.router.core.pins import WINDOW_NS_MAX
from services.router.core.slots import InvalidTable, SlotTable

_log = logging.getLogger(__name__)
_FOREIGN = next_step("find out who writes this key in etcd: another release, or something that is not RelayGR")


class Discovery:
    """Follows etcd and feeds the core.

    Args:
        registry: etcd.
        feed: takes the core's events.
        clock: monotonic nanoseconds.
        unix_clock: wall-clock nanoseconds; pins carry their end in it.
        is_whole: False follows instances and slot tables alone, for who neither reads pins nor serves triggers.
    """

    def __init__(
        self,
        registry: Registry,
        feed: Callable[[events.Event], None],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        unix_clock: Callable[[], int] = time.time_ns,
        is_whole: bool = True,
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._unix_clock = unix_clock
        self._triggers: set[str] = set()
        self._tables: set[str] = set()
        self._pins: set[str] = set()
        # The instances last: a user is placed only when slots and pins are there, if etcd is.
        self._watches = [registry.watch_prefix(keys.SLOTS_PREFIX, self._slots_changed)]
        if is_whole:
            self._watches += [
                registry.watch_prefix(keys.PINS_PREFIX, self._pins_changed),
                registry.watch_prefix(keys.TRIGGERS_PREFIX, self._triggers_changed),
            ]
        self.instances: Watch = registry.watch_prefix(keys.INSTANCES_PREFIX, self._instances_changed)

    @property
    def trigger_count(self) -> int:
        """Triggers alive, at least 1."""
        return max(1, len(self._triggers))

    def _instances_changed(self, change: Change) -> None:
        match change:
            case Listed(values):
                records = [_record_of(key, value) for key, value in values.items()]
                self._feed(events.Listed(tuple(record for record in records if record is not None)))
            case Put(key, value):
                record = _record_of(key, value)
                if record is not None:
                    self._feed(events.Registered(record))
            case Deleted(key):
                self._feed(events.Departed(keys.id_of(key, keys.INSTANCES_PREFIX)))

    def _slots_changed(self, change: Change) -> None:
        match change:
            case Listed(values):
                shown = {keys.id_of(key, keys.SLOTS_PREFIX) for key in values}
                for model_key in sorted(self._tables - shown):
                    self._feed(events.TableRead(model_key, None))
                self._tables = shown
                for key, value in values.items():
                    self._table_read(key, value)
            case Put(key, value):
                self._tables.add(keys.id_of(key, keys.SLOTS_PREFIX))
                self._table_read(key, value)
            case Deleted(key):
                self._tables.discard(keys.id_of(key, keys.SLOTS_PREFIX))
                self._feed(events.TableRead(keys.id_of(key, keys.SLOTS_PREFIX), None))

    def _table_read(self, key: str, value: bytes) -> None:
        try:
            self._feed(events.TableRead(keys.id_of(key, keys.SLOTS_PREFIX), SlotTable.from_json(value)))
        except InvalidTable as error:
            _log.warning("%s is not a slot table and is ignored: %s", key, error, extra=_FOREIGN)

    def _pins_changed(self, change: Change) -> None:
        match change:
            case Listed(values):
                shown = {keys.id_of(key, keys.PINS_PREFIX) for key in values}
                for user_hash in sorted(self._pins - shown):
                    self._feed(events.PinDropped(user_hash))
                self._pins = shown
                for key, value in values.items():
                    self._pin_read(key, value)
            case Put(key, value):
                self._pins.add(keys.id_of(key, keys.PINS_PREFIX))
                self._pin_read(key, value)
            case Deleted(key):
                self._pins.discard(keys.id_of(key, keys.PINS_PREFIX))
                self._feed(events.PinDropped(keys.id_of(key, keys.PINS_PREFIX)))

    def _pin_read(self, key: str, value: bytes) -> None:
        try:
            instance_id, epoch, expires_unix_ns = pin_from_json(value)
        except ValueError as error:
            _log.warning("%s is not a pin and is ignored: %s", key, error, extra=_FOREIGN)
            return
        left_ns = min(WINDOW_NS_MAX, expires_unix_ns - self._unix_clock())
        user_hash = keys.id_of(key, keys.PINS_PREFIX)
        self._feed(events.PinRead(user_hash, instance_id, epoch, self._clock() + left_ns))

    def _triggers_changed(self, change: Change) -> None:
        match change:
            case Listed(values):
                self._triggers = set(values)
            case Put(key, _):
                self._triggers.add(key)
            case Deleted(key):
                self._triggers.discard(key)


def pin_to_json(instance_id: str, epoch: int, expires_unix_ns: int) -> str:
    """The registry's value of a pin."""
    value = {"instance_id": instance_id, "epoch": epoch, "expires_unix_ns": expires_unix_ns}
    return json.dumps(value, separators=(",", ":"))


def pin_from_json(text: bytes) -> tuple[str, int, int]:
    """Instance, epoch and expiry (Unix nanoseconds) of a pin.

    Raises:
        ValueError: not a pin.
    """
    if len(text) > 1024:
        raise ValueError("too long")
    try:
        raw = json.loads(text)
        instance_id, epoch, expires_unix_ns = raw["instance_id"], raw["epoch"], raw["expires_unix_ns"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(instance_id, str) or not 0 < len(instance_id.encode()) <= 4 * ID_BYTES_MAX:
        raise ValueError("instance_id must be a short string")
    for number in (epoch, expires_unix_ns):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**64:
            raise ValueError("epoch and expires_unix_ns must be whole numbers above 0")
    return instance_id, epoch, expires_unix_ns


def _record_of(key: str, value: bytes) -> InstanceRecord | None:
    try:
        record = InstanceRecord.from_json(value)
        if record.instance_id != keys.id_of(key, keys.INSTANCES_PREFIX):
            raise InvalidRecord(f"names {record.instance_id}")
    except (InvalidRecord, UnicodeDecodeError, RecursionError) as error:
        _log.warning("%s is not an instance and is ignored: %s", key, error, extra=_FOREIGN)
        return None
    return record
