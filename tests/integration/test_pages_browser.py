"""Pages in a real browser: clicked and walked by keys, at three widths, light and dark; no request leaves them."""

import importlib.util
import shutil

import pytest

import mastlens

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds: browsers are slow on a shared machine
WIDTHS = (1280, 768, 390)


@pytest.fixture(scope="module")
def browser():
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if importlib.util.find_spec("playwright") is None or path is None:
        pytest.skip("playwright, or a Chromium, is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("explored") / "run"
    pair = {"sft": tiny.sft, "rlvr": tiny.rlvr, "out": out, "progress": False}
    mastlens.geometry(base=tiny.base, rank=4, full=True, spectra=True, heads=True, workers=1, **pair)
    mastlens.couple(forget=tiny.forget, retain=tiny.retain, **pair)
    mastlens.rank(out, top=3)
    explorer = mastlens.explore(out, base=tiny.base, sft=tiny.sft, rlvr=tiny.rlvr, forget=tiny.forget)
    return explorer.save(out / "page" / "explorer.html")


def opened(browser, file, link="", **look):
    """Return the page, what it complained of, and what it asked for."""
    page = browser.new_page(**look)
    page.set_default_timeout(PATIENCE)
    complaints, asked = [], []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{file.as_uri()}{link}")
    page.wait_for_selector("#ml-panel .js-plotly-plot")
    return page, complaints, asked


def seen_in_every_look(page):
    """Hold that a page fits every width, light and dark; each width and each scheme is looked through by axe-core."""
    looked = {(1280, "light"), (768, "dark"), (390, "light")}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        # Two frames: figures follow the window's width in the first.
        page.evaluate("() => new Promise(then => requestAnimationFrame(() => requestAnimationFrame(then)))")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if (width, scheme) in looked:
                assert violations(page) == []


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found if each["impact"] != "minor"]


@pytest.mark.slow
def test_the_explorer_is_one_file_that_can_be_clicked(browser, page_file):
    page, complaints, asked = opened(browser, page_file, "#layer=1&projection=v")
    assert page.inner_text("#ml-panel h2") == "Layer 1, v"
    page.click('#ml-map button[data-row="0"][data-column="3"]')
    assert page.inner_text("#ml-panel h2") == "Layer 0, o"
    assert page.url.endswith("#layer=0&projection=o")
    page.focus('#ml-map button[data-row="0"][data-column="3"]')
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#ml-panel h2") == "Layer 1, v"
    told = page.inner_text("#ml-told")
    page.select_option("#ml-score", index=2)
    assert page.inner_text("#ml-told") != told
    assert page.get_attribute('#ml-map button[data-row="1"][data-column="2"]', "aria-pressed") == "true"
    page.locator("#ml-panel .js-plotly-plot").nth(4).wait_for()
    assert complaints == []
    assert asked == [page_file.as_uri() + "#layer=1&projection=v"] or asked == [page_file.as_uri()]
    assert [file.name for file in page_file.parent.iterdir()] == [page_file.name]
    page.close()


@pytest.mark.slow
def test_the_explorer_fits_and_can_be_read(browser, page_file):
    page, complaints, _ = opened(browser, page_file, reduced_motion="reduce")
    seen_in_every_look(page)
    assert complaints == []
    page.close()
