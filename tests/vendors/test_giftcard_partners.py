"""GiftCard Partners: recorded exchanges, verdicts, and nothing of value in what comes out."""

import json
from decimal import Decimal
from importlib.resources import files
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward_relay.contracts import Address, Delivery, Line, Placement, Plan, Progress, Recipient, VendorOrder
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.outbound import Outbound
from reward_relay.vendors.giftcard_partners.adapter import Adapter, Settings

KEY = "TRACK-18001"
CLAIM = {"ClaimUrl": "https://claim.example/abc", "ClaimCode": "CODE-123", "Pin": "9876"}
CREATED = {"Id": "gcp-1", "Status": "Pending", "PONumber": KEY, "Total": 20.0, "LineItems": [CLAIM]}


def settings(**changes: Any) -> Settings:
    given = {"kind": "giftcard_partners", "base_url": "https://gcp.example", "email": "api@shop.example"}
    return Settings.model_validate({**given, "access_token": "s3cret-access", **changes})


class Vendor:
    """The adapter in front of a far side that answers orders with `answers`, one after the other."""

    def __init__(self, *answers: httpx.Response | Exception, **changes: Any) -> None:
        self.answers = list(answers)
        self.tokens: list[httpx.Request] = []
        self.requests: list[httpx.Request] = []
        outbound = Outbound(transport=lambda: httpx.MockTransport(self.answer))
        self.adapter = Adapter("gcp", settings(**changes), outbound)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/Tokens":
            self.tokens.append(request)
            return httpx.Response(200, json={"Value": "tok", "ExpiresIn": 3600})
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def placement(
    delivery: Delivery = Delivery.DIGITAL, recipient: Recipient | None = None, message: str | None = None
) -> Placement:
    plan = Plan(route="cards", vendor="gcp", delivery=delivery, lines=(Line(product="CVS", value=Decimal("20.00")),))
    recipient = recipient or Recipient(email="user@email.com")
    return Placement(plan, recipient, "https://yourapp.com/webhook", message)


def sample() -> Any:
    name = "sandbox/samples/giftcard_partners_order.json"
    return json.loads(files("reward_relay").joinpath(name).read_text())


def lines_of(vendor: Vendor, given: Placement) -> dict[str, Any]:
    body: dict[str, Any] = vendor.adapter.preview(given, KEY).json
    return dict(body["LineItems"][0])


# --- what is sent ----------------------------------------------------------------------------------------


async def test_an_order_is_sent_as_the_documentation_shows_it() -> None:
    vendor = Vendor(httpx.Response(201, json=CREATED))
    placed = await vendor.adapter.place(placement(), KEY)
    (request,) = vendor.requests
    assert (request.method, str(request.url)) == ("POST", "https://gcp.example/v1/Orders")
    assert request.headers["authorization"] == "Bearer tok"
    assert request.headers["content-type"] == "application/json"
    assert request.content.decode() == json.dumps(sample(), separators=(",", ":"))
    assert placed.vendor_order_id == "gcp-1"
    assert placed.progress is Progress.PENDING
    assert not placed.existed


async def test_the_token_call_carries_the_account_in_its_headers() -> None:
    vendor = Vendor(httpx.Response(201, json=CREATED))
    await vendor.adapter.place(placement(), KEY)
    (request,) = vendor.tokens
    assert (request.method, str(request.url)) == ("POST", "https://gcp.example/v1/Tokens")
    assert (request.headers["email"], request.headers["accesstoken"]) == ("api@shop.example", "s3cret-access")


async def test_the_preview_is_what_is_sent_with_the_secret_masked() -> None:
    vendor = Vendor(httpx.Response(201, json=CREATED))
    preview = vendor.adapter.preview(placement(), KEY)
    await vendor.adapter.place(placement(), KEY)
    assert json.loads(vendor.requests[0].content) == preview.json
    assert preview.shown()["headers"] == {"Authorization": "***"}


def test_a_recipient_without_email_gets_a_text_message() -> None:
    line = lines_of(Vendor(), placement(recipient=Recipient(phone="+12025551111")))
    assert line["DigitalDeliveryAddress"] == {"Sms": "+12025551111"}


def test_a_digital_order_without_email_and_phone_is_not_sent() -> None:
    with pytest.raises(Unreadable, match="e-mail address or phone number"):
        Vendor().adapter.preview(placement(recipient=Recipient(name="Bob")), KEY)


def test_links_need_no_recipient() -> None:
    line = lines_of(Vendor(), placement(Delivery.LINKS, Recipient()))
    assert line == {"ProductId": "CVS", "Value": 20, "Quantity": 1}


def test_a_configured_sender_personalizes_the_card() -> None:
    vendor = Vendor(from_name="Acme", branding_id=7)
    line = lines_of(vendor, placement(recipient=Recipient(name="Bob", email="b@x.example"), message="Well done"))
    assert line["Personalization"] == {"To": "Bob", "FromName": "Acme", "Message": "Well done"}
    assert line["BrandingId"] == 7


HOME = Address(line1="1 Main St", line2="Flat 2", city="Ames", state="IA", postal_code="50010", country="US")
SHIPPING: dict[str, Any] = {"shipping_method_id": "ground", "carrier_id": "ups"}


def test_a_parcel_carries_the_whole_address() -> None:
    given = placement(Delivery.PHYSICAL, Recipient(name="Bob Smith", address=HOME))
    assert lines_of(Vendor(**SHIPPING), given)["PhysicalDeliveryAddress"] == {
        "ShippingMethodId": "ground",
        "CarrierId": "ups",
        "Name": "Bob Smith",
        "AddressLine1": "1 Main St, Flat 2",
        "City": "Ames",
        "State": "IA",
        "Zip": "50010",
        "Country": "US",
    }


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("line1", "address line"),
        ("city", "city"),
        ("state", "state"),
        ("postal_code", "postal"),
        ("country", "country"),
    ],
)
def test_a_parcel_without_a_needed_field_is_not_sent(missing: str, named: str) -> None:
    address = HOME.model_copy(update={missing: None})
    with pytest.raises(Unreadable, match=named):
        Vendor(**SHIPPING).adapter.preview(placement(Delivery.PHYSICAL, Recipient(name="Bob", address=address)), KEY)


@pytest.mark.parametrize("missing", ["shipping_method_id", "carrier_id"])
def test_a_parcel_names_the_missing_setting(missing: str) -> None:
    given = placement(Delivery.PHYSICAL, Recipient(name="Bob", address=HOME))
    with pytest.raises(Unreadable, match=f"vendors.gcp.{missing}"):
        Vendor(**{**SHIPPING, missing: None}).adapter.preview(given, KEY)


# --- what comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "progress", "known"),
    [
        ("Completed", Progress.FULFILLED, True),
        ("fulfilled", Progress.FULFILLED, True),
        ("CANCELLED", Progress.REFUSED, True),
        ("Pending", Progress.PENDING, True),
        ("Teleported", Progress.PENDING, False),
    ],
)
async def test_a_status_word_is_understood_or_said_to_be_unknown(word: str, progress: Progress, known: bool) -> None:
    vendor = Vendor(httpx.Response(200, json={"id": "gcp-1", "status": word}))
    order = await vendor.adapter.check("gcp-1")
    assert (order.progress, order.word, order.known) == (progress, word, known)
    assert (vendor.requests[0].method, vendor.requests[0].url.path) == ("GET", "/v1/Orders/gcp-1")


async def test_an_order_may_be_complete_in_its_first_answer() -> None:
    vendor = Vendor(httpx.Response(201, json={"order": {"id": 17, "orderStatus": "Completed"}}))
    placed = await vendor.adapter.place(placement(), KEY)
    assert (placed.vendor_order_id, placed.progress) == ("17", Progress.FULFILLED)


async def test_a_refusal_comes_with_the_vendors_reason() -> None:
    vendor = Vendor(httpx.Response(200, json={"Id": "1", "Status": "Declined", "StatusReason": "Out of stock"}))
    order = await vendor.adapter.check("1")
    assert (order.progress, order.detail) == (Progress.REFUSED, "Out of stock")


@pytest.mark.parametrize(
    "body",
    [
        {"PreviousOrderIds": ["first"]},
        {"Id": "trace-1", "previousOrderIds": "first"},
        {"PreviousOrderIds": [{"Id": "first"}]},
        {"Id": "first"},
        {"ORDERID": "first"},
        {"Error": {"Message": "PONumber used", "OrderId": "first"}},
        {"order": {"id": "first", "LineItems": [CLAIM]}},
    ],
)
async def test_a_repeat_is_answered_with_the_first_order(body: dict[str, Any]) -> None:
    placed = await Vendor(httpx.Response(409, json=body)).adapter.place(placement(), KEY)
    assert (placed.vendor_order_id, placed.existed, placed.progress) == ("first", True, Progress.PENDING)
    assert "CODE-123" not in placed.answer


async def test_a_repeat_without_the_first_id_stays_in_doubt_and_says_where_to_look() -> None:
    with pytest.raises(Unknown, match=f"PONumber {KEY}.*portal"):
        await Vendor(httpx.Response(409, text="duplicate")).adapter.place(placement(), KEY)


@pytest.mark.parametrize(
    ("answer", "verdict", "said"),
    [
        (httpx.Response(422, json={"Message": "Insufficient funds"}), PartyRefusesUs, "top it up.*Insufficient funds"),
        (httpx.Response(403), PartyRefusesUs, "disabled"),
        (httpx.Response(400, json={"errors": {"Value": ["too high"]}}), Rejected, "400.*Value: too high"),
        (httpx.Response(404), Rejected, "404"),
        (httpx.Response(302, headers={"location": "/"}), Rejected, "redirect"),
        (httpx.Response(429, headers={"retry-after": "7"}), NotSent, "429"),
        (httpx.Response(500), Unknown, "500"),
        (httpx.Response(504), Unknown, "504"),
        (httpx.Response(201, text="<html>"), Unknown, "no order id"),
        (httpx.Response(201, json={"Status": "Pending"}), Unknown, "no order id"),
        (httpx.ReadTimeout("slow"), Unknown, "after the request had left"),
        (httpx.ConnectError("refused"), NotSent, "could not be reached"),
    ],
)
async def test_each_failure_of_an_order_has_its_verdict(
    answer: httpx.Response | Exception, verdict: type[CallFailed], said: str
) -> None:
    repeats_of_the_unsent = [answer] * 3
    with pytest.raises(verdict, match=said) as failure:
        await Vendor(*repeats_of_the_unsent).adapter.place(placement(), KEY)
    assert type(failure.value) is verdict
    assert failure.value.retry_after_s == (
        7 if isinstance(answer, httpx.Response) and answer.headers.get("retry-after") else None
    )


async def test_an_unknown_order_names_its_id() -> None:
    with pytest.raises(Rejected, match="no order gcp-9"):
        await Vendor(httpx.Response(404)).adapter.check("gcp-9")


async def test_an_answer_about_an_order_without_a_status_is_no_answer() -> None:
    with pytest.raises(Unknown, match="no status"):
        await Vendor(httpx.Response(200, json={"Id": "1"})).adapter.check("1")


async def test_there_is_no_look_up_but_the_repeat() -> None:
    vendor = Vendor()
    with pytest.raises(Rejected, match=KEY):
        await vendor.adapter.find(KEY)
    assert (vendor.adapter.takes_key, vendor.adapter.can_find) == (True, False)


# --- claim data ------------------------------------------------------------------------------------------

SECRETS = [*CLAIM.values(), "s3cret-access", "Bearer tok"]


async def outcomes(status: int, body: bytes) -> list[VendorOrder | CallFailed]:
    """What placing and checking end with when the vendor answers so."""
    ended: list[VendorOrder | CallFailed] = []
    for step in ("place", "check"):
        adapter = Vendor(httpx.Response(status, content=body)).adapter
        try:
            ended.append(await (adapter.place(placement(), KEY) if step == "place" else adapter.check("gcp-1")))
        except CallFailed as failure:
            ended.append(failure)
    return ended


def everything_in(outcome: VendorOrder | CallFailed) -> str:
    return f"{outcome!r} {outcome} {vars(outcome) if isinstance(outcome, CallFailed) else ''}"


@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 409, 422, 429, 500])
async def test_no_claim_data_comes_out_of_any_answer(status: int) -> None:
    body = {**CREATED, **CLAIM, "Message": f"Ready at {CLAIM['ClaimUrl']}", "Data": {"Id": CLAIM, "Links": [CLAIM]}}
    said = " ".join(everything_in(outcome) for outcome in await outcomes(status, json.dumps(body).encode()))
    assert "gcp-1" in said
    assert [secret for secret in SECRETS if secret in said] == []


async def test_of_an_accepted_order_only_named_fields_are_kept() -> None:
    body = {**CREATED, "Message": "Your code is CODE-123"}
    placed = await Vendor(httpx.Response(201, json=body)).adapter.place(placement(), KEY)
    assert json.loads(placed.answer) == {"Id": "gcp-1", "Status": "Pending", "PONumber": KEY, "Total": "20.0"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Id", "Status", "Order", "Error", "Message", "Errors", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(status=st.sampled_from([200, 201, 409, 422, 400, 500]), body=json_values)
async def test_whatever_the_vendor_answers_the_adapter_has_a_verdict(status: int, body: Any) -> None:
    for outcome in await outcomes(status, json.dumps(body).encode()):
        assert outcome.detail if isinstance(outcome, CallFailed) else outcome.vendor_order_id


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "gcp.example"}, "http"),
        ({"base_url": "https://gcp.example/v1/"}, "leave out /v1"),
        ({"access_token": "tok\nen"}, "pasted"),
        ({"email": ""}, "pasted"),
        ({"done_words": ["Declined"]}, "declined"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_mistake_in_the_settings_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**changes)


def test_the_customers_own_words_replace_the_defaults() -> None:
    assert settings(done_words="Shipped, Sent").done_words == ["Shipped", "Sent"]
    assert settings(base_url="https://gcp.example/b2b/").base_url == "https://gcp.example/b2b"


async def test_an_answer_about_another_order_is_not_believed() -> None:
    other = {**CREATED, "Id": "gcp-9", "PONumber": "TRACK-99999"}
    vendor = Vendor(httpx.Response(201, json=other), httpx.Response(201, json={**CREATED, "PONumber": KEY.lower()}))
    with pytest.raises(Unknown, match=f"about PONumber TRACK-99999, not about {KEY}"):
        await vendor.adapter.place(placement(), KEY)
    assert (await vendor.adapter.place(placement(), KEY)).vendor_order_id == "gcp-1"
