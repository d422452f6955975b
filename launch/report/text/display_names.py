"""names that settings and records use, as words for readers"""

DIRECTIONS = {
    "class_means": "difference of class means",
    "probe": "weights of the probe",
    "lda": "linear discriminant",
}
SITES = {"heads": "attention heads", "mlp": "MLP outputs", "residual": "the residual stream"}
POSITIONS = {"last": "the last position", "all": "all positions"}
SCORERS = {
    "lexicon": "a list of words: it knows words, not meaning",
    "profanity": "an offline lexical classifier, a proxy: it knows words, not meaning",
    "openai": "OpenAI's moderation, a service on the network",
}


CONTROLS = {
    "flipped": "the direction flipped",
    "random_heads": "random heads",
    "random_directions": "random directions",
}


def plain(name: str) -> str:
    """'evaluation_overlap' → 'evaluation overlap'."""
    return name.replace("_", " ")


def scorer(asked: str) -> str:
    """What kind of scorer `eval.scoring.scorer` names; one that is not known here stands for itself."""
    if asked == "lexicon:synthetic:lexicon":
        return "the embedded corpus's own list of words, the ground truth of an invented attribute"
    kind, _, name = asked.partition(":")
    return f"the classifier {name}" if kind == "classifier" else SCORERS.get(kind, asked)


def setting(name: str, value: object) -> str:
    """'mask_personal', True → 'mask personal: yes'."""
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif isinstance(value, int):
        shown = f"{value:,}"
    else:
        shown = str(value) if value or value == 0 else "none"
    return f"{plain(name)}: {shown}"


def token(asked: str) -> str:
    """Which position of a row is read."""
    return {"last": "at the last token", "mean": "the mean of all tokens"}.get(
        asked, f"at token {asked}"
    )


def judge(fluency_id: str) -> str:
    """The model behind a perplexity; '' where there was none."""
    return "the run's own unsteered model" if fluency_id == "unsteered" else fluency_id


def source(uri: str) -> str:
    """'data/tone.jsonl#label=tone' → 'tone.jsonl'; documents of the embedded corpus by what they
    are.
    """
    name = uri.partition("#")[0].partition("?")[0]
    if name == "held_out":
        return "pieces of the held-out documents"
    if name.startswith("synthetic:"):
        return f"the embedded corpus ({name.removeprefix('synthetic:')})"
    return name.rsplit("/", 1)[-1]


def benchmark(asked: str) -> str:
    """'cloze:data/arc.jsonl#text=question' → 'arc.jsonl, cloze form'; with ' norm' 'by likelihood a
    character'.
    """
    form, _, uri = asked.removesuffix(" norm").partition(":")
    by = ", by likelihood a character" if asked.endswith(" norm") else ""
    return f"{source(uri)}, {form} form{by}"
