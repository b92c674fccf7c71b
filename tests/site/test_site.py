"""The built documentation site, as a reader meets it: built strictly, looked at in a browser."""

import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = sorted(p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md"))
ZENSICAL = Path(sys.executable).with_name("zensical")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NO_TOOLS = "the site is not built: pip install -c constraints.txt -e '.[docs]', or make docs"
NO_BROWSER = "nobody looks at the site: apt-get install chromium chromium-driver"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="session")
def site():
    """The folder of the site, built with warnings as errors."""
    if not ZENSICAL.exists():
        pytest.skip(NO_TOOLS)
    command = [ZENSICAL, "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "griffe:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return ROOT / "site"


@pytest.fixture(scope="session")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip(NO_BROWSER)
    webdriver = pytest.importorskip("selenium.webdriver", reason=NO_TOOLS)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def built(site, page):
    """The HTML of a page, its article alone."""
    folder = page.with_suffix("") if page.name != "index.md" else page.parent
    text = (site / folder / "index.html").read_text()
    return text[text.index("<article") : text.index("</article>")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.as_posix())
def test_a_page_has_the_tables_and_lists_that_were_written(site, page):
    """Two readings of Markdown agree: a list without a blank line before it would be text."""
    html = built(site, page)
    source = (ROOT / "docs" / page).read_text()
    if ":::" in source:
        return
    tokens = [t.type for t in MarkdownIt("commonmark").enable("table").parse(source)]
    assert html.count("<table") == tokens.count("table_open")
    assert len(re.findall(r"<li\b", html)) == tokens.count("list_item_open")
    assert "```" not in html


def test_nothing_is_fetched_from_elsewhere(site):
    for page in PAGES:
        folder = page.with_suffix("") if page.name != "index.md" else page.parent
        text = (site / folder / "index.html").read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]* href=\"?([^\" >]+)", text)
        assert not [link for link in loaded if "//" in link], page


def test_the_reference_has_every_public_name(site):
    import negcache
    from negcache import contrib, diagnosis, samplers, stores, towers

    text = "".join(p.read_text() for p in (site / "reference").rglob("index.html"))
    for module in (negcache, samplers, stores, towers, contrib, diagnosis):
        names = [f"{module.__name__}.{name}" for name in module.__all__]
        found = [
            re.search(rf'id="?[\w.]*\b{name.rpartition(".")[2]}"?[ >]', text) for name in names
        ]
        assert all(found), [name for name, hit in zip(names, found, strict=True) if not hit]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.as_posix())
def test_a_page_loads_without_an_error(address, browser, page):
    folder = page.with_suffix("").as_posix() + "/" if page.name != "index.md" else ""
    browser.get_log("browser")
    browser.get(urljoin(address, folder))
    assert browser.find_element("css selector", "article h1").text
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
    unseen = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(unseen) == 0


def test_search_finds_the_negative_cache(address, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    wait = WebDriverWait(browser, 20)
    wait.until(lambda driver: driver.execute_script("return document.readyState == 'complete'"))
    browser.execute_script("document.querySelector('button.md-search__button').click()")
    asked = "return document.activeElement.shadowRoot?.querySelector('input')"
    wait.until(lambda driver: driver.execute_script(asked)).send_keys("negative cache")
    read = "return document.activeElement.shadowRoot?.textContent ?? ''"
    told = wait.until(lambda driver: re.search(r"(\d+) results", driver.execute_script(read)))
    assert int(told[1]) > 5
    assert "Mathematics" in browser.execute_script(read)
