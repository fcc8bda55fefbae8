"""Numbers in words and in digits are the same words, and mistakes are counted as Levenshtein counts them."""

import pytest

from nextok_mm.eval.transcripts import error_rate, heard, mistakes


@pytest.mark.parametrize(
    "words, digits",
    [
        ("The number is five zero three.", "the number is 503"),
        ("five hundred three", "503"),
        ("Five hundred and three people", "503 people"),
        ("In nineteen forty-two, there were ninety pages.", "In 1942 there were 90 pages."),
        ("At nine thirty, the boss lost it.", "At 9:30, the boss lost it."),
        ("At nine o'clock.", "At 9:00."),
        ("It costs four hundred five dollars and eighty-five cents.", "It costs $405.85."),
        ("sixteen dollars and one cents", "$16.01"),
        ("twelve dollars", "$12"),
        ("about two hundred sixty-five point six four hours", "about 265.64 hours"),
        ("twelve thousand three hundred forty miles", "12,340 miles"),
        ("two million five hundred thousand", "2,500,000"),
        ("the twenty-first floor, the fourth", "the 21st floor, the 4th"),
        ("On the thirtieth", "on the 30th"),
        ("fifty percent", "50%"),
        ("Don't go, it's late", "dont go its late"),
        ("one, two, three", "123"),
    ],
)
def test_both_forms_of_a_number_are_the_same_words(words, digits):
    assert heard(words) == heard(digits)


def test_other_words_stay_other_words():
    assert heard("four and five") == ["4", "and", "5"]
    assert heard("a hundred and more") == ["a", "1", "0", "0", "and", "more"]
    assert heard("twenty zero") == ["2", "0", "0"] and heard("Second to none") == ["2", "th", "to", "none"]
    assert heard("") == heard("...!") == []


@pytest.mark.parametrize(
    "asked, found, number",
    [("a b c", "a b c", 0), ("a b c", "a c", 1), ("a c", "a b c", 1), ("a b", "c d", 2), ("", "a b", 2), ("a", "", 1)],
)
def test_mistakes(asked, found, number):
    assert mistakes(asked.split(), found.split()) == number


def test_the_rate_is_of_all_words_together():
    assert error_rate(["one word", "three more words"], ["one word", "three words"]) == (0.2, 1, 5)
    with pytest.raises(ValueError):
        error_rate(["one"], [])
