"""Rejects recordings that are too long, or whose sampling rate no recorder has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from extract.audio.faults import AudioError
from extract.audio.spans import Span

MAX_RATE_HZ = 3_072_000  # a header may claim 2 GHz: swresample's filter would take gigabytes


@dataclass(frozen=True)
class Gate:
    """Rejects a span longer than `max_duration_s`; `where` names the recording in errors."""

    where: str
    max_duration_s: float
    span: Span

    @cached_property
    def limit_s(self) -> float:
        """Seconds of the longest recording whose span is not too long."""
        return self.span.limit_s(self.max_duration_s)

    def check(self, duration_s: float, rate_hz: int, found: str = "decoded") -> None:
        """AudioError, `undecodable` or `too_long`, unless both are what is wanted."""
        if not 0 < rate_hz <= MAX_RATE_HZ:
            raise AudioError(
                "undecodable", f"{self.where}: {rate_hz} Hz; 1 to {MAX_RATE_HZ} Hz are needed"
            )
        if duration_s > self.limit_s:
            held_s = min(duration_s, self.span.stop_s) - self.span.start_s
            raise AudioError(
                "too_long",
                f"{self.where}: {found} {held_s:.1f} s; "
                f"at most {self.max_duration_s:g} s (max_duration_s) are wanted",
            )

    def begun_at(self, second: int) -> Callable[[float, int], None]:
        """`check` for a recording that is decoded from that second on."""
        return lambda duration_s, rate_hz: self.check(second + duration_s, rate_hz)
