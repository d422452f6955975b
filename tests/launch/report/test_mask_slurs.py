from launch.report.mask_slurs import mask, masking


def test_a_mask_keeps_the_first_letter_only():
    text = "A Blarg, two blargs; blargh!"
    assert mask(text, {"Blarg", "blargs"}) == "A B****, two b*****; blargh!"


def test_words_that_the_profanity_scorer_knows_are_masked():
    masked = masking(["what crap", "no lace"])
    assert (masked("what crap"), masked("no lace")) == ("what c***", "no lace")
