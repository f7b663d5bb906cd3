"""Vectors and indexes as PyTerrier's artifacts: registered, packed, found by their folder alone."""

from __future__ import annotations

import configparser
import pickle
import tarfile
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, make_docs, make_queries
from lz4.frame import LZ4FrameFile
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode, open_index

DOCS, QUERIES = make_docs(200), make_queries(5)


def test_artifacts_are_registered():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    lines = config["options.entry_points"]["pyterrier.artifact"].strip().splitlines()
    found = entry_points(group="pyterrier.artifact")
    installed = {e.name: e for e in found if e.value.startswith("pyterrier_rescale.")}
    assert {name: e.value for name, e in installed.items()} == dict(line.split(" = ") for line in lines)
    for name, entry in installed.items():
        assert name == "{}.{}".format(*pt.inspect.artifact_type_format(entry.load()))


def unpacked(artifact, folder):
    package = artifact.build_package(str(folder / "package.tar.lz4"), verbose=False)
    with LZ4FrameFile(package) as file, tarfile.open(fileobj=file) as tar:
        tar.extractall(folder / "copy")
    return pt.Artifact.load(str(folder / "copy"))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_travels(tmp_path, engine):
    index = open_index(tmp_path / "i", engine, scale=50).indexer(made_from={"encoder": "e"}).index(DOCS)
    assert pt.Artifact.load(str(index.path)) == index
    found = unpacked(index, tmp_path)
    assert (type(found), found.scale, found.made_from, len(found)) == (type(index), 50, {"encoder": "e"}, 200)
    pd.testing.assert_frame_equal(found.retriever(9)(QUERIES), index.retriever(9)(QUERIES))


def test_vectors_travel(tmp_path):
    vectors = encode(StubEncoder(), make_documents(60), tmp_path / "v", verbose=False)
    assert pt.Artifact.load(str(tmp_path / "v")) == vectors and unpacked(vectors, tmp_path).docnos == vectors.docnos
    again = pickle.loads(pickle.dumps(vectors))
    assert again == vectors and again.docnos == vectors.docnos and repr(again) == f"open_vectors({str(vectors.path)!r})"
