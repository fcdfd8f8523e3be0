"""The stores of a sweep, by their metadata: the settings that differ, and the one compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.store import metadata
from extract.store.existing import existing_store
from extract.store.layout import TrainingAudio
from extract.store.metadata import LATER_SETTINGS
from extract.store.store import Store
from extract.values import AudioSettings, RatePath

MODEL = "model"  # the model's path or hub id, shown where weights differ
WEIGHTS = "model.weights"

# Features of stores that differ in one of these are no two versions of the same features.
OF_OTHER_FEATURES = (WEIGHTS, "model.layer", "model.projection", "model.final_norm")


@dataclass(frozen=True)
class Member:
    """One job's store."""

    directory: Path
    settings: Mapping[str, Any]  # its identity, with what it leaves out; empty: not known
    store: Store | None  # None where its files cannot be read
    problem: str = ""  # why settings or files are not known

    @property
    def no_audio(self) -> str:
        """Why the store keeps no training audio; "" where it does, or where that is not known."""
        if self.store is None:
            return ""
        if not self.store.layout.keeps_audio:
            return f"the layout {self.store.layout_name} keeps no training audio"
        if self.settings.get("audio.rate_path") != RatePath.via_32k.name:
            return f"audio.rate_path={self.settings.get('audio.rate_path')} makes no training audio"
        return "" if self.store.options.audio is TrainingAudio.wav32k else "store.audio=none"


def member(directory: Path) -> Member:
    """A store as far as its metadata can be read."""
    settings: dict[str, Any] = {}
    try:
        known = metadata.read(directory)
        if known is None:
            return Member(directory, {}, None, "no metadata.json: its settings are not known")
        model = known.get("made_with", {}).get(MODEL, "")
        settings = {**LATER_SETTINGS, **known["identity"], MODEL: str(model)}
        return Member(directory, settings, existing_store(directory))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Member(directory, settings, None, str(error))


def differing(members: Sequence[Member]) -> list[str]:
    """The settings whose values are not the same in all stores whose settings are known."""
    known = [one.settings for one in members if one.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    return [
        key
        for key in keys
        if any(settings.get(key) != known[0].get(key) for settings in known)
        and not (key == MODEL and all(one.get(WEIGHTS) == known[0].get(WEIGHTS) for one in known))
    ]


def reference(
    members: Sequence[Member], keys: Sequence[str], has_any: Sequence[bool]
) -> tuple[int, bool]:
    """Which store the others' features are compared with, and whether it has all defaults.

    The first one whose differing settings are at their defaults, as far as a default is known
    without the run's config; else the first whose files can be read.

    Args:
        members: the stores.
        keys: the settings that differ.
        has_any: whether a store has saved anything.
    """
    usable = [n for n, one in enumerate(members) if has_any[n] and one.store is not None]
    defaults = _defaults()
    judged = [key for key in keys if key in defaults]
    for number in usable if judged else ():
        if all(members[number].settings.get(key) == defaults[key] for key in judged):
            return number, True
    return next(iter(usable), 0), False


def _defaults() -> Mapping[str, Any]:
    """The defaults of the group `audio` and of settings that an identity may leave out."""
    audio = AudioSettings()
    first = {f"audio.{name}": getattr(audio, name) for name in metadata.FIRST_SETTINGS}
    return {**first, "audio.resampler": audio.resampler.name, **LATER_SETTINGS}


def not_comparable(one: Member, other: Member) -> str:
    """Why the features of two stores are no two versions of the same; "" where they are."""
    keys = [key for key in OF_OTHER_FEATURES if one.settings.get(key) != other.settings.get(key)]
    return f"drift is not comparable: another {' and '.join(keys)}" if keys else ""
