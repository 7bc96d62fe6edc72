"""The DAG caption_folder in Airflow's UI, from the form to the report.

A headless browser fills in the form, starts a run and opens its report, as a user does.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from captioner_core.datasets import sample
from tests.live.airflow import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder of drawn scenes with one broken image."""
    folder = tmp_path_factory.mktemp("sample")
    sample.build(folder, images=40)
    (folder / "images" / "broken.jpg").write_text("no image")
    return folder / "images"


@pytest.fixture
def form(page, live):
    """Returns the opened form of caption_folder."""
    page.goto(f"{live.url}/dags/caption_folder")
    page.get_by_role("button", name="Trigger Dag").first.click()
    page.locator("[name=element_images]").wait_for()
    return page.get_by_role("dialog")


def trigger_button(form):
    """Returns the button that starts the run."""
    return form.get_by_role("button", name="Trigger", exact=True)


def test_the_form_describes_its_fields(form, shoot):
    shoot("form")
    for text in (
        "Folder of images, searched through all its subfolders.",
        "Least cosine similarity of a match (-1 to 1).",
    ):
        form.get_by_text(text).wait_for()


def fill(form, **values):
    """Types values into fields of the form, and leaves each field so that the form checks it."""
    for name, text in values.items():
        box = form.locator(f"[name=element_{name}]")
        box.fill(text)
        box.press("Tab")


def test_a_run_cannot_start_without_the_required_fields(form, shoot):
    from playwright.sync_api import expect

    expect(form.get_by_text("This field is required")).to_have_count(2)
    expect(trigger_button(form)).to_be_disabled()
    fill(form, images="/somewhere", output="/out")
    expect(form.get_by_text("This field is required")).to_have_count(0)
    expect(trigger_button(form)).to_be_enabled()
    fill(form, images="")
    expect(form.get_by_text("This field is required")).to_have_count(1)
    expect(trigger_button(form)).to_be_disabled()
    shoot("refused-images")


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("threshold", "1.5", "1"),
        ("threshold", "-3", "-1"),
        ("top_k", "-1", "0"),
        ("beam_width", "99", "20"),
    ],
)
def test_a_number_beyond_its_limits_becomes_the_limit(form, field, value, limit):
    """Airflow's form corrects such a number at once, so that it can't be sent."""
    from playwright.sync_api import expect

    fill(form, **{field: value})
    expect(form.locator(f"[name=element_{field}]")).to_have_value(limit)


def test_an_invalid_text_is_refused_with_the_reason(form, live, images, tmp_path, shoot):
    from playwright.sync_api import expect

    fill(form, images=str(images), output=str(tmp_path), run_id="../up")
    trigger_button(form).click()
    reason = form.get_by_text(
        re.compile(r"Invalid input for param run_id: '\.\./up' does not match")
    )
    expect(reason).to_be_visible()
    reason.scroll_into_view_if_needed()
    shoot("refused-run_id")
    assert not live.runs("caption_folder")
    assert not list(tmp_path.iterdir())


def test_a_run_started_from_the_form_ends_with_a_report(form, page, live, images, tmp_path, shoot):
    from playwright.sync_api import expect

    fill(form, images=str(images), output=str(tmp_path / "out"), threshold="0.8", run_id="scenes")
    shoot("filled")
    trigger_button(form).click()
    run_id = wait_until(lambda: [r["dag_run_id"] for r in live.runs("caption_folder")], 60)[0]
    page.goto(f"{live.url}/dags/caption_folder/runs/{quote(run_id)}")
    expect(page.get_by_text("Running").first).to_be_visible(timeout=60_000)
    shoot("running")
    assert live.finish("caption_folder", run_id) == "success"
    # The page updates itself without being reloaded.
    expect(page.get_by_test_id("table-list").get_by_text("Success")).to_have_count(5)
    page.reload()
    with page.expect_response(lambda answer: "/captioner/report/" in answer.url) as response:
        page.get_by_title("Report", exact=True).first.click()
    expect(page.locator("iframe[title=Report]")).to_be_visible()
    # The report may run no script, not even one of a test. So the test reads the response of the
    # server and saves a screenshot.
    assert response.value.status == 200
    report = response.value.text()
    assert "images found" in report
    assert "broken.jpg" in report
    page.wait_for_load_state("networkidle")
    shoot("report")
    conf = live.call("GET", f"dags/caption_folder/dagRuns/{run_id}")["conf"]
    assert (conf["threshold"], conf["top_k"], conf["runner"]) == (0.8, 10, "DirectRunner")


def test_a_report_requires_a_login(live, page):
    """A report shows pictures of a private folder."""
    import requests

    run_id = live.runs("caption_folder")[0]["dag_run_id"]
    url = f"{live.url}/captioner/report/caption_folder/{quote(run_id)}"
    assert requests.get(url, timeout=30).status_code == 401
    assert page.request.get(url).status == 200
    assert page.request.get(f"{live.url}/captioner/report/caption_folder/nothing").status == 404
    policy = page.request.get(url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
