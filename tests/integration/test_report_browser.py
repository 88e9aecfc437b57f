"""The report in a real browser: responses to look through, the first picture, paper, and what a screen reader finds."""

import os
import random
import re

import pandas as pd
import pytest

import mastlens
from mastlens import plots
from mastlens.plots.page import Pair, Section, write_page
from mastlens.plots.response_browser import Responses
from tests.integration.test_pages_browser import WIDTHS, browser, violations

__all__ = ["browser"]

WORDS = ["the", "box", "holds", "seven", "red", "stones", "and", "adds", "<b>three</b>", "more", "so", "\\boxed{10}"]
SEEN = """new MutationObserver((_, own) => {
  if (document.querySelector('.main-svg .subplot')) { window.firstPicture = performance.now(); own.disconnect(); }
}).observe(document, { childList: true, subtree: true })"""
TYPED = """async (text) => {
  const search = document.querySelector('input[type=search]');
  const start = performance.now();
  search.value = text;
  search.dispatchEvent(new Event('input'));
  document.body.offsetHeight;
  return performance.now() - start;
}"""


def items(count):
    """Return responses of two evaluations, made of few words, so that their longest common sequences are not plain."""
    draw = random.Random(0)
    rows = []
    for i in range(count):
        old = [draw.choice(WORDS) for _ in range(draw.choice([0, 1, 40, 90]))]
        new = list(old)
        for _ in range(draw.choice([0, 3, 20])):
            at = draw.randrange(len(new) + 1)
            new[at : at + draw.choice([0, 1])] = [draw.choice(WORDS)] * draw.choice([0, 1, 2])
        before, after = draw.random() < 0.6, draw.random() < 0.5
        rows.append(
            {
                "split": draw.choice(["forget", "retain"]),
                "subject": draw.choice(["algebra", "geometry"]),
                "item": i,
                "prompt": f"Problem {i} </script><script>alert(1)</script>",
                "gold": str(i % 7),
                "before": before,
                "after": after,
                "response_before": " ".join(old),
                "response_after": "\n".join(new) if i % 5 == 0 else " ".join(new),
            }
        )
    return pd.DataFrame(rows)


def longest_common(a, b):
    """Return the length of the longest common sequence of words, by the textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        row, last = [0], row
        for j, y in enumerate(b):
            row.append(last[j] + 1 if x == y else max(row[j], last[j + 1]))
    return row[-1]


@pytest.fixture(scope="module")
def two_thousand(tmp_path_factory):
    table = items(2000)
    section = Section(
        "Items", responses=(Responses("Every item", table),), pairs=(Pair("Lost", "p", (("before", "b"),)),)
    )
    path = tmp_path_factory.mktemp("responses") / "report.html"
    return write_page(path, title="T", question="Q", verdict="V", sections=[section], reproduce={}), table


def listened(browser, file, **look):
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | look))
    complaints = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url != file.as_uri() else None)
    page.goto(file.as_uri())
    return page, complaints


def shared():
    """Return how many others a processor serves at this moment: what waits for them is not the page's own time."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def first_picture(browser, file):
    """Return after how many milliseconds a page shows a figure."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(SEEN)
    page.goto(file.as_uri())
    page.wait_for_selector(".main-svg .subplot", state="attached")
    seen = page.evaluate("window.firstPicture")
    page.close()
    return seen


def pane(page, which):
    return page.evaluate(f"document.querySelectorAll('.browser-one pre')[{which}].textContent")


@pytest.mark.slow
def test_two_thousand_responses_are_filtered_searched_and_walked(browser, two_thousand):
    file, table = two_thousand
    page, complaints = listened(browser, file)
    page.wait_for_selector(".browser-row")
    assert page.locator(".browser-row").count() < 60  # the others are made when they come into view
    lost = table[table["before"] & ~table["after"]]
    page.click("text=− lost")
    assert page.inner_text(".browser-told").startswith(f"{len(lost)} of 2000 items")
    page.select_option("select >> nth=0", "forget")
    page.select_option("select >> nth=1", "algebra")
    lost = lost[(lost["split"] == "forget") & (lost["subject"] == "algebra")]
    assert page.inner_text(".browser-told").startswith(f"{len(lost)} of 2000 items")
    page.focus(".browser-list")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    third, last = lost.iloc[2], lost.iloc[-1]
    assert pane(page, 0) == third["prompt"]
    page.keyboard.press("End")
    assert pane(page, 0) == last["prompt"]
    row = page.locator('.browser-row[aria-selected="true"]')
    assert row.get_attribute("aria-posinset") == row.get_attribute("aria-setsize") == str(len(lost))
    assert page.get_attribute(".browser-list", "aria-activedescendant") == row.get_attribute("id")
    page.keyboard.press("/")
    page.keyboard.type(f"PROBLEM {third['item']} </")
    assert page.inner_text(".browser-told").startswith("1 of 2000 items")
    assert pane(page, 0) == third["prompt"]
    page.keyboard.type("no such words")
    assert page.inner_text(".browser-told").startswith("0 of 2000 items: none")
    assert not page.is_visible(".said")  # the examples of a page without scripts
    assert complaints == []
    page.close()


@pytest.mark.slow
def test_words_that_differ_are_the_fewest_and_no_text_is_lost(browser, two_thousand):
    file, table = two_thousand
    page, _ = listened(browser, file)
    page.wait_for_selector(".browser-row")
    page.focus(".browser-list")
    texts = "document.querySelectorAll('.browser-one pre'), p => [p.textContent, "
    texts += "Array.from(p.querySelectorAll('del, ins'), m => m.textContent)]"
    compared = 0
    for row in table.head(40).to_dict("records"):
        shown = page.evaluate(f"Array.from({texts})")
        old, new = row["response_before"], row["response_after"]
        if old == new:
            assert [text for text, _ in shown] == [row["prompt"], old]
        else:
            (_, _), (before, gone), (after, come) = shown
            assert (before, after) == (old, new)
            kept = longest_common(old.split(), new.split())
            assert sum(len(part.split()) for part in gone) == len(old.split()) - kept
            assert sum(len(part.split()) for part in come) == len(new.split()) - kept
            compared += 1
        page.keyboard.press("ArrowDown")
    assert compared > 15
    page.click("text=mark differing words")
    assert page.locator(".browser-one del, .browser-one ins").count() == 0
    page.close()


@pytest.mark.slow
def test_two_thousand_responses_do_not_lag(browser, two_thousand):
    page, _ = listened(browser, two_thousand[0])
    page.wait_for_selector(".browser-row")
    page.evaluate(TYPED, "b")  # makes what is searched
    spans = [page.evaluate(TYPED, text) for text in ("bo", "box", "box h", "")]
    assert min(spans) < 100 * shared()  # milliseconds from a key to the list
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_browser_of_responses_can_be_read_by_all(browser, two_thousand, scheme):
    for width in WIDTHS:
        look = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        page, complaints = listened(browser, two_thousand[0], **look)
        page.wait_for_selector(".browser-row")
        page.click("text=+ gained")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
        assert complaints == []
        page.close()


@pytest.mark.slow
def test_a_report_is_small_its_first_picture_soon_there_and_no_page_of_paper_half_empty(browser, tiny, tmp_path):
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "out": tmp_path, "progress": False}
    mastlens.geometry(base=tiny.base, rank=4, full=True, workers=1, spectra=True, **pair)
    mastlens.couple(forget=tiny.forget, **pair)
    mastlens.rank(tmp_path, top=3)
    file = mastlens.report(tmp_path, pdf=True)
    assert file.stat().st_size < 6e6
    assert file.read_text(encoding="utf-8").count("plotly.js v") == 1
    tiny_figure = Section("One", figures=(plots.plot_items(items(8)[["split", "item", "before", "after"]]),))
    alone = write_page(
        tmp_path / "alone.html", title="T", question="", verdict="", sections=[tiny_figure], reproduce={}
    )
    report, least = zip(*((first_picture(browser, file), first_picture(browser, alone)) for _ in range(3)), strict=True)
    # Milliseconds from asking for the page. Most of them go into plotly's script, which some machines run in 0.3 s and
    # others in 2 s: what the report adds to it is what is held.
    assert min(report) < max(1000, min(least) + 700, 1.4 * min(least))

    page, complaints = listened(browser, file, viewport={"width": 687, "height": 949})
    page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    sizes = page.evaluate("Array.from(document.querySelectorAll('.figure'), f => f.getBoundingClientRect().height)")
    assert len(sizes) > 4
    assert max(sizes) <= 949 / 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 687
    assert complaints == []
    page.close()
    printed = file.with_suffix(".pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 2 <= pages < len(sizes) + 8
    assert b"(D:20000101000000" in printed
