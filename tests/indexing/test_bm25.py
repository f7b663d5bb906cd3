"""BM25 over texts: which tokeniser, by hand-counted scores; what an index was made from; nothing to find."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from pyterrier_rescale.indexing.bm25 import bm25, build_bm25, choose_tokeniser

ENGLISH = ["the cat sat", "a dog ran home", "birds fly"]
TEXTS = {
    "zh": (["猫坐在那里", "狗跑回家", "鸟在飞"], "猫", 0),
    "ja": (["情報検索の評価", "犬が走る", "鳥が飛ぶ"], "検索", 0),
    "th": (["การค้นหาข้อมูล", "สุนัขวิ่ง", "ปลา"], "ค้นหา", 0),
    "ru": (["кошка сидит", "собака бежит домой", "птицы летят"], "Собака?", 1),
    "hi": (["बिल्ली बैठी है", "कुत्ता भागा", "पक्षी उड़ते हैं"], "पक्षी", 2),
    "ko": (["고양이 앉다", "개 달리다", "새 날다"], "고양이", 0),
    "ar": (["القط جالس", "الكلب يجري", "الطيور تطير"], "الكلب", 1),
    "mixed": (["the cat 猫", "dog 狗", "bird 鸟"], "狗", 1),
    "en": (ENGLISH, "dogs", 1),
}


def documents(texts):
    return lambda: ({"docno": f"d{i}", "text": text} for i, text in enumerate(texts))


def search(path, query):
    return bm25(path, 10)(pd.DataFrame({"qid": ["1"], "query": [query]}))


@pytest.mark.parametrize("language", TEXTS)
def test_words_are_found_in_every_script(language, tmp_path):
    texts, query, wanted = TEXTS[language]
    tokeniser = choose_tokeniser(texts, [query])
    assert tokeniser == ("english" if language == "en" else "utf")
    build_bm25(documents(texts), tmp_path / "i", tokeniser=tokeniser)
    assert search(tmp_path / "i", query)["docno"].tolist()[0] == f"d{wanted}"


def test_english_stays_with_terriers_default():
    assert choose_tokeniser(["plain " * 100 + "β"], ["naïve question " + "of many words " * 20]) == "english"
    assert choose_tokeniser(["plain text"], ["где поиск"]) == "utf"
    assert choose_tokeniser([], []) == "english"


def test_score_by_hand(tmp_path):
    """Terrier: log2((N - n + .5) / (n + .5)) * tf (k1 + 1) / (tf + k1 (1 - b + b l / avg l)), k1 = 1.2, b = .75."""
    names = {"alpha beta": "日本語1", "gamma": "\U0001f600" * 30, "delta epsilon zeta": "plain"}
    build_bm25(lambda: ({"docno": name, "text": text} for text, name in names.items()), tmp_path / "i")
    results = search(tmp_path / "i", "gamma")
    assert results["docno"].tolist() == [names["gamma"]]
    weight = 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 2))
    assert results["score"].tolist() == pytest.approx([math.log2(2.5 / 1.5) * weight], rel=1e-5)


def test_what_is_there_is_reused_or_refused_and_never_removed(tmp_path):
    path, foreign = tmp_path / "i", tmp_path / "foreign"
    build_bm25(documents(["cat dog", "bird"]), path, made_from={"documents": "a"})
    build_bm25(None, path, made_from={"documents": "a"})
    for options in ({"made_from": {"documents": "b"}}, {"made_from": {"documents": "a"}, "tokeniser": "utf"}):
        with pytest.raises(ValueError, match="other inputs: (documents|tokeniser)"):
            build_bm25(documents(["one"]), path, **options)
    assert search(path, "bird")["docno"].tolist() == ["d1"]
    path.rename(foreign)
    (foreign / "made-from.json").unlink()  # as another program's index
    before = sorted(foreign.iterdir())
    with pytest.raises(FileExistsError):
        build_bm25(documents(["one"]), foreign)
    assert sorted(foreign.iterdir()) == before


def test_a_stream_that_breaks_leaves_no_index(tmp_path):
    passes = []

    def source():
        passes.append(1)
        yield {"docno": "d0", "text": "one"}
        if len(passes) > 1:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        build_bm25(source, tmp_path / "i")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("texts", [["", " "], ["🙂", "🙃🙃"], ["the of", "and"]])
def test_nothing_to_find_is_no_failure(texts, tmp_path):
    build_bm25(documents(texts), tmp_path / "i")
    results = search(tmp_path / "i", "the word")
    assert len(results) == 0 and {"qid", "query", "docno", "score", "rank"} <= set(results.columns)
