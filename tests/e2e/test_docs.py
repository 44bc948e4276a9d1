"""Swagger UI, served by gunicorn and used in a real browser.

With SCREENSHOT set to a path, a picture of the page is left there; ``make screenshot`` does that.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    presence_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.browser import chromium
from tests.e2e.service import RunningService

SECONDS = 30
CREATE = "#operations-users-create_user"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    with chromium(tmp_path / "profile") as driver:
        yield driver


def click(browser: Chrome, selector: str) -> None:
    wait = WebDriverWait(browser, SECONDS)
    wait.until(element_to_be_clickable((By.CSS_SELECTOR, selector))).click()


def test_trying_it_out_creates_a_user(
    service: RunningService, http: httpx.Client, browser: Chrome
) -> None:
    browser.get(f"{service.url}/docs")
    click(browser, f"{CREATE} .opblock-summary-control")
    click(browser, f"{CREATE} .execute")
    answer = (By.CSS_SELECTOR, f"{CREATE} .live-responses-table tbody .response-col_status")
    wait = WebDriverWait(browser, SECONDS)
    status = wait.until(presence_of_element_located(answer))
    wait.until(lambda _: status.text)
    assert status.text.split()[0] == "201"

    [created] = http.get("/api/v1/users").json()["users"]
    assert (created["username"], created["email"]) == ("ada", "ada@example.com")
    shown = browser.find_element(By.CSS_SELECTOR, f"{CREATE} .live-responses-table").text
    assert created["created_at"] in shown
    # The console has what breaks the page's policy, what was not found, and errors in scripts.
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    if path := os.environ.get("SCREENSHOT"):
        operation = browser.find_element(By.CSS_SELECTOR, CREATE)
        browser.execute_script("arguments[0].scrollIntoView()", operation)
        browser.save_screenshot(path)
