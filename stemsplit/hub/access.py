"""Conditions under which the files of models are downloaded."""

import re
from dataclasses import dataclass
from typing import Self

from stemsplit.errors import ModelUnavailableError
from stemsplit.settings import ModelSettings

PERMISSIVE = "permissive"
NOT_STATED = "not stated"
_PERMISSIVE = re.compile(r"MIT|BSD(-[0-9]-Clause)?|Apache-2\.0|ISC|CC0(-1\.0)?|CC-BY(-[0-9]\.[0-9])?")


@dataclass(frozen=True)
class Access:
    """Conditions under which files are downloaded.

    Attributes:
        offline: open no connection.
        trust_first: take a file of which no hash is known if its size and the shapes of its tensors agree.
        licenses: that a model's weights may have, in SPDX's terms, or `permissive`; empty for any.
    """

    offline: bool = False
    trust_first: bool = False
    licenses: tuple[str, ...] = ()

    def require_license(self, name: str, license: str) -> None:
        """Refuse a model for its licence.

        Raises:
            ModelUnavailableError: its weights are under none of the licences.
        """
        if not self.licenses or any(is_under(license, wanted) for wanted in self.licenses):
            return
        asked = ",".join(self.licenses)
        raise ModelUnavailableError(
            f"{name}: refused by --license {asked}: the licence of its weights is {license}",
            model=name,
            hint=f"stemsplit models list --license {self.licenses[0]}",
        )

    @classmethod
    def of(cls, settings: ModelSettings) -> Self:
        """Return the conditions that the settings of a model state."""
        return cls(settings.offline, settings.trust_first, licenses_of(settings.license))


def licenses_of(text: str | None) -> tuple[str, ...]:
    """Return the licences that a text names, separated by commas; none for any."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def is_under(license: str, wanted: str) -> bool:
    """Return whether a licence is the one that is wanted, or a permissive one if `permissive` is wanted."""
    if wanted.lower() == PERMISSIVE:
        return bool(_PERMISSIVE.fullmatch(license))
    return license.lower() == wanted.lower()
