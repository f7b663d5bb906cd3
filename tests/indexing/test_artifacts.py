"""Indexes as PyTerrier's artifacts: found by their folder alone, moved, packed, uploaded and downloaded."""

from __future__ import annotations

import configparser
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path

import huggingface_hub
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, make_docs, make_queries

from pyterrier_rescale import open_index

DOCS, QUERIES = make_docs(200), make_queries(5)


@pytest.fixture(scope="module", params=ENGINES)
def index(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifacts") / request.param
    return open_index(path, request.param, scale=50).indexer(made_from={"encoder": "e"}).index(DOCS)


def test_artifacts_are_registered():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    written = dict(
        line.split(" = ") for line in config["options.entry_points"]["pyterrier.artifact"].strip().splitlines()
    )
    found = entry_points(group="pyterrier.artifact")
    installed = {e.name: e for e in found if e.value.startswith("pyterrier_rescale.")}
    assert {name: e.value for name, e in installed.items()} == written, "install the package anew"
    loaded = {name: e.load() for name, e in installed.items()}
    for name, artifact in loaded.items():
        assert name == "{}.{}".format(*pt.inspect.artifact_type_format(artifact))


def same(artifact, index) -> None:
    assert type(artifact) is type(index)
    assert (artifact.scale, artifact.made_from, len(artifact)) == (50, {"encoder": "e"}, 200)
    pd.testing.assert_frame_equal(artifact.retriever(9)(QUERIES), index.retriever(9)(QUERIES))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local stand-in for the Hugging Face Hub: uploads are copied into a folder that a local server serves."""
    served = tmp_path / "hub"

    def upload_folder(*, repo_id, folder_path, repo_type, revision):
        shutil.copytree(folder_path, served / f"{repo_type}s" / repo_id / "resolve" / revision)
        return repo_id

    for name in ("create_repo", "create_branch"):
        monkeypatch.setattr(huggingface_hub, name, lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
    served.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_found_by_their_path_uploaded_and_downloaded(index, hub, capsys):
    assert pt.Artifact.load(str(index.path)) == index
    index.to_hf("somebody/an-index")
    url = f"{hub}/datasets/somebody/an-index/resolve/main/artifact.tar.lz4"
    downloaded = pt.Artifact.from_url(url)
    assert downloaded.path != index.path and downloaded.built
    same(downloaded, index)
