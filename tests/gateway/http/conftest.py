"""The site that HTTP tests ask."""

from __future__ import annotations

from tests.support.site import sealed, site

__all__ = ["sealed", "site"]
