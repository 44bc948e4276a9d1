"""Swagger UI, served by gunicorn and used in Debian's Chromium, driven through ChromeDriver.

With SCREENSHOT set to a path, a picture of the page is left there; ``make screenshot`` does that.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import (
    element_to_be_clickable,
    presence_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.service import RunningService
from tests.programs import program

SECONDS = 30
CREATE = "#operations-users-create_user"
# Requests to the page's server alone; no sandbox, since tests may run as root in a container.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--window-size=1100,1700",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    yield driver
    driver.quit()


def test_trying_it_out_creates_a_user(
    service: RunningService, http: httpx.Client, browser: Chrome
) -> None:
    wait = WebDriverWait(browser, SECONDS)
    browser.get(f"{service.url}/docs")
    for button in (".opblock-summary-control", ".execute"):
        wait.until(element_to_be_clickable((By.CSS_SELECTOR, f"{CREATE} {button}"))).click()
    answer = (By.CSS_SELECTOR, f"{CREATE} .live-responses-table tbody .response-col_status")
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
