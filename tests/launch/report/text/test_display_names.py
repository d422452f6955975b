from launch.report.text import display_names


def test_sources_are_named_by_their_file():
    assert display_names.source("s3://b/data/tone.jsonl.gz#text=t&label=l") == "tone.jsonl.gz"
    assert display_names.source("synthetic:probes?documents=9") == "the embedded corpus (probes)"
    name = "hub:a/set@0123456789abcdef0123456789abcdef01234567"
    assert display_names.source(f"{name}?config=x&split=test#text=t") == "a/set (x, test)"
    assert display_names.source(name) == "a/set"


def test_benchmarks_are_named_by_their_names_and_forms():
    assert display_names.benchmark("mmlu") == "mmlu"
    assert display_names.benchmark("mmlu macro") == "mmlu, mean over subjects"
    assert display_names.benchmark("arc norm") == "arc, by likelihood per character"
    named = display_names.benchmark_source
    assert named("letter:d/val.jsonl#text=q&shots=5") == "val.jsonl, letter form, 5 examples"
    assert named("cloze:d/arc.jsonl#shots=1") == "arc.jsonl, cloze form, 1 example"
    assert named("detection:rows.csv#label=x") == "rows.csv, detection form"


def test_settings_are_shown_as_words():
    assert display_names.setting("mask_personal", True) == "mask personal: yes"
    assert display_names.setting("max_chars", 1_000_000) == "max chars: 1,000,000"
    assert display_names.setting("languages", []) == "languages: none"
    assert display_names.setting("min_chars", 0) == "min chars: 0"


def test_scorers_are_named_by_their_kind():
    assert display_names.scorer("classifier:org/name") == "the classifier org/name"
    assert display_names.scorer("trained:/a/posts#encoder=/b/mini").startswith("posts, a head")
    assert display_names.scorer("unknown") == "unknown"


def test_a_scorer_that_knows_only_words_is_called_a_proxy():
    blind = ", a proxy: it knows words, not meaning: blind to implicit hate and to who is meant"
    assert display_names.scorer("lexicon:mine.csv") == f"a list of words{blind}"
    assert display_names.scorer("profanity") == f"an offline lexical classifier{blind}"
    for other in ("classifier:a/b", "trained:a", "openai", "lexicon:synthetic:lexicon"):
        assert "proxy" not in display_names.scorer(other)
