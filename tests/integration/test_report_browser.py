"""The report in a real browser: responses to look through, the first picture, paper, and what a screen reader finds."""

import random
import re

import pandas as pd
import pytest

import mastlens
from mastlens.plots.page import Pair, Section, write_page
from mastlens.plots.response_browser import Responses
from tests.integration.test_pages_browser import PATIENCE, browser, seen_in_every_look

__all__ = ["browser"]

WORDS = ["the", "box", "holds", "seven", "red", "stones", "and", "adds", "<b>three</b>", "more", "so", "\\boxed{10}"]
TYPED = """(text) => {
  const search = document.querySelector('input[type=search]');
  const watcher = new MutationObserver(() => {});
  watcher.observe(document.querySelector('main'), { childList: true, subtree: true });
  search.value = text;
  search.dispatchEvent(new Event('input'));
  const made = watcher.takeRecords().flatMap(change => [...change.addedNodes]);
  watcher.disconnect();
  return made.reduce((sum, node) => sum + 1 + (node.querySelectorAll ? node.querySelectorAll('*').length : 0), 0);
}"""
PANELS = """() => Array.from(document.querySelectorAll('[data-figure]'), box => [
  [box.offsetTop, box.offsetWidth, box.offsetHeight],
  Object.values(box._fullLayout._plots).map(p => [p.xaxis._offset, p.yaxis._offset, p.xaxis._length, p.yaxis._length])
])"""
STILLS = """() => Array.from(document.querySelectorAll('[data-figure]'), box => [
  [box.offsetTop, box.offsetWidth, box.offsetHeight],
  Array.from(box.querySelectorAll('svg svg'), p => ['x', 'y', 'width', 'height'].map(key => p[key].baseVal.value))
])"""


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
    page.set_default_timeout(PATIENCE)
    complaints = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url != file.as_uri() else None)
    page.goto(file.as_uri())
    return page, complaints


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
def test_a_key_makes_as_much_of_the_page_anew_for_two_thousand_responses_as_for_some(browser, two_thousand):
    page, _ = listened(browser, two_thousand[0])
    page.wait_for_selector(".browser-row")
    # Rows in view and the texts of one item, whatever the number that is found.
    assert all(0 < page.evaluate(TYPED, text) < 800 for text in ("b", "bo", "box", "box h", ""))
    assert page.locator(".browser-row").count() < 60
    assert page.inner_text(".browser-told").startswith("2000 of 2000 items")
    page.close()


@pytest.mark.slow
def test_the_browser_of_responses_can_be_read_by_all(browser, two_thousand):
    page, complaints = listened(browser, two_thousand[0])
    page.wait_for_selector(".browser-row")
    page.click("text=+ gained")
    seen_in_every_look(page)
    assert complaints == []
    page.close()


@pytest.fixture(scope="module")
def report(tiny, tmp_path_factory):
    """A report of a small run, and its print."""
    out = tmp_path_factory.mktemp("reported") / "run"
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "out": out, "progress": False}
    mastlens.geometry(base=tiny.base, rank=4, full=True, workers=1, spectra=True, **pair)
    mastlens.couple(forget=tiny.forget, **pair)
    mastlens.rank(out, top=3)
    return mastlens.report(out, pdf=True)


@pytest.mark.slow
def test_the_first_picture_needs_no_script_and_the_live_one_takes_its_place(browser, report):
    text = report.read_text(encoding="utf-8")
    assert report.stat().st_size < 6e6
    assert text.count("plotly.js v") == 1
    before, _, after = text.partition("plotly.js v")
    assert before.count('<svg class="still"') == before.count(" data-figure=") > 4
    assert '<svg class="still"' not in after
    still = browser.new_page(viewport={"width": 1280, "height": 900}, java_script_enabled=False)
    still.goto(report.as_uri())
    assert still.locator("svg.still").first.is_visible()
    assert still.locator("svg.still").first.get_attribute("aria-label").startswith("Figure 1. ")
    waiting = still.evaluate(STILLS)
    still.close()
    page, complaints = listened(browser, report)
    page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    assert page.locator("svg.still").count() == 0
    for (was, panels), (now, live) in zip(waiting, page.evaluate(PANELS), strict=True):
        assert was == now
        # Of panels without a mark there is no more to draw than their frame.
        assert panels
        assert all(
            min(max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in live) < 1 for one in panels
        )
    assert complaints == []
    page.close()


@pytest.mark.slow
def test_a_report_can_be_read_by_all_and_leaves_no_page_of_paper_half_empty(browser, report):
    page, complaints = listened(browser, report)
    page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    seen_in_every_look(page)
    page.set_viewport_size({"width": 687, "height": 949})
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    sizes = page.evaluate("Array.from(document.querySelectorAll('.figure'), f => f.getBoundingClientRect().height)")
    assert len(sizes) > 4
    assert max(sizes) <= 949 / 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 687
    assert complaints == []
    page.close()
    printed = report.with_suffix(".pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 2 <= pages < len(sizes) + 8
    assert b"(D:20000101000000" in printed
