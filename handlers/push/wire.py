"""What registering a device looks like on the wire (spec 7)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from handlers.wire import Request

Platform = Literal["ios", "android", "web"]

MAX_DEVICE_ID = 128
# As in a socket's `auth`, so that both name the same device. NUL can't be stored.
DeviceId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_DEVICE_ID, pattern=r"^[^\x00]*\Z")]
# What a provider gives an app: no white space, nothing but ASCII.
PushToken = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[!-~]*\Z")]


class RegisterRequest(Request, frozen=True):
    """`POST /v1/devices`: where this device can be told though it is not connected."""

    device_id: DeviceId
    token: PushToken
    platform: Platform
