"""caption_folder as its users meet it: Airflow's UI in a browser, from the form to the report."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from captioner_core.datasets import sample
from tests.live.airflow import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    sample.build(folder, images=40)
    (folder / "images" / "broken.jpg").write_text("no image")
    return folder / "images"


@pytest.fixture
def form(page, live):
    """The form of caption_folder, open."""
    page.goto(f"{live.url}/dags/caption_folder")
    page.get_by_role("button", name="Trigger Dag").first.click()
    page.locator("[name=element_images]").wait_for()
    return page.get_by_role("dialog")


def trigger_button(form):
    return form.get_by_role("button", name="Trigger", exact=True)


def test_the_form_says_what_each_field_is_for(form, shoot):
    shoot("form")
    for text in (
        "Folder of images, searched through all its subfolders.",
        "Least cosine similarity of a match (-1 to 1).",
    ):
        form.get_by_text(text).wait_for()


def fill(form, **values):
    for name, text in values.items():
        box = form.locator(f"[name=element_{name}]")
        box.fill(text)
        box.press("Tab")


def test_a_field_that_is_needed_is_asked_for(form, shoot):
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
    """That is how this form refuses it: it can't be sent."""
    from playwright.sync_api import expect

    fill(form, **{field: value})
    expect(form.locator(f"[name=element_{field}]")).to_have_value(limit)


def test_a_text_that_is_refused_comes_back_with_the_reason(form, live, images, tmp_path, shoot):
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


def test_from_the_form_to_the_report(form, page, live, images, tmp_path, shoot):
    from playwright.sync_api import expect

    fill(form, images=str(images), output=str(tmp_path / "out"), threshold="0.8", run_id="scenes")
    shoot("filled")
    trigger_button(form).click()
    run_id = wait_until(lambda: [r["dag_run_id"] for r in live.runs("caption_folder")], 60)[0]
    page.goto(f"{live.url}/dags/caption_folder/runs/{quote(run_id)}")
    expect(page.get_by_text("Running").first).to_be_visible(timeout=60_000)
    shoot("running")
    assert live.finish("caption_folder", run_id) == "success"
    expect(page.get_by_test_id("table-list").get_by_text("Success")).to_have_count(
        5
    )  # the page follows by itself
    page.reload()
    with page.expect_response(lambda answer: "/captioner/report/" in answer.url) as shown:
        page.get_by_title("Report", exact=True).first.click()
    expect(page.locator("iframe[title=Report]")).to_be_visible()
    # the page may run no script, not even a test's, so what the browser was given is looked at, and the picture of it
    assert shown.value.status == 200
    report = shown.value.text()
    assert "images found" in report
    assert "broken.jpg" in report
    page.wait_for_load_state("networkidle")
    shoot("report")
    conf = live.call("GET", f"dags/caption_folder/dagRuns/{run_id}")["conf"]
    assert (conf["threshold"], conf["top_k"], conf["runner"]) == (0.8, 10, "DirectRunner")


def test_a_report_is_for_those_who_are_logged_in(live, page):
    """The page shows pictures of a private folder."""
    import requests

    run_id = live.runs("caption_folder")[0]["dag_run_id"]
    address = f"{live.url}/captioner/report/caption_folder/{quote(run_id)}"
    assert requests.get(address, timeout=30).status_code == 401
    assert page.request.get(address).status == 200
    assert page.request.get(f"{live.url}/captioner/report/caption_folder/nothing").status == 404
    policy = page.request.get(address).headers["content-security-policy"]
    assert "default-src 'none'" in policy
