"""Published layouts, damaged in one place each: one line says where, nothing is overwritten."""

import gzip
import json

import pytest
from unit.data.tasks import parquet, task_of

from sparsetune.errors import DataError
from sparsetune.records import DatasetRecord, read_record
from sparsetune.stages.context import Context
from sparsetune.stages.dataset import make_dataset

CONTEXT = "Ada lives in Oslo. Ben lives in Rome."


def squad(*questions):
    entries = [
        {"id": key, "question": "Where?", "answers": [{"text": text, "answer_start": start}]}
        for key, text, start in questions
    ]
    paragraphs = [{"context": CONTEXT, "qas": entries}]
    return json.dumps({"data": [{"title": "People", "paragraphs": paragraphs}]}).encode()


def webnlg(*texts):
    triple = {"subject": "Oslo", "property": "country", "object": "Norway"}
    entries = [
        {
            str(number): {
                "category": "City",
                "modifiedtripleset": [triple],
                "lexicalisations": [{"comment": "good", "lex": text}],
            }
        }
        for number, text in enumerate(texts, start=1)
    ]
    return json.dumps({"entries": entries}).encode()


def dart(*texts):
    triples = [["Oslo", "COUNTRY", "Norway"]]
    entries = [
        {"tripleset": triples, "annotations": [{"source": "e2e", "text": text}]} for text in texts
    ]
    return json.dumps(entries).encode()


ENTAILMENT = b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"
ENTAILMENT_LABELS = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
MRPC = b'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n0\t7\t9\tsaid "a\tb\n'
QQP = b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t0\n1\t3\t4\tc\td\t1\n"
STSB = b"index\tsentence1\tsentence2\tscore\n0\ta\tb\t5.000\n1\tc\td\t0.000\n"
E2E = b'mr,ref\r\n"name[Ada], food[Thai]",One.\r\nname[Ben],"Two, ""2"".\n"\r\n'
LINES = b"name : Ada | food : Thai||One . \nname : Ben||Two . \n"
MNLI = b'{"premise": "a", "hypothesis": "b", "label": "neutral"}\n'
SPANS = {"text": ["Oslo"], "answer_start": [13]}
HUB_SQUAD = {"id": ["q1"], "question": ["Where?"], "context": [CONTEXT], "answers": [SPANS]}
HUB_E2E = {"meaning_representation": ["name[Ada]"], "human_reference": ["One."]}
TEXTS = {"texts": ["text"], "label": "label"}
PAIRS = {"source": "words", "references": "text"}
QUESTIONS = {"question": "q", "context": "c", "answers": "a", "id": "id"}
TABLE_JSON = json.dumps([{"id": "q1", "q": "Where?", "c": CONTEXT, "a": SPANS}]).encode()

# Name of a good folder -> layout, kind, labels, columns, the two files.
GOOD = {
    "sst2": ("sst2", "classification", ("0", "1"), None, "train.tsv", "dev.tsv",
             b"sentence\tlabel\ngood\t1\nbad\t0\n"),
    "sst2.gz": ("sst2", "classification", ("0", "1"), None, "train.tsv.gz", "dev.tsv.gz",
                gzip.compress(b"sentence\tlabel\n" + b"good\t1\nbad\t0\n" * 50, mtime=0)),
    "sst2.hub": ("sst2", "classification", ("0", "1"), None, "train-00000-of-00001.parquet",
                 "validation-00000-of-00001.parquet", parquet(sentence=["good"], label=[1])),
    "cola": ("cola", "classification", ("0", "1"), None, "train.tsv", "dev.tsv",
             b"gj04\t1\t\tA book.\ngj04\t0\t*\tBook a.\n"),
    "mrpc": ("mrpc", "classification", ("0", "1"), None, "train.tsv", "dev.tsv", MRPC),
    "rte": ("rte", "classification", ENTAILMENT_LABELS, None, "train.tsv", "dev.tsv", ENTAILMENT),
    "wnli": ("wnli", "classification", ("0", "1"), None, "train.tsv", "dev.tsv",
             b"index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n"),
    "qnli": ("qnli", "classification", ENTAILMENT_LABELS, None, "train.tsv", "dev.tsv",
             b"index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n"),
    "qqp": ("qqp", "classification", ("0", "1"), None, "train.tsv", "dev.tsv", QQP),
    "stsb": ("stsb", "regression", (), None, "train.tsv", "dev.tsv", STSB),
    "mnli": ("mnli", "classification", NLI, None, "train.jsonl", "dev.jsonl", MNLI),
    "squad": ("squad", "span", (), None, "train-v1.1.json", "dev-v1.1.json",
              squad(("q1", "Oslo", 13), ("q2", "Rome", 32))),
    "squad.hub": ("squad", "span", (), None, "train-00000-of-00001.parquet",
                  "validation-00000-of-00001.parquet", parquet(**HUB_SQUAD)),
    "e2e": ("e2e", "generation", (), None, "trainset.csv", "devset.csv", E2E),
    "e2e.lines": ("e2e", "generation", (), None, "train.txt", "valid.txt", LINES),
    "e2e.hub": ("e2e", "generation", (), None, "train-0000.parquet", "validation-0000.parquet",
                parquet(**HUB_E2E)),
    "webnlg": ("webnlg", "generation", (), None, "train.json", "dev.json", webnlg("One.", "Two.")),
    "dart": ("dart", "generation", (), None, "dart-v1.1.1-full-train.json",
             "dart-v1.1.1-full-dev.json", dart("One.", "Two.")),
    "tsv": ("table", "classification", ("low", "high"), TEXTS, "train.tsv", "dev.tsv",
            b"text\tlabel\na\tlow\nb\t1\n"),
    "csv": ("table", "regression", (), TEXTS, "train.csv", "dev.csv",
            b'text,label\n"a, ""b""",1.5\nc,-2\n'),
    "jsonl": ("table", "generation", (), PAIRS, "train.jsonl", "dev.jsonl",
              b'{"words": ["dog", "run"], "text": "A dog runs."}\n'),
    "json": ("table", "span", (), QUESTIONS, "train.json", "dev.json", TABLE_JSON),
}  # fmt: skip

# Folder, what becomes of the good train file, what the line then says about it.
CASES = [
    # Files that are not there, not readable, or not text.
    ("sst2", None, ": no such file (accepted: train.tsv, train.tsv.gz"),
    ("squad", None, ": no such file (accepted: train-v1.1.json"),
    ("e2e", None, ": no such file (accepted: trainset.csv, trainset.csv.gz, train.txt"),
    ("webnlg", None, ": no such file (accepted: train.json, train.json.gz)"),
    ("dart", None, ": no such file (accepted: dart-v1.1.1-full-train.json"),
    ("sst2", b"", ": the file is empty"),
    ("sst2", (b"good", b"go\xffd"), ": row 2: byte 0xff at offset 17 is not valid UTF-8"),
    ("e2e.lines", (b"Ada", b"\xc3\x28"), ": row 1: byte 0xc3 at offset 7 is not valid UTF-8"),
    ("sst2.gz", slice(None, -9), ": damaged or truncated gzip"),
    ("sst2.gz", slice(None, 20), ": damaged or truncated gzip"),
    ("sst2.gz", lambda packed: packed[:15] + b"\xff" + packed[16:], ": damaged or truncated gzip"),
    ("sst2.gz", b"not gzip", ": damaged or truncated gzip"),
    ("sst2.gz", (b"\x1f\x8b\x08", b"\x1f\x8b\x07"), ": damaged or truncated gzip"),
    ("sst2.hub", slice(None, -9), ": not a readable parquet file"),
    ("sst2.hub", parquet(text=["good"], label=[1]), ": missing column 'sentence'"),
    ("sst2.hub", parquet(sentence=["good"], label=[-1]), ": row 1: label: received -1 (hidden by"),
    ("sst2.hub", parquet(sentence=[None], label=[1]), ": row 1: sentence: received None, need"),
    # GLUE: columns, rows and labels.
    ("sst2", b"sentence\tlabel\n", ": the file has a header but no examples"),
    ("sst2", (b"label", b"mark"), ": row 1: column 'label' is not in the header"),
    ("sst2", (b"bad\t0", b"bad\t2"), ": row 3: label: received '2'; allowed: 0, 1"),
    ("sst2", (b"bad\t0", b"bad\t"), ": row 3: label: received ''; allowed: 0, 1"),
    ("sst2", (b"bad\t0", b"bad 0"), ": row 3: received 1 columns, need 2"),
    ("cola", (b"\t0\t*", b"\t2\t*"), ": row 2: label: received '2'; allowed: 0, 1"),
    ("cola", (b"\t\tA", b"\tA"), ": row 1: received 3 columns, need 4"),
    ("mrpc", (b'said "a\tb', b'"said\ta"\tb'), ": row 3: received 6 columns, need 5"),
    ("mrpc", (b"\n0\t", b"\n-1\t"), ": row 3: Quality: received '-1'; allowed: 0, 1"),
    ("rte", (b"sentence2\t", b""), ": row 1: column 'sentence2' is not in the header"),
    ("rte", (b"\tentailment", b""), ": row 2: received 3 columns, need 4"),
    ("rte", (b"\tentailment", b"\tmaybe"), ": row 2: label: received 'maybe'; allowed: entailment"),
    ("wnli", (b"\t1\n", b"\t01\n"), ": row 2: label: received '01'; allowed: 0, 1"),
    ("qnli", (b"question", b"query"), ": row 1: column 'question' is not in the header"),
    ("qqp", (b"\t0\n1", b"\tno\n1"), ": row 2: is_duplicate: received 'no'; allowed: 0, 1"),
    ("qqp", b"cut\n".join([QQP, *[b""] * 4]), ": row 7: received 1 columns, need 6"),
    ("stsb", (b"5.000", b"5.001"), ": row 2: score: received '5.001', need a number in [0, 5]"),
    ("stsb", (b"0.000", b"-0.1"), ": row 3: score: received '-0.1', need a number in [0, 5]"),
    ("stsb", (b"5.000", b"nan"), ": row 2: score: received 'nan', need a number in [0, 5]"),
    ("stsb", (b"5.000", b"good"), ": row 2: score: received 'good', need a number in [0, 5]"),
    ("stsb", (b"5.000", b""), ": row 2: score: received '', need a number in [0, 5]"),
    ("mnli", (b"neutral", b"-"), ": row 1: gold_label: received '-'; allowed: entailment, neu"),
    ("mnli", (b'"b"', b"7"), ": row 1: hypothesis: received 7, need a text"),
    ("mnli", slice(None, -4), ": row 1: not JSON"),
    # SQuAD: places of answers, ids, shape.
    ("squad", (b'start": 13', b'start": 14'), "qas[0]: question 'q1': answer 'Oslo' is not the"),
    ("squad", (b'start": 13', b'start": -24'), "is not the context's text at character -24"),
    ("squad", (b'start": 13', b'start": 99'), "is not the context's text at character 99"),
    ("squad", (b'start": 13', b'start": "13"'), ": answers: answer_start: received '13', need an"),
    ("squad", (b'"text": "Oslo"', b'"text": ""'), "answer '' is not the context's text"),
    ("squad", (b'"id": "q2"', b'"id": "q1"'), "qas[1]: question id 'q1' stands there twice"),
    ("squad", (b'"question": "Where?", ', b""), "qas[0]: received {'id': 'q1', 'answers'"),
    ("squad", (b'"qas"', b'"questions"'), ": data[0].paragraphs[0].qas: received None, need a lis"),
    ("squad", (b'"q1", "question": "Where?"', b'"q1", "question": null'), ": received None"),
    ("squad", (b'[{"text": "Oslo", "answer_start": 13}]', b"[]"), "'q1' has no answer; need at"),
    ("squad", (b'[{"id": "q1"', b'["q0", {"id": "q1"'), "qas[0]: received 'q0', need id, question"),
    ("squad", b"[]", ": data: received None, need a list"),
    ("squad", b'{"data": []}', ": the train split holds no example"),
    ("squad", b'{"data": [{"title": "x"}]}', ": data[0].paragraphs: received None, need a list"),
    ("squad", b'{"data": [\n{]}', ": row 2: not JSON at column 2"),
    ("squad", slice(None, -5), ": row 1: not JSON at column"),
    ("squad", b"[" * 100_000, ": not JSON that can be read"),
    ("squad.hub", parquet(**HUB_SQUAD | {"answers": [None]}), ": row 1: answers: received None, n"),
    (
        "squad.hub",
        parquet(**HUB_SQUAD | {"answers": [{"text": ["Oslo"], "answer_start": [13, 2]}]}),
        ": row 1: answers: received {'text': ['Oslo'], 'answer_start': [13",
    ),
    ("squad.hub", parquet(**HUB_SQUAD | {"id": [None]}), ": row 1: id: received None, need a text"),
    # E2E in its three forms.
    ("e2e", (b"mr,ref", b"MR,ref"), ": row 1: column 'mr' is not in the header; it has: MR"),
    ("e2e", (b",One.", b""), ": row 2: received 1 columns, need 2"),
    ("e2e", (b",One.", b",One,"), ": row 2: received 3 columns, need 2"),
    ("e2e", (b"One.", b" "), ": row 2: ref: received ' ', need a text"),
    ("e2e", (b"name[Ben]", b"name(Ben)"), ": mr: received 'name(Ben)', need slot[value]"),
    ("e2e", (b'.\n"\r\n', b".\n"), ": not CSV"),
    ("e2e", b"mr,ref\n", ": the file has a header but no examples"),
    ("e2e.lines", (b"||Two", b"|Two"), ": row 2: received 'name : Ben|Two . ', need one line cont"),
    ("e2e.lines", (b"Two . ", b""), ": row 2: received 'name : Ben||', need one line context||tar"),
    ("e2e.lines", (b"One . ", b"One||. "), ": row 1: received 'name : Ada | food : Thai||One||"),
    ("e2e.lines", (b" . \n", b" . \n\n"), ": row 2: received '', need one line context||target"),
    ("e2e.hub", parquet(**HUB_E2E | {"human_reference": [None]}), ": row 1: human_ref"),
    # WebNLG and DART: entries, triples, texts.
    ("webnlg", b"{}", ": entries: received None, need a list with entries"),
    ("webnlg", (b'{"2"', b'{"1"'), ": entry 2: received ['1'], need one object with the key '2'"),
    ("webnlg", (b'"category": "City", ', b""), ": entry 1: lacks 'category'"),
    ("webnlg", (b', "object": "Norway"', b""), ": entry 1: received triple ['Oslo', 'country'"),
    ("webnlg", (b'"Norway"', b"null"), ": entry 1: received triple ['Oslo', 'country', None]"),
    ("webnlg", (b'"Two."', b'" "'), ": entry 2: lex: received ' ', need a text"),
    (
        "webnlg", (b'[{"comment": "good", "lex": "One."}]', b"[]"),
        ": entry 1: lexicalisations: received [], need a list that is not empty",
    ),
    ("webnlg", slice(None, -1), ": row 1: not JSON at column"),
    ("dart", b"{}", ": received {}, need a list with objects"),
    ("dart", (b'"COUNTRY", ', b""), ": row 1: received triple ['Oslo', 'Norway'], need three te"),
    ("dart", (b'"COUNTRY"', b"3"), ": row 1: received triple ['Oslo', 3, 'Norway'], need three"),
    ("dart", (b'[["Oslo", "COUNTRY", "Norway"]]', b"[]"), ": row 1: tripleset: received [], nee"),
    ("dart", dart(), ": received [], need a list with objects"),
    ("dart", b'[{"tripleset": [["a", "b", "c"]], "annotations": []}]', ": the train split holds n"),
    ("dart", (b'[{"source": "e2e", "text": "One."}]', b"3"), ": row 1: annotations: received 3,"),
    ("dart", (b'"annotations"', b'"texts"'), ": row 1: missing column 'annotations'"),
    ("dart", (b'"Two."', b'""'), ": row 2: annotations: received '', need a text"),
    # Any other table.
    ("tsv", (b"text\t", b"said\t"), ": row 1: column 'text' is not in the header; it has: said"),
    ("tsv", (b"text\tlabel", b"text\ttext\tlabel"), ": row 1: column 'text' is twice or more in"),
    ("tsv", (b"b\t1", b"b\t2"), ": row 3: label: received '2'; allowed: low, high, 0, 1"),
    ("tsv", (b"b\t1", b'"b\tc"\t1'), ": row 3: received 3 columns, need 2 (text, label)"),
    ("tsv", b"text\tlabel\n", ": the file has a header but no examples"),
    ("csv", (b"1.5", b"inf"), ": row 2: label: received 'inf', need a finite number"),
    ("csv", (b'"",', b'",'), ": not CSV"),
    ("csv", (b"text,", b'"te\nxt",'), "'text' is not in the header; it has: te\\nxt, label"),
    ("csv", (b"c,-2", b"c"), ": row 3: received 1 columns, need 2 (text, label)"),
    ("jsonl", (b'"words"', b'"word"'), ": row 1: missing column 'words'; it has: word, text"),
    ("jsonl", (b'"A dog runs."', b"[]"), ": row 1: text: received [], need at least one text"),
    ("jsonl", (b'"run"', b"1"), ": row 1: words: received 1, need a text"),
    ("jsonl", b"[]\n", ": row 1: received [], need an object"),
    ("json", (b"[13]", b"[14]"), ": row 1: question 'q1': answer 'Oslo' is not the context's"),
    ("json", (b'"q1"', b"null"), ": row 1: id: received '', need a text"),
    ("json", b",".join([TABLE_JSON[:-1], TABLE_JSON[1:]]), ": row 2: question id 'q1' stands"),
    ("json", b"{}", ": received {}, need a list with objects"),
]  # fmt: skip


def folder_of(tmp_path, name):
    layout, kind, labels, columns, train, dev, content = GOOD[name]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for file in (train, dev):
        (mirror / file).write_bytes(content)
    task = task_of(
        layout, kind, labels, columns=columns, splits={"train": "train", "dev": "dev"},
        source={"kind": "mirror", "path": str(mirror)},
    )  # fmt: skip
    return task, mirror / train


def damaged(content, damage):
    if isinstance(damage, bytes):
        return damage
    if callable(damage):
        return damage(content)
    if isinstance(damage, slice):
        return content[damage]
    old, new = damage
    assert content.count(old) >= 1
    return content.replace(old, new, 1)


def make(task, folder):
    make_dataset(task, folder, Context(), lock_file=folder.parent / "lock.yaml")
    return read_record(folder / "record.json", DatasetRecord).measured


@pytest.mark.parametrize("name", GOOD)
def test_the_undamaged_folders_are_read(tmp_path, name):
    measured = make(folder_of(tmp_path, name)[0], tmp_path / "copy")
    assert measured.train_examples >= 1
    assert measured.evaluation_examples >= 1


@pytest.mark.parametrize(("name", "damage", "message"), CASES)
def test_damage_is_told_in_one_line_and_overwrites_nothing(tmp_path, name, damage, message):
    task, train = folder_of(tmp_path, name)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "train.parquet").write_bytes(b"an older good copy")
    if damage is None:
        train.unlink()
    else:
        train.write_bytes(damaged(train.read_bytes(), damage))
    with pytest.raises(DataError) as caught:
        make(task, copy)
    told = str(caught.value)
    assert told.startswith(f"{train}: ")
    assert message in told
    assert "\n" not in told
    assert caught.value.exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"mirror", "copy"}
    assert (copy / "train.parquet").read_bytes() == b"an older good copy"


def test_the_damages_are_many_and_each_layout_has_some():
    assert len(CASES) >= 40
    assert {name for name, _, _ in CASES} == GOOD.keys()
