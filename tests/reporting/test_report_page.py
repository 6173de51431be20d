"""The report as a reader sees it: opened in headless Chromium, where that is installed."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, Browser, Scheme, browser
from test_reporting import a_run, sample

from pipeline.base.progress import Silent
from pipeline.reporting import Report, render_comparison, render_report
from pipeline.reporting.confusion import Prediction

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Chromium: apt-get install chromium chromium-driver",
)
PANELS = {
    *("summary", "scores", "cached", "curves", "representations", "dependence", "maps"),
    *("neighbours", "confusion", "mistakes", "health", "provenance", "left-out"),
}
HOSTILE = "<script>throw new Error('ran')</script>"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    guesses = [Prediction(f"{i}.png", "abc"[i % 3], "abc"[i % 2], 0.6) for i in range(60)]
    run = a_run(classes=("a", "b", HOSTILE))
    report = Report(run, sample(), {}, f"name: digits # {HOSTILE}", (), "linear", guesses)
    other = a_run(name="other", config={**run.config, "seed": 3})
    texts = {
        "run": render_report(report, Silent()),
        "comparison": render_comparison([run, other]),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", ["run", "comparison"])
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_page_is_whole(
    pages: dict[str, Path], window: Browser, name: str, width: int, scheme: Scheme
) -> None:
    window.requests()
    window.open(pages[name], width=width, scheme=scheme)
    assert window.console() == []
    asked = [u for u in window.requests() if not u.startswith(("data:", "chrome:"))]
    assert asked == [pages[name].as_uri()]
    assert window.run("return document.documentElement.scrollWidth") == width
    assert window.run("return [...document.images].every(i => i.naturalWidth > 0)")
    parts = "[...document.querySelectorAll('section, figure')]"
    assert window.run(f"return {parts}.filter(part => part.clientHeight < 40).length") == 0
    repeated = (
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
        "return ids.filter((id, i) => ids.indexOf(id) !== i)"
    )
    assert window.run(repeated) == []
    levels = window.run(
        "return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("width", [1199, 1000, 700])
def test_intervals_are_in_sight_on_small_screens(
    pages: dict[str, Path], window: Browser, width: int
) -> None:
    window.open(pages["run"], width=width, scheme="light")
    cut_off = (
        "const table = document.querySelector('#scores table');"
        "const edge = table.closest('.wide').getBoundingClientRect().right;"
        "const column = [...table.rows[0].cells].findIndex(c => c.textContent.includes('95 %'));"
        "return [...table.rows].map(r => r.cells[column].getBoundingClientRect())"
        ".filter(box => box.right > edge || box.width < 20).length"
    )
    assert window.run(cut_off) == 0


def test_every_panel_is_there(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["run"], width=1400, scheme="light")
    found = window.run("return [...document.querySelectorAll('main section')].map(s => s.id)")
    assert set(found) == PANELS
    linked = window.run("return [...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
    assert linked == [name for name in found if name != "left-out"]
    named = "[...document.querySelectorAll('img, [role=img], [role=region], [role=application]')]"
    assert window.run(f"return {named}.every(e => e.alt || e.ariaLabel)")


def test_maps_answer_to_pointer_keys_and_filter(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["run"], width=1400, scheme="light")
    window.run(
        "document.querySelector('.map svg').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    x, y = window.run(
        "const r = document.querySelector('.map use').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]"
    )
    window.point(x, y)
    shown = "const tip = document.querySelector('.tip'); return tip.hidden ? '' : tip.textContent"
    assert ".png" in window.run(shown)
    faint = "return document.querySelectorAll('.map use.off').length"
    window.click(x, y)  # shows its class alone: 20 of 60 images, in each of four maps
    assert window.run(faint) == 4 * 40
    window.click(x, y)
    assert window.run(faint) == 0
    window.press("Tab")
    window.run("document.querySelector('.map svg').focus()")
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        window.press(key)
    spoken = window.run("return document.getElementById('said').textContent")
    assert ".png" in spoken
    window.press("Escape")
    assert window.run(shown) == ""
    window.run("document.querySelector('.legend button').click()")
    assert window.run("return document.querySelectorAll('.maps .class.on').length") == 4
    assert window.run("return document.querySelectorAll('[aria-pressed=true]').length") == 1
    assert window.console() == []
