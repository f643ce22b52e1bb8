from __future__ import annotations

import base64
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson

from serving.access.signer import Signer
from serving.dashscope.oss import Refusal, wrong_signature
from serving.generation import Caller

CLOUD_TIME = timezone(timedelta(hours=8))
EXPIRES_IN_S = 300
BUCKET = "dashscope-file-mgr"
ACL = "private"
FORBID_OVERWRITE = "true"
ACCESS_KEY_ID = "homescope"
"""Names the signing key, as OSS has it; there is one."""
KEY_BYTES = 1023
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PURPOSE = "upload"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Granted:
    """What a form may do that came with a valid policy: put up to `limit` bytes under `key` for the API key `owner`."""

    key: str
    owner: str
    model: str
    limit: int


class Policies:
    """Certificates for uploads, as OSS signs them: who has one may put objects below its folder for five minutes."""

    def __init__(self, signer: Signer, max_bytes: int, *, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._max_bytes = max_bytes
        self._clock = clock

    async def issue(self, caller: Caller, model: str, upload_host: str) -> dict[str, Any]:
        """The certificate as the client is told it; some clients need every key of it."""
        folder = await self._folder(caller)
        policy = base64.b64encode(orjson.dumps(self._policy(folder, caller, model))).decode()
        return {
            "policy": policy,
            "signature": await self._signature(policy),
            "upload_dir": folder,
            "upload_host": upload_host,
            "expire_in_seconds": EXPIRES_IN_S,
            "max_file_size_mb": self._max_bytes // MIB,
            "capacity_limit_mb": 999_999_999,
            "oss_access_key_id": ACCESS_KEY_ID,
            "x_oss_object_acl": ACL,
            "x_oss_forbid_overwrite": FORBID_OVERWRITE,
        }

    async def check(self, fields: Mapping[str, str], filename: str) -> Granted:
        """What the form may do; `fields` by their names in lower case. Raises `Refusal`."""
        policy = _required(fields, "policy")
        key = _required(fields, "key").replace("${filename}", filename)
        if _required(fields, "ossaccesskeyid") != ACCESS_KEY_ID:
            raise Refusal(
                403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records."
            )
        signature = _required(fields, "signature")
        if not hmac.compare_digest(signature.encode(), (await self._signature(policy)).encode()):
            raise wrong_signature()
        granted = orjson.loads(base64.b64decode(policy))  # our own words: the signature is right
        if datetime.fromisoformat(granted["expiration"]).timestamp() <= self._clock():
            raise _violated("Policy expired.")
        _check_key(key)
        limit = _check_conditions(granted["conditions"], {**fields, "key": key})
        return Granted(key, granted["owner"], granted["model"], limit)

    async def _folder(self, caller: Caller) -> str:
        account = (await self._signer.sign("account", caller.key_id)).hex()[:32]
        day = datetime.fromtimestamp(self._clock(), CLOUD_TIME).date()
        return f"dashscope-instant/{account}/{day}/{uuid.uuid4()}"

    def _policy(self, folder: str, caller: Caller, model: str) -> dict[str, Any]:
        expiration = datetime.fromtimestamp(int(self._clock()) + EXPIRES_IN_S, UTC)
        return {
            "expiration": expiration.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "conditions": [
                ["content-length-range", 0, self._max_bytes],
                ["starts-with", "$key", folder],
                {"bucket": BUCKET},
                {"x-oss-object-acl": ACL},
                {"x-oss-forbid-overwrite": FORBID_OVERWRITE},
            ],
            "owner": caller.key_id,
            "model": model,
        }

    async def _signature(self, policy: str) -> str:
        return base64.b64encode(await self._signer.sign(PURPOSE, policy)).decode()


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name)
    if not value:
        raise Refusal(403, "AccessDenied", f"The form lacks the field {name!r}, which has to come before the file.")
    return value


def _check_key(key: str) -> None:
    segments = key.split("/")
    if len(key.encode()) > KEY_BYTES or CONTROL.search(key) or {"", ".", ".."} & set(segments):
        raise Refusal(400, "InvalidObjectName", "The specified object is not valid.")


def _check_conditions(conditions: list[Any], fields: Mapping[str, str]) -> int:
    """The largest size that is allowed. Raises `Refusal` for a field that is not as the policy has it."""
    limit = 0
    for condition in conditions:
        match condition:
            case ["content-length-range", _, most]:
                limit = most
            case ["starts-with", "$key", folder]:
                # With the slash, unlike OSS, which would let one certificate write beside its folder.
                if not fields["key"].startswith(folder + "/"):
                    raise _condition_failed(condition)
            case {"bucket": _}:
                pass
            case _:
                ((name, value),) = condition.items()
                if fields.get(name) != value:
                    raise _condition_failed(condition)
    return limit


def _condition_failed(condition: object) -> Refusal:
    return _violated(f"Policy Condition failed: {orjson.dumps(condition).decode()}")


def _violated(detail: str) -> Refusal:
    return Refusal(403, "AccessDenied", f"Invalid according to Policy: {detail}")
