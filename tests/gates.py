"""Requests of a page that wait until the test lets them go on: a slow network without a clock."""

from __future__ import annotations

import re

from playwright.sync_api import Page, Route


class Gate:
    """Holds the requests of a page whose URL matches. Mutable state: `_held`, those that wait; `_is_open`."""

    def __init__(self, page: Page, urls: re.Pattern[str]) -> None:
        self._held: list[Route] = []
        self._is_open = False
        page.route(urls, self._take)

    def _take(self, route: Route) -> None:
        if self._is_open:
            route.continue_()
        else:
            self._held.append(route)

    def open(self) -> None:
        self._is_open = True
        for route in self._held:
            route.continue_()


def reload_slowly(page: Page, urls: re.Pattern[str]) -> Gate:
    """Reload the page, and return once the first of these requests waits."""
    gate = Gate(page, urls)
    with page.expect_request(urls):
        page.reload()
    return gate
