"""Faults caught: a page that a browser cannot show: figures that do not decode, text or tables
that push the page wider than the window, a blank rendering.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

PROBE = """
<script>
const images = [...document.images];
const ready = images.filter((image) => image.complete && image.naturalWidth > 1000).length;
const wide = [...document.querySelectorAll("main > *, section > *")].filter(
  (element) => element.getBoundingClientRect().right > window.innerWidth + 0.5).length;
const page = document.scrollingElement;
document.title = [ready, images.length, page.scrollWidth - window.innerWidth, wide].join(" ");
</script>
"""


def chromium(profile: Path, *arguments: str) -> str:
    """Run the browser once, with a fresh profile; returns its standard output."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture
def page(finished_run: Path) -> Path:
    return finished_run / "report" / "index.html"


@pytest.mark.parametrize("width", [1200, 420])
def test_figures_decode_and_nothing_overflows(width: int, page: Path, tmp_path: Path) -> None:
    """A copy of the page with a script at its end that reports what the browser sees."""
    probed = tmp_path / "probed.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A headless window is never narrower than 500 pixels: a frame of the wanted width is.
    host = tmp_path / "host.html"
    host.write_text(
        f'<iframe id="f" src="probed.html" style="width:{width}px;height:2000px;border:0"></iframe>'
        "<script>onload = () => { document.title = f.contentDocument.title; };</script>"
    )
    flags = ("--allow-file-access-from-files", "--window-size=1400,2000", "--dump-dom")
    shown = chromium(tmp_path / "profile", *flags, host.as_uri())
    title = shown.split("<title>")[1].split("</title>")[0]
    ready, images, overflow, wide = (int(float(number)) for number in title.split())
    drawn = [png for png in page.parent.glob("*.png") if not png.stem.endswith("-dark")]
    assert images == len(drawn)
    assert ready == images > 10
    assert overflow <= 0
    assert wide == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_screenshot_shows_text_and_figures_in_the_theme(
    dark: bool, page: Path, tmp_path: Path
) -> None:
    shot = tmp_path / "shot.png"
    theme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    flags = (*theme, "--window-size=1200,2400", f"--screenshot={shot}")
    chromium(tmp_path / "profile", *flags, page.as_uri())
    image = np.asarray(matplotlib.image.imread(shot))[:, :, :3]
    assert image.shape[:2] == (2400, 1200)
    assert (np.median(image) < 0.2) == dark
    for band in np.array_split(image[:, 150:1050], 8):
        assert band.std() > 0.02, "a blank stretch of page"
    coloured = (image.max(axis=2) - image.min(axis=2)) > 0.3
    assert coloured.mean() > 0.01, "no figure is to be seen"
