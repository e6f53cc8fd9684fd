"""A relay that has one vendor more: one that knows no key again, but can be asked.

Only at such a vendor can a reward really be ordered twice, so only there does counting to one prove anything.
`python -m chaos.keyless serve …` is `reward-relay serve …` with it.
"""

from importlib import import_module
from typing import Literal

from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest, Placement, Progress, VendorOrder, VendorSettings
from reward_relay.errors import Unknown
from reward_relay.outbound import Outbound
from reward_relay.vendors import VENDORS, Member
from reward_relay.vendors.giftcard_partners import adapter as gift_cards

KIND = "keyless"


class Settings(VendorSettings):
    """`[vendors.NAME]` with `kind = "keyless"`."""

    kind: Literal["keyless"]
    base_url: str


class Adapter:
    """The vendor under `/keyless` of the sandbox. It talks like GiftCard Partners, but for what a key is worth."""

    takes_key = False
    can_find = True

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        account = gift_cards.Settings(
            kind="giftcard_partners",
            base_url=settings.base_url,
            email="chaos@example.com",
            access_token=SecretStr("sandbox"),
            shipping_method_id="GROUND",
            carrier_id="UPS",
        )
        self._inner = gift_cards.Adapter(name, account, outbound)
        self._caller = outbound.caller(f"vendor {name}", settings.base_url)

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        """As GiftCard Partners takes it."""
        return self._inner.preview(placement, key)

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        """Make an order, also where there is one under this key."""
        return await self._inner.place(placement, key)

    async def check(self, vendor_order_id: str) -> VendorOrder:
        """How the order is doing."""
        return await self._inner.check(vendor_order_id)

    async def find(self, key: str) -> VendorOrder | None:
        """The first order under the key.

        Raises:
            Unknown: the answer is no list of orders; nothing may be ordered on the strength of that.
        """
        request = OutboundRequest("GET", self._caller.url(f"/v1/Orders?PONumber={key}"))
        answer = await self._inner._exchange(request, read=True)
        self._inner._raise_for(answer)
        found = answer.json()
        if not isinstance(found, dict) or not isinstance(found.get("Orders"), list):
            raise Unknown(f"{self._caller.party} answered something else than orders", status=answer.status)
        if not found["Orders"]:
            return None
        return VendorOrder(str(found["Orders"][0]["Id"]), Progress.PENDING, existed=True, status=answer.status)


def load() -> None:
    """Add the vendor, then load the relay: it looks at the list of vendors only once."""
    VENDORS[KIND] = Member(Settings, Adapter)
    import_module("reward_relay.cli")


def main() -> None:
    """The relay's command line, with the vendor."""
    load()
    import_module("reward_relay.cli").app()


if __name__ == "__main__":
    main()
