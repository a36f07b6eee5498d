"""Running text: where it comes from, blocks and masks."""

import gzip
import hashlib

import pytest
import torch
from transformers import AutoTokenizer
from unit.data.hub_server import COMMIT
from unit.data.tasks import parquet

from sparsetune.config.backbone import HubText, TextFiles
from sparsetune.data.corpus import (
    Blocks,
    TrainingBlocks,
    collate,
    encode_corpus,
    gather_corpus,
    mask_tokens,
)
from sparsetune.errors import ConfigError, DataError
from sparsetune.records import sha256_of


def gather(folder, *paths, **others):
    names = [str(path) for path in paths]
    source = TextFiles(kind="text", seed=0, paths=names, **others)
    return gather_corpus(source, folder / "corpus.txt", lock_file=folder / "lock.yaml")


def lines(folder):
    return (folder / "corpus.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "b.txt").write_text("one  two\n\n \n three\u2028four \n", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("né\n".encode(), mtime=0))
    columns = {"id": [1, 2, 3], "text": ["five\n\nsix", None, "seven"]}
    (tmp_path / "c.parquet").write_bytes(parquet(**columns))
    return tmp_path


def test_plain_gzip_and_parquet_become_one_document_a_line(texts):
    found = gather(texts, texts / "b.txt", texts / "*.gz", texts / "c.parquet")
    assert lines(texts) == ["one two", "three four", "né", "five six", "seven"]
    assert found["documents"] == 5
    assert found["sha256"] == sha256_of(texts / "corpus.txt")
    assert found["stored_bytes"] == (texts / "corpus.txt").stat().st_size
    assert found["revision"] is None


def test_only_the_first_documents_are_taken_when_asked(texts):
    assert gather(texts, texts / "b.txt", texts / "c.parquet", documents=3)["documents"] == 3
    assert lines(texts) == ["one two", "three four", "five six"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"none\.txt: no such text; need text, text\.gz or parquet"),
        ("bad.txt", b"\xff\xfe", r"bad\.txt: not readable text: "),
        ("bad.gz", b"not gzip", r"bad\.gz: not readable text: "),
        ("bad.parquet", b"PAR1", r"bad\.parquet: not readable text: "),
        ("empty.txt", b" \n\n", r"empty\.txt: the corpus has no document"),
    ],
)
def test_a_bad_file_is_named_and_leaves_nothing(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        gather(tmp_path, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ([name] if content is not None else [])


def test_a_parquet_file_without_text_is_told_its_columns(tmp_path):
    (tmp_path / "c.parquet").write_bytes(parquet(body=["a"]))
    with pytest.raises(DataError, match=r"c\.parquet: columns: received body; need text"):
        gather(tmp_path, tmp_path / "c.parquet")


def test_hub_text_is_read_at_the_commit_that_the_branch_stands_for(hub, tmp_path):
    texts = {"wiki/b": "second", "wiki/a": "first", "other/a": "unwanted"}
    served = {f"{name}.parquet": parquet(text=[text]) for name, text in texts.items()}
    hub.repositories["dataset", "my/texts"] = served

    def gather_hub(*patterns):
        source = HubText(
            kind="hub-text", repository="my/texts", revision="main", seed=0, files=patterns
        )
        return gather_corpus(source, tmp_path / "corpus.txt", lock_file=tmp_path / "lock.yaml")

    found = gather_hub("wiki/*.parquet")
    assert (found["revision"], found["documents"]) == (COMMIT, 2)
    wanted = [f"wiki/{name}.parquet" for name in "ab"]
    sums = {name: hashlib.sha256(served[name]).hexdigest() for name in wanted}
    assert found["files"] == sums
    assert lines(tmp_path) == ["first", "second"]
    assert sorted(hub.downloads()) == wanted
    with pytest.raises(DataError, match=r"^my/texts@012345678901/none/\*\.txt: no such text"):
        gather_hub("wiki/a.parquet", "none/*.txt")


@pytest.fixture(scope="module")
def bert(trained):
    return AutoTokenizer.from_pretrained(trained["bert"])


@pytest.fixture(scope="module")
def gpt2(trained):
    return AutoTokenizer.from_pretrained(trained["gpt2"])


def test_each_document_is_a_block_with_special_tokens_and_is_cut(corpus, bert):
    blocks = list(encode_corpus(corpus, bert, block_tokens=16))
    lines = corpus.read_text(encoding="utf-8").splitlines()
    assert len(blocks) == len(lines)
    for block, line in zip(blocks[:20], lines, strict=False):
        words = bert(line, add_special_tokens=False)["input_ids"]
        assert block == [bert.cls_token_id, *words[:14], bert.sep_token_id]


def test_causal_blocks_end_with_the_end_token_and_label_themselves(corpus, gpt2):
    blocks = list(encode_corpus(corpus, gpt2, block_tokens=100))
    first = gpt2(corpus.read_text(encoding="utf-8").splitlines()[0])["input_ids"]
    assert blocks[0] == [*first, gpt2.eos_token_id]
    item = TrainingBlocks(blocks, gpt2, fraction=None)[0]
    assert torch.equal(item["input_ids"], item["labels"])


def test_a_stream_is_cut_into_full_blocks_and_loses_only_its_end(corpus, bert):
    blocks = list(encode_corpus(corpus, bert, block_tokens=16, layout="stream"))
    assert {len(block) for block in blocks} == {16}
    assert {(block[0], block[-1]) for block in blocks} == {(bert.cls_token_id, bert.sep_token_id)}
    found = [token for block in blocks for token in block[1:-1]]
    lines = corpus.read_text(encoding="utf-8").splitlines()
    words = [bert(line, add_special_tokens=False)["input_ids"] for line in lines]
    expected = [token for document in words for token in [*document, bert.sep_token_id]]
    assert found == expected[: len(found)]
    assert 0 <= len(expected) - len(found) < 14


def test_a_stream_shorter_than_a_block_is_one_block(tmp_path, gpt2):
    (tmp_path / "short.txt").write_text("a b\n", encoding="utf-8")
    (block,) = encode_corpus(tmp_path / "short.txt", gpt2, block_tokens=100, layout="stream")
    assert block == [*gpt2("a b")["input_ids"], gpt2.eos_token_id]


def test_blocks_on_disk_are_those_that_were_written_and_are_kept(tmp_path):
    made = [[1, 2, 3], [4], [5, 6]]
    blocks = Blocks.write(tmp_path / "blocks", iter(made))
    assert list(blocks) == made
    assert blocks.lengths == [3, 1, 2]
    assert list(Blocks.write(tmp_path / "blocks", iter([[9]]))) == made
    (tmp_path / "blocks" / "ends.npy").unlink()  # as if the process had been killed
    assert list(Blocks.write(tmp_path / "blocks", iter([[9]]))) == [[9]]
    with pytest.raises(IndexError):
        blocks[3]


def test_items_know_their_lengths_without_being_made(bert):
    blocks = [[2, 30, 31, 3], [2, 30, 3]]
    masked = TrainingBlocks(blocks, bert, fraction=0.15, copies=2)
    assert masked.lengths == [len(item["input_ids"]) for item in masked] == [4, 3, 4, 3]
    assert TrainingBlocks(blocks, bert, fraction=None).lengths == [4, 3]


def test_masking_follows_the_80_10_10_rule(bert):
    tokens = torch.full((400, 100), 20)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = mask_tokens(tokens, bert, fraction=0.15, generator=generator)
    chosen = labels != -100
    # 40 000 draws: one standard deviation is 0.0018 of all and 0.0052 of the chosen.
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    hidden = (inputs == bert.mask_token_id)[chosen].float().mean().item()
    kept = (inputs == 20)[chosen].float().mean().item()
    assert hidden == pytest.approx(0.8, abs=0.025)
    assert kept == pytest.approx(0.1, abs=0.025)
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert (labels[chosen] == 20).all()


def test_special_tokens_are_never_chosen(bert):
    tokens = torch.tensor(bert.all_special_ids).repeat(200)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = mask_tokens(tokens, bert, fraction=0.5, generator=generator)
    assert torch.equal(inputs, tokens)
    assert (labels == -100).all()


def test_items_depend_on_seed_and_index_alone(corpus, bert):
    blocks = list(encode_corpus(corpus, bert, block_tokens=16))
    make = lambda seed: TrainingBlocks(blocks, bert, fraction=0.15, copies=2, seed=seed)  # noqa: E731
    first, again = make(0), make(0)
    count = len(blocks)
    later = again[5]["input_ids"]
    torch.rand(7)
    assert len(first) == 2 * count
    assert torch.equal(first[5]["input_ids"], later)
    assert not torch.equal(first[5]["labels"], first[5 + count]["labels"])
    assert not torch.equal(first[5]["labels"], make(1)[5]["labels"])


def test_collate_pads_to_the_longest_and_masks_the_padding():
    long, short = TrainingBlocks([[5, 6, 7], [8]], None, fraction=None)
    batch = collate([long, short])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]


def test_wrong_settings_are_refused(corpus, bert, gpt2, tmp_path):
    tokens, generator = torch.zeros(3, dtype=torch.int64), torch.Generator()
    with pytest.raises(ConfigError, match="block_tokens: received 1; allowed: 3 to 128"):
        encode_corpus(corpus, bert, block_tokens=1)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: the corpus has no document"):
        encode_corpus(tmp_path / "empty.txt", bert, block_tokens=16)
    with pytest.raises(DataError, match=r"missing\.txt"):
        encode_corpus(tmp_path / "missing.txt", bert, block_tokens=16)
    with pytest.raises(ConfigError, match=r"fraction 1\.0"):
        mask_tokens(tokens, bert, fraction=1.0, generator=generator)
    with pytest.raises(ConfigError, match="no mask token"):
        mask_tokens(tokens, gpt2, fraction=0.1, generator=generator)
