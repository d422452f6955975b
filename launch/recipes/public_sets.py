"""public data sets of the paper's protocol: names on the hub, commits, fields

A commit is pinned for each. Any of them may be replaced by a local copy with the same fields.
ToxiGen and AdvBench have been gated: the hub gives them to a token whose owner has filled in the
form on their page.
"""

TOXIGEN = "hub:toxigen/toxigen-data@ea082a8973a287097b17973343576e0c8da8eb3b"
# 8,960 and 940 statements: text, target_group, toxicity_ai and toxicity_human from 1 to 5, intent
TOXIGEN_ANNOTATED = f"{TOXIGEN}?config=annotated#text=text"
TOXIGEN_ANNOTATED_TEST = f"{TOXIGEN}?config=annotated&split=test#text=text"
# 31 splits of 1,000 prompts, hate_GROUP_1k and neutral_GROUP_1k
TOXIGEN_PROMPTS = f"{TOXIGEN}?config=prompts&split=all#text=prompt"

# 99,442 rows: prompt and continuation, each with text and eight Perspective scores
RTP = "hub:allenai/real-toxicity-prompts@d3a6507562064c4f37cdf267bdc2faa7b0873173"
RTP_PROMPTS = f"{RTP}#text=prompt.text"

MMLU = (
    "hub:cais/mmlu@c30699e8356da336a370243923dbaf21066bb9fe"  # question, subject, choices, answer
)
MMLU_TEST = f"{MMLU}?config=all&split=test#text=question"  # 14,042
MMLU_VALIDATION = f"{MMLU}?config=all&split=validation#text=question"  # 1,531
MMLU_DEV = f"{MMLU}?config=all&split=dev#text=question"  # 285, the examples of five shots

ARC = "hub:allenai/ai2_arc@210d026faf9955653af8916fad021475a3f00453"
ARC_EASY = f"{ARC}?config=ARC-Easy&split=test#text=question"  # 2,376
ARC_CHALLENGE = f"{ARC}?config=ARC-Challenge&split=test#text=question"  # 1,172

BOOLQ = (  # 3,270
    "hub:google/boolq@35b264d03638db9f4ce671b711558bf7ff0f80d5?split=validation#text=question"
)
# 520 instructions: prompt, target
ADVBENCH = "hub:walledai/AdvBench@9d4730540082fa4017450b65ca1c0e1d8d30446e#text=prompt"

# 80 Parquet files, the paper's text for the cost of steering
OPENWEBTEXT = "hub:Skylion007/openwebtext@b4325f019c648b1641a1784748667e8b74e5e064"

# What must not be trained on, whichever of these an experiment is evaluated on.
LOOKED_FOR = (
    TOXIGEN_ANNOTATED,
    TOXIGEN_ANNOTATED_TEST,
    TOXIGEN_PROMPTS,
    RTP_PROMPTS,
    MMLU_TEST,
    MMLU_VALIDATION,
    MMLU_DEV,
    ARC_EASY,
    ARC_CHALLENGE,
    BOOLQ,
    ADVBENCH,
)
