"""What tests of this room share."""

from __future__ import annotations

from tests.support.issuer import issuer

__all__ = ["issuer"]
