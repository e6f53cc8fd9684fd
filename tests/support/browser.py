"""A real browser for tests: Debian's Chromium, headless, driven by Playwright; it reaches loopback only."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",  # as root there is no other way
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def chromium() -> str | None:
    """Where Chromium is, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def browser_page(**options: Any) -> AsyncIterator[Page]:
    """A page of a browser of its own. What it complains about (errors, blocked scripts and styles) fails the test."""
    complaints: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        page = await (await browser.new_context(**options)).new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
        try:
            yield page
        finally:
            await browser.close()
    assert complaints == []


def _is_complaint(said: Any) -> bool:
    """Chromium also logs every answer of 4xx and 5xx, which tests ask for."""
    return said.type in ("error", "warning") and "Failed to load resource" not in said.text
