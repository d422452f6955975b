"""readable names for settings, scorers, sources and benchmarks"""

from urllib.parse import parse_qsl

from data_prep.config import proxy_reason

DIRECTIONS = {
    "class_means": "difference of class means",
    "probe": "weights of the probe",
    "lda": "linear discriminant",
}
SITES = {"heads": "attention heads", "mlp": "MLP outputs", "residual": "the residual stream"}
POSITIONS = {"last": "the last position", "all": "all positions"}
CONTROLS = {
    "flipped": "the direction flipped",
    "random_heads": "random heads",
    "random_directions": "random directions",
}
SCORERS = {
    "lexicon": "a list of words",
    "profanity": "an offline lexical classifier",
    "openai": "OpenAI's moderation, a service on the network",
}
# what stands behind the name of a benchmark (eval/steering/measures/multiple_choice.py)
BENCHMARK_QUANTITIES = {
    "norm": "by likelihood per character",
    "macro": "mean over subjects",
    "balanced": "mean over both classes",
    "AUROC": "as AUROC",
    "toxic": "probability of the toxic end",
}
TOKENS = {"last": "at the last token", "mean": "the mean of all tokens"}


def plain(name: str) -> str:
    """'evaluation_overlap' → 'evaluation overlap'."""
    return name.replace("_", " ")


def scorer(setting: str) -> str:
    """The kind of scorer that a setting names, and if it is a proxy, what it misses; an unknown one
    stands for itself.
    """
    if setting == "lexicon:synthetic:lexicon":
        return "the embedded corpus's own list of words, the ground truth of an invented attribute"
    kind, _, name = setting.partition(":")
    if kind == "classifier":
        return f"the classifier {name}"
    if kind == "trained":
        folder = name.partition("#")[0].rstrip("/").rsplit("/", 1)[-1]
        return f"{folder}, a head trained on labelled rows over a text encoder"
    reason = proxy_reason(setting)
    return SCORERS.get(kind, setting) + (f", a proxy: {reason}" if reason else "")


def setting(name: str, value: object) -> str:
    """'mask_personal', True → 'mask personal: yes'."""
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif isinstance(value, int):
        shown = f"{value:,}"
    else:
        shown = str(value) if value or value == 0 else "none"
    return f"{plain(name)}: {shown}"


def cost_text(name: str) -> str:
    """'clean' → 'clean held-out text', 'openwebtext' → 'openwebtext': the text of the cost."""
    return f"{name} held-out text" if name in ("clean", "toxic") else name


def token(setting: str) -> str:
    """Which token of a row is read."""
    return TOKENS.get(setting, f"at token {setting}")


def judge(fluency_id: str) -> str:
    """The model that measures perplexity; "" where there was none."""
    return "the run's own unsteered model" if fluency_id == "unsteered" else fluency_id


def source(uri: str) -> str:
    """'data/tone.jsonl#label=tone' → 'tone.jsonl'."""
    name = uri.partition("#")[0].partition("?")[0]
    if name == "held_out":
        return "pieces of the held-out documents"
    if name.startswith("synthetic:"):
        return f"the embedded corpus ({name.removeprefix('synthetic:')})"
    if name.startswith("hub:") and "@" in name:
        return f"{name.removeprefix('hub:').partition('@')[0]}{_part_of_hub(uri)}"
    return name.rsplit("/", 1)[-1]


def _part_of_hub(uri: str) -> str:
    """' (annotated, test)' of a data set of the hub: its config and split, if they are named."""
    query = dict(parse_qsl(uri.partition("#")[0].partition("?")[2]))
    named = [query[key] for key in ("config", "split") if key in query]
    return f" ({', '.join(named)})" if named else ""


def benchmark(name: str) -> str:
    """'arc norm' → 'arc, by likelihood per character'."""
    own, _, quantity = name.partition(" ")
    return f"{own}, {BENCHMARK_QUANTITIES[quantity]}" if quantity else own


def benchmark_source(text: str) -> str:
    """'letter:data/mmlu.jsonl#shots=5' → 'mmlu.jsonl, letter form, 5 examples'."""
    form, _, uri = text.partition(":")
    items = [item.partition("=") for item in uri.partition("#")[2].split("&")]
    n_shots = next((value for key, _, value in items if key == "shots"), "0")
    shots = "" if n_shots == "0" else f", {n_shots} example{'' if n_shots == '1' else 's'}"
    return f"{source(uri)}, {form} form{shots}"
