"""Talkable: who may call, and what of a call may be stored (the classic webhook sends its secret in the body)."""

import json
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_relay.contracts import InboundRequest
from reward_relay.errors import Unauthenticated
from reward_relay.outbound import Outbound
from reward_relay.platforms.talkable.adapter import Adapter, Settings

KEY = "i9uil7nQgDjucCiTJu"
SIGNED = "YjgxZGI4ZjdkYmIyOGU1MWNhY2M3OGUwMmMyNjE4NWYzYTAxY2I5OWU5ZGZjMWYxNzU3MTBiMmJmNjFkYTk1ZQ=="
FORM = "application/x-www-form-urlencoded"
SAMPLE = files("reward_relay.sandbox").joinpath("samples/talkable_referred.json").read_bytes()
DOCUMENTED_FORM = b"key=%s&site=shop&type=reward_web_hook&extras={}&payload=%s" % (KEY.encode(), SAMPLE)


def adapter(*secrets: str) -> Adapter:
    given: dict[str, Any] = {"platform": "talkable", "secrets": secrets or ("newer secret", KEY)}
    return Adapter("referrals", Settings.model_validate(given), Outbound())


def request(body: bytes, **headers: str) -> InboundRequest:
    return InboundRequest(body, {name.replace("_", "-"): value for name, value in headers.items()})


def test_the_documented_signature_is_accepted_and_the_body_stored_verbatim() -> None:
    signed = request(b'{"a":1}', x_talkable_signature=SIGNED)
    assert adapter("newer secret", "my_webhook_secret").verify(signed) == b'{"a":1}'


@pytest.mark.parametrize("body, signature", [(b'{"a":2}', SIGNED), (b'{"a":1}', ""), (b'{"a":1}', SIGNED.lower())])
def test_a_signature_that_does_not_fit_is_refused_even_beside_the_right_key(body: bytes, signature: str) -> None:
    with pytest.raises(Unauthenticated, match=r"fits none of sources.referrals.secrets"):
        adapter("my_webhook_secret").verify(request(body, x_talkable_signature=signature))
    with pytest.raises(Unauthenticated):
        adapter().verify(request(DOCUMENTED_FORM, x_talkable_signature=signature))


def test_the_key_of_the_documented_form_is_accepted_and_only_its_value_is_blanked() -> None:
    body = DOCUMENTED_FORM
    stored = adapter().verify(request(body, content_type=FORM))
    assert stored == body.replace(KEY.encode(), b"***")


@pytest.mark.parametrize("content_type", ["application/json", FORM, "text/plain", ""])
def test_the_key_in_json_is_accepted_whatever_the_content_type_and_only_its_value_is_blanked(content_type: str) -> None:
    body = (
        b' {"site" : "shop",\n "key" :  "%s", "payload": {"key": "kept", "n": [1.50, {"key": "kept"}]}}' % KEY.encode()
    )
    stored = adapter().verify(request(body, content_type=content_type))
    assert stored == body.replace(KEY.encode(), b"***")


@pytest.mark.parametrize(
    "body", [b"", b"key=", b"site=shop", b"\xff\xfe", b"[1]", b'{"key": 5}', b'{"key": "%s"' % KEY.encode()]
)
def test_a_call_that_nothing_authenticates_is_told_of_both_ways(body: bytes) -> None:
    with pytest.raises(Unauthenticated, match=r"x-talkable-signature .*`key` in the body"):
        adapter().verify(request(body))


@pytest.mark.parametrize("body", [b"key=wrong", b'{"key": "wrong"}', b"key=" + KEY.encode() + b"&key=wrong"])
def test_a_wrong_key_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(Unauthenticated, match=r"is none of sources.referrals.secrets") as refused:
        adapter().verify(request(body))
    assert "wrong" not in str(refused.value)


def test_a_form_of_too_many_fields_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        adapter().verify(request(b"&".join([b"key=" + KEY.encode()] * 300)))


SECRET = 'öl & "+\\%= 100'
ESCAPED = "".join(f"\\u{ord(char):04x}" for char in SECRET)


@pytest.mark.parametrize(
    "body, stored",
    [
        (f'{{"k\\u0065y":"{ESCAPED}","b":1}}', '{"k\\u0065y":"***","b":1}'),
        (f'{{"k\\u0065y":"old","key":"{ESCAPED}"}}', '{"k\\u0065y":"***","key":"***"}'),
        (f'{{"key":"{ESCAPED}","note":"it is {ESCAPED}!"}}', '{"key":"***","note":"it is ***!"}'),
        (f'{{"payload":{json.dumps(json.dumps({"n": SECRET}))},"key":"{ESCAPED}"}}', None),
        (f"a=%41&k%65y={quote_plus(SECRET)}&b=+c", "a=%41&k%65y=***&b=+c"),
        (f"k%65y=old&key={quote_plus(SECRET)}&note={quote_plus(SECRET)}+x", "k%65y=***&key=***&note=***+x"),
        (f"key={quote_plus(SECRET)}&payload={quote_plus(json.dumps({'n': [SECRET]}))}", None),
    ],
)
def test_no_spelling_of_the_secret_is_stored(body: str, stored: str | None) -> None:
    kept = adapter(SECRET).verify(request(body.encode())).decode()
    assert stored is None or kept == stored
    assert SECRET not in kept
    assert SECRET not in str(parse_qs(kept).get("payload"))
    assert SECRET not in json.dumps(json.loads(kept) if kept[0] == "{" else kept, ensure_ascii=False)


@settings(deadline=None)
@given(st.binary(), st.sampled_from(["", KEY, quote_plus(SECRET)]), st.booleans())
def test_whatever_bytes_come_they_are_refused_or_stored_without_a_secret(junk: bytes, key: str, as_json: bool) -> None:
    body = b'{"key":"%s","x":"%s"}' % (key.encode(), junk) if as_json else b"x=%s&key=%s" % (junk, key.encode())
    try:
        stored = adapter(KEY, SECRET).verify(request(body))
    except Unauthenticated:
        return
    assert KEY.encode() not in stored


def test_a_quoted_string_that_never_ends_is_scanned_once() -> None:
    endless = json.dumps('"' + '\\"' * 200_000).encode()
    body = b'{"key":"%s","x":%s}' % (KEY.encode(), endless)
    assert adapter().verify(request(body)) == body.replace(KEY.encode(), b"***")
