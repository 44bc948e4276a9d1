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
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.service import RunningService, Start
from tests.issuer import Issuer, ec_key
from tests.programs import program
from tests.servers import Servers
from user_service.database.stored_keys import add_key
from user_service.domain.api_key import new_key

SECONDS = 30
CREATE = "#operations-users-create_user"
# No sandbox, since tests may run as root in a container.
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1700")


@pytest.fixture
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    yield driver
    driver.quit()


def click(browser: Chrome, *selectors: str) -> None:
    for selector in selectors:
        place = (By.CSS_SELECTOR, selector)
        WebDriverWait(browser, SECONDS).until(element_to_be_clickable(place)).click()


def status_of_a_try(browser: Chrome) -> str:
    """Try the example of a create on the page that is open, and return the status shown."""
    click(browser, f"{CREATE} .opblock-summary-control", f"{CREATE} .execute")
    place = f"{CREATE} .live-responses-table tbody .response-col_status"
    wait = WebDriverWait(browser, SECONDS)
    shown = wait.until(lambda _: browser.find_element(By.CSS_SELECTOR, place).text)
    return str(shown.split()[0])


def test_authorize_sends_either_credential(
    start: Start, servers: Servers, browser: Chrome, tmp_path: Path
) -> None:
    issuer = Issuer(ec_key("ec"))
    key, stored = new_key("browser", frozenset({"users:write"}), None)
    add_key(servers.owner_url, stored)
    credentials = (None, issuer.token("users:write"), key)  # in the order of the forms
    statuses = []
    with start(**issuer.settings(tmp_path / "keys.json"), AUTH_API_KEYS="true") as service:
        for number, credential in enumerate(credentials):
            browser.get(f"{service.url}/docs")
            if credential is not None:
                form = f".auth-container:nth-of-type({number})"
                click(browser, ".auth-wrapper > .authorize")
                browser.find_element(By.CSS_SELECTOR, f"{form} input").send_keys(credential)
                click(browser, f"{form} .auth-btn-wrapper .authorize", f"{form} .btn-done")
            statuses.append(status_of_a_try(browser))
    assert statuses == ["401", "201", "409"]


def test_trying_it_out_creates_a_user(
    service: RunningService, http: httpx.Client, browser: Chrome
) -> None:
    browser.get(f"{service.url}/docs")
    assert status_of_a_try(browser) == "201"

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
