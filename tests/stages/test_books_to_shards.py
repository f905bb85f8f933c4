"""What clean, split, vocabulary, shard and audit publish: texts, records, ids and figures."""

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES
from gpt1.corpus.document import read_rows
from gpt1.corpus.rules.rule import Size
from gpt1.data.ngram_index import NgramIndex, copied
from gpt1.data.shards import DocumentSpan, Shards, ids_sha256, read_spans
from gpt1.tokenizer.bpe_train import learn_merges
from gpt1.tokenizer.pretokenizer import count_words
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from pipeline.planning.planner import Plan
from stages.clean import SAMPLES, STAGE
from tests.conftest import refuses, write
from tests.pipeline.inline import output, plan_of
from tests.pipeline.inprocess import refused
from tests.stages import runs
from tests.stages.conftest import SHELF
from tests.stages.runs import WORKFLOW, books, document, library, lines, made, run, run_text

Shelf = tuple[Path, Plan]
Monkey = pytest.MonkeyPatch
MEASURES = ("words", "sentences", "bytes")
COMMIT = "bd8f1b4d0a1e8e9c9d6f0a7b6c5d4e3f2a1b0c9d"


def vocabulary_of(plan: Plan) -> Vocabulary:
    return Vocabulary.load(Path(made(plan, "vocabulary").under("vocab_")[0].key).parent)


def test_what_is_rejected_is_kept_with_rule_and_evidence(shelf: Shelf) -> None:
    clean = made(shelf[1], "clean")
    files = [Path(file.key) for file in clean.under("rejected/")]
    rows = {row["id"]: row for file in files for row in read_rows(file)}
    rules = {"leaflet": "too_short", "french": "not_english", "figures": "garbled"}
    assert {name: row["rule"] for name, row in rows.items()} == rules
    assert "French" in rows["french"]["evidence"]
    assert rows["figures"]["text"] == (shelf[0] / "figures.txt").read_text()
    spans = read_spans(output(made(shelf[1], "shard"), "books.parquet"))
    table = {span.book: (span.title, span.author) for span in spans}
    assert table["author 1/book_1"] == ("book 1", "author 1")
    assert table.keys() & {"zz", *rows} == set()


def test_records_and_samples_name_the_rules_that_touched_each_book(shelf: Shelf) -> None:
    clean = made(shelf[1], "clean")
    records, texts = {row["book"]: row for row in lines(clean, "records/")}, books(clean)
    assert len(records) == made(shelf[1], "ingest").summary["books"] == 16
    assert records["zz"]["rules"] == {"ftfy": 1, "credits": 1, "emphasis": 1, "join_lines": 45}
    for row in records.values():
        for name in MEASURES:
            changes = sum(change[name] for change in row["changes"].values())
            assert row[f"{name}_before"] + changes == row[name]
    kept = {name: row["bytes"] for name, row in records.items() if not row["rejected"]}
    assert kept == {name: len(book.text.encode()) for name, book in texts.items()}
    samples = [row for row in lines(clean, "samples/") if row["rule"] == "credits"]
    assert 2 <= len({row["book"] for row in samples}) == len(samples) <= 8 * SAMPLES
    assert all("Produced" in row["before"] and "Produced" not in row["after"] for row in samples)


def test_all_switches_off_keep_every_text_as_it_came(tmp_path: Path) -> None:
    """The settings are the registry's switches, no more and no less."""
    off = dict.fromkeys((rule.name for rule in TEXT_RULES), "false")
    off |= {rule.setting: "false" if rule.default is True else "0" for rule in BOOK_RULES}
    assert set(STAGE.settings_model.model_fields) == off.keys()
    folder = library(tmp_path / "books")
    settings = [f"clean.{name}={value}" for name, value in off.items()]
    clean = made(run_text(tmp_path / "store", folder, *settings, until="clean"), "clean")
    assert clean.summary["books"] == 16
    for book in books(clean).values():
        assert book.text == (folder / f"{book.id}.txt").read_text()


def test_the_embedded_books(embedded: Plan) -> None:
    ingest, clean, shard = (made(embedded, stage) for stage in ("ingest", "clean", "shard"))
    assert [ingest.summary[name] for name in ("books", "files", "authors")] == [10, 63, 7]
    before, after = books(ingest), books(clean)
    assert before.keys() == after.keys()
    grey = "brontes/Anne_Bronte_Agnes_Grey"
    assert ("\r" in before[grey].text, "\r" in after[grey].text) == (True, False)
    for row in runs.split_rows(embedded).values():
        tail = 0 if row.tail_start is None else 1 - row.tail_start / row.length
        assert 0.05 < tail <= 0.1 if row.set == "train" else tail == 0
    figures = shard.summary
    size = made(embedded, "vocabulary").summary["vocabulary"]
    assert 10 < figures["bigram_perplexity"] < figures["unigram_perplexity"] < size
    tokens = figures["train_tokens"] + figures["held_out_tokens"]
    assert figures["tokens_per_byte"] == pytest.approx(tokens / figures["bytes"])


def test_shards_hold_the_ids_of_the_split_texts(embedded: Plan) -> None:
    encoder = Tokenizer(vocabulary_of(embedded))
    clean, shard = made(embedded, "clean"), made(embedded, "shard")
    table, rows, texts = output(shard, "books.parquet"), runs.split_rows(embedded), books(clean)
    assert {span.book for span in read_spans(table)} == texts.keys()
    for chosen in ("train", "held_out"):
        paths = [Path(file.key) for file in shard.under(f"{chosen}/")]
        shards = Shards.open(paths, table, chosen, encoder.vocabulary.sha256)
        assert {span.book for span in shards.spans} == {n for n in rows if rows[n].set == chosen}
        assert shards.tokens == shard.summary[f"{chosen}_tokens"]
        for index, span in enumerate(shards.spans):
            book, ids = texts[span.book], shards.book(index)
            assert ids.tolist() == encoder.encode(book.text[: rows[span.book].tail_start])
            assert (span.sha256, span.source) == (ids_sha256(ids), book.source)
            assert f'"{span.book}"' in output(clean, str(span.cleaning)).read_text()


def test_a_fraction_of_the_books_and_shuffled_sentences(embedded: Plan, tmp_path: Path) -> None:
    """The other training books, and all held-out ones, have the same ids; one store has all."""
    tokens = vocabulary_of(embedded).tokens

    def spans(plan: Plan) -> dict[str, DocumentSpan]:
        return {one.book: one for one in read_spans(output(made(plan, "shard"), "books.parquet"))}

    def ids(plan: Plan) -> dict[str, list[int]]:
        shard = made(plan, "shard")
        paths, table = [Path(file.key) for file in shard.under("train/")], "books.parquet"
        shards = Shards.open(paths, output(shard, table), "train")
        pairs = zip(shards.spans, shards, strict=True)
        return {span.book: found.tolist() for span, found in pairs}

    def words(ids: list[int]) -> Counter[str]:
        return Counter("".join(tokens[id] for id in ids).split("</w>"))

    store = shutil.copytree(embedded.store.root, tmp_path / "store")
    half, shuffled = (
        run(WORKFLOW, store, f"shard.{setting}", stages=("shard",))
        for setting in ("train_fraction=0.5", "sentence_order=shuffled")
    )
    everything, before, after = spans(embedded), ids(embedded), ids(shuffled)
    kept = ids(half)
    assert len(kept) == round(len(before) / 2)
    assert all(before[book] == kept[book] for book in kept)
    assert made(half, "shard").summary["train_tokens"] == sum(map(len, kept.values()))
    for plan in (half, shuffled):
        for book, span in spans(plan).items():
            assert span.set == "train" or span.sha256 == everything[book].sha256
        assert {n for n, s in spans(plan).items() if s.set == "held_out"} == {
            n for n, s in everything.items() if s.set == "held_out"
        }
    assert before.keys() == after.keys()
    for book, found in after.items():
        straight, other = words(before[book]), words(found)
        assert straight["\n"] == other["\n"]
        assert (straight - other).total() < 0.001 * straight.total()  # a word at a line's end
        same = sum(a == b for a, b in zip(before[book], found, strict=False))
        assert same < 0.1 * len(found)
    bigrams = [made(plan, "shard").summary["bigram_perplexity"] for plan in (embedded, shuffled)]
    assert bigrams[1] == pytest.approx(bigrams[0], rel=0.02)  # it knows little of sentences' order
    for words_ in (("train", 0), ("--text", "the old man went down")):
        refused("its sentences are shuffled", "trace", *words_, "--store", store)


def test_every_span_of_the_training_books_is_found(embedded: Plan, tmp_path: Path) -> None:
    """1,000 random spans with all their places, and of held-out text what they have, no more."""
    shard, draw = made(embedded, "shard"), np.random.default_rng(0)
    names, table = ("train", "held_out"), output(shard, "books.parquet")
    files = [[Path(file.key) for file in shard.under(f"{name}/")] for name in names]
    train, held_out = (
        Shards.open(paths, table, name) for paths, name in zip(files, names, strict=True)
    )
    NgramIndex.build(train, tmp_path / "ngrams")
    index, books = NgramIndex(train, tmp_path / "ngrams"), [book.tobytes() for book in train]
    ngrams = {book[at : at + 16] for book in books for at in range(0, len(book) - 15, 2)}
    shared = 0
    for shards in (train, held_out):
        for _ in range(1000):
            book = shards.book(int(draw.integers(len(shards))))
            length = int(draw.integers(8, 40))
            span = book[int(draw.integers(len(book) - length)) :][:length]
            if shards is train:
                places = list(places_in(books, span.tobytes()))
                assert [one.places for one in index.matches(span.tolist())] == [places]
                continue
            starts = [at for at in range(length - 7) if span[at : at + 8].tobytes() in ngrams]
            covered = {at + within for at in starts for within in range(8)}
            assert copied(index.matches(span.tolist())) == len(covered)
            shared += bool(covered)
    assert 0 < shared < 500


def places_in(books: list[bytes], ids: bytes) -> Iterator[tuple[int, int]]:
    """Where these ids of two bytes are in the books."""
    for number, book in enumerate(books):
        at = book.find(ids)
        while at >= 0:
            if at % 2 == 0:
                yield number, at // 2
            at = book.find(ids, at + 1)


def test_the_audit_leads_from_what_came_in_to_what_is_trained_on(shelf: Shelf) -> None:
    found = document(made(shelf[1], "audit"), "audit.json")
    rows = found["steps"]
    for (before, row), name in product(pairwise(rows), MEASURES):
        assert before[name] + row[f"{name}_change"] == row[name], row["name"]
    assert (rows[0]["name"], rows[0]["books"], rows[-1]["name"]) == ("ingest", 16, "train")
    assert rows[0]["words"] == made(shelf[1], "ingest").summary["words"]
    steps = {row["name"]: row for row in rows}
    names = ("touched", "strikes", "words_change")
    assert [steps["credits"][name] for name in names] == [13, 13, -13 * 3]
    kinds = [steps[name]["kind"] for name in ("credits", "tables", "duplicate", "tails")]
    assert kinds == ["rule", "off", "copy", "aside"]
    [copy] = found["copies"]
    assert (copy["copy_of"], steps["duplicate"]["books"]) == ("author 0/book_0", 12)


def test_the_audit_counts_the_training_texts(shelf: Shelf) -> None:
    audit, texts = made(shelf[1], "audit"), runs.training_texts(shelf[1])
    found = document(audit, "audit.json")
    total, last = sum(map(Size.of, texts), Size()), found["steps"][-1]
    assert [last[name] for name in MEASURES] == [total.words, total.sentences, total.bytes]
    assert sum(n["sentences"] for n in found["sentences"]["distribution"]) == total.sentences
    words = Counter(word.strip('",.') for text in texts for word in text.lower().split())
    assert {row["word"]: row["count"] for row in found["words"][:20]}.items() <= words.items()
    page = output(audit, "audit.html").read_text().replace("http://www.w3.org/", "")
    assert all(text in page for text in ("<svg", "Produced by Somebody", "984,846,357"))
    assert not [one for one in ("http://", "https://", 'src="', "<script") if one in page]


def test_the_tree_of_counts_gives_the_merges_of_one_count(tmp_path: Path) -> None:
    settings = (*SHELF, "ingest.num_partitions=20")
    plan = run_text(tmp_path, library(tmp_path / "books"), *settings, until="vocabulary")
    counts = count_words("\n".join(runs.training_texts(plan)))
    assert vocabulary_of(plan).merges == learn_merges(counts, 60)
    assert runs.parts(plan, "vocabulary")[0] == 20 + 3 + 1  # parts, groups of eight, merges


def test_a_published_vocabulary(shared: Path, tmp_path: Path, monkeypatch: Monkey) -> None:
    """Of a folder, and, by content the same, of the hub, which is what is in a cache."""
    folder, store, source = tmp_path / "books", tmp_path / "store", shared / "gpt1_bpe"
    plan = run_text(store, library(folder), *SHELF, f"vocabulary.source={source}")
    assert vocabulary_of(plan).sha256 == Vocabulary.load(source).sha256
    assert (runs.parts(plan, "vocabulary"), made(plan, "shard").summary["unknown"]) == ((0, 0), 0)
    names = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
    files = {f"snapshots/{COMMIT}/{to}": (source / name).read_bytes() for to, name in names.items()}
    hub = tmp_path / "hub" / "models--openai-community--openai-gpt"
    write(hub, {"refs/main": COMMIT.encode(), **files})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    words = (f"ingest.source={folder}", *SHELF)
    words += ("vocabulary.source=hf://openai-community/openai-gpt",)
    assert not plan_of(WORKFLOW, store, *words).entries["vocabulary"].run
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    refuses(r"openai-gpt: its vocab\.json and merges\.txt", plan_of, WORKFLOW, store, *words)
