from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from serving.access.signer import Signer
from serving.dashscope.oss import Refusal
from serving.dashscope.policy import EXPIRES_IN_S, Policies
from serving.storage import database
from tests.serving.dashscope.uploading import MAX_BYTES, ME, MODEL, YOU, Parts


async def test_the_sdks_form_is_granted(parts: Parts) -> None:
    granted = await parts.policies.check(await parts.fields("图 表.png"), "图 表.png")
    assert granted.key.startswith("dashscope-instant/")
    assert granted.key.endswith("/图 表.png")
    assert (granted.owner, granted.model, granted.limit) == ("me", MODEL, MAX_BYTES)


async def test_oss_fills_in_the_name_of_the_file(parts: Parts) -> None:
    granted = await parts.policies.check(await parts.fields("${filename}"), "b.png")
    assert granted.key.endswith("/b.png")


async def test_a_policy_ends_after_five_minutes(parts: Parts) -> None:
    fields = await parts.fields()
    parts.clock.now += EXPIRES_IN_S - 1
    assert await parts.policies.check(fields, "")
    parts.clock.now += 1
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(fields, "")
    assert (caught.value.status, caught.value.message) == (403, "Invalid according to Policy: Policy expired.")


async def test_a_policy_survives_a_restart(parts: Parts, tmp_path: Path) -> None:
    fields = await parts.fields()
    records = database.at(tmp_path)
    again = Policies(Signer(records), MAX_BYTES, clock=parts.clock)
    assert (await again.check(fields, "")).owner == "me"
    await database.close(records)


async def test_an_account_has_its_own_folder(parts: Parts) -> None:
    mine, again, yours = [
        (await parts.policies.issue(caller, MODEL, ""))["upload_dir"].split("/") for caller in (ME, ME, YOU)
    ]
    assert mine[1] == again[1] != yours[1]
    assert mine[3] != again[3]
    assert re.fullmatch(r"[0-9a-f]{32}", mine[1])
    assert mine[2] == "2027-01-15"


def forged(policy: str, **changed: Any) -> str:
    return base64.b64encode(json.dumps({**json.loads(base64.b64decode(policy)), **changed}).encode()).decode()


@pytest.mark.parametrize("field", ["policy", "key", "signature", "ossaccesskeyid"])
async def test_a_form_that_lacks_a_field_is_refused(parts: Parts, field: str) -> None:
    fields = await parts.fields()
    del fields[field]
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(fields, "")
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")
    assert field in caught.value.message


async def test_what_is_not_as_it_was_signed_is_refused(parts: Parts) -> None:
    fields = await parts.fields()
    other = await parts.fields(caller=YOU)
    for changed in (
        {"policy": forged(fields["policy"], owner="you")},
        {"policy": forged(fields["policy"], expiration="2099-01-01T00:00:00.000Z")},
        {"policy": "garbage"},
        {"policy": other["policy"]},
        {"signature": other["signature"]},
        {"signature": "中"},
    ):
        with pytest.raises(Refusal) as caught:
            await parts.policies.check({**fields, **changed}, "")
        assert (caught.value.status, caught.value.code) == (403, "SignatureDoesNotMatch")
    with pytest.raises(Refusal) as caught:
        await parts.policies.check({**fields, "ossaccesskeyid": "LTAI"}, "")
    assert caught.value.code == "InvalidAccessKeyId"


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "elsewhere/a.png"},
        {"key": "/etc/passwd"},
        {"x-oss-object-acl": "public-read"},
        {"x-oss-forbid-overwrite": "false"},
    ],
)
async def test_what_the_policy_does_not_allow_is_refused(parts: Parts, changed: dict[str, str]) -> None:
    with pytest.raises(Refusal) as caught:
        await parts.policies.check({**await parts.fields(), **changed}, "")
    assert caught.value.status in (400, 403)
    assert caught.value.code in ("AccessDenied", "InvalidObjectName")


async def test_a_key_beside_the_folder_is_refused(parts: Parts) -> None:
    fields = await parts.fields()
    folder = fields["key"].removesuffix("/a.png")
    with pytest.raises(Refusal, match="Policy Condition failed"):
        await parts.policies.check({**fields, "key": f"{folder}beside/a.png"}, "")


@pytest.mark.parametrize("name", ["", "..", "../a", "a/../../b", "a//b", "./a", "a\0b", "a\nb", "x" * 1100, "\x7f"])
async def test_a_name_that_is_none_is_refused(parts: Parts, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(await parts.fields(name), "")
    assert (caught.value.status, caught.value.code) == (400, "InvalidObjectName")
