"""`/sandbox`: set rules and weather, open redemptions, see everything that was counted, start over."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict
from starlette.responses import PlainTextResponse

from reward_relay.sandbox.far_side import FarSide
from reward_relay.sandbox.modes import Rule
from reward_relay.sandbox.platforms import Influitive, Voucherify
from reward_relay.sandbox.vendor import GiftCards
from reward_relay.sandbox.weather import Weather


class Redemption(BaseModel):
    """What Influitive lists of one: any fields, but an id."""

    model_config = ConfigDict(extra="allow")

    id: int | str


class Owed(BaseModel):
    """A redemption to open, with the contact who asked for it."""

    model_config = ConfigDict(extra="forbid")

    reward_redemption: Redemption
    contact: dict[str, Any] | None = None


class Control:
    """The strings behind the stage."""

    def __init__(
        self, far_side: FarSide, vendors: Sequence[GiftCards], influitive: Influitive, voucherify: Voucherify
    ) -> None:
        self._far_side = far_side
        self._vendors = vendors
        self._influitive = influitive
        self._voucherify = voucherify

    def router(self) -> APIRouter:
        """The control API."""
        router = APIRouter(prefix="/sandbox", tags=["control"])
        router.add_api_route("/rules", self.rules, methods=["GET"])
        router.add_api_route("/rules", self.add_rules, methods=["POST"], status_code=201)
        router.add_api_route("/rules", self.clear_rules, methods=["DELETE"])
        router.add_api_route("/weather", self.set_weather, methods=["PUT"])
        router.add_api_route("/weather", self.clear_weather, methods=["DELETE"])
        router.add_api_route("/redemptions", self.open_redemption, methods=["POST"], status_code=201)
        router.add_api_route("/statement.csv", self.statement, methods=["GET"], response_class=PlainTextResponse)
        router.add_api_route("/state", self.state, methods=["GET"])
        router.add_api_route("/reset", self.reset, methods=["POST"])
        return router

    async def rules(self) -> list[dict[str, Any]]:
        """The rules in force, first match first."""
        return self._far_side.rules.shown()

    async def add_rules(self, rules: Annotated[Rule | list[Rule], Body()]) -> list[dict[str, Any]]:
        """Add one rule or several behind those in force."""
        self._far_side.rules.add(rules if isinstance(rules, list) else [rules])
        return self._far_side.rules.shown()

    async def clear_rules(self) -> list[dict[str, Any]]:
        """Behave from now on."""
        self._far_side.rules.clear()
        return self._far_side.rules.shown()

    async def set_weather(self, weather: Weather) -> Weather:
        """Misbehave by chance from now on, wherever no rule says how."""
        self._far_side.skies.change(weather)
        return weather

    async def clear_weather(self) -> None:
        """Misbehave by rules only."""
        self._far_side.skies.change(None)

    async def open_redemption(self, owed: Owed) -> list[dict[str, Any]]:
        """Open an Influitive redemption; the answer lists all that are open."""
        self._influitive.owe(owed.reward_redemption.model_dump(), owed.contact)
        return self._influitive.owed()

    async def statement(self) -> str:
        """The vendor's orders as its accounts department would export them."""
        return self._vendors[0].statement()

    async def state(self) -> dict[str, Any]:
        """Everything that was counted at the far side; claim data is left out."""
        seen, told = self._far_side.state(), [vendor.state() for vendor in self._vendors]
        orders = [order for each in told for order in each["orders"]]
        counts = {
            name: {key: count for each in told for key, count in each["counts"][name].items()}
            for name in ("orders", "posts")
        }
        redemptions, counted = self._influitive.owed(), {**counts, **seen["counts"]}
        return {**seen, "orders": orders, "redemptions": redemptions, "counts": counted}

    async def reset(self) -> dict[str, Any]:
        """Forget everything: orders, tokens, calls, rules, weather, redemptions."""
        self._far_side.reset()
        for vendor in self._vendors:
            vendor.forget()
        self._influitive.forget()
        self._voucherify.forget()
        return await self.state()
