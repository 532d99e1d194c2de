"""Every form of a request, and error messages for everything else."""

import pytest

from data.request import FORMS, AttributeEdit, parse_names, parse_request
from engine.errors import UserError

CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
HAIR = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald", "Straight_Hair", "Wavy_Hair"]
ATTRIBUTES = ["Smiling", "Male", "No_Beard", "Young", "Eyeglasses", "Wearing_Hat", *HAIR]


def parse(text):
    return parse_request(text, CLASSES, ATTRIBUTES)


def one(text):
    (move,) = parse(text)
    return move


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("Smiling=1", AttributeEdit("Smiling", "set", 1.0)),
        ("Smiling=0", AttributeEdit("Smiling", "set", 0.0)),
        ("Smiling=1.0", AttributeEdit("Smiling", "set", 1.0)),
        ("Smiling=0.7", AttributeEdit("Smiling", "amount", 0.7)),
        ("Smiling=.7", AttributeEdit("Smiling", "amount", 0.7)),
        ("Male=flip", AttributeEdit("Male", "flip")),
        ("Male=any", AttributeEdit("Male", "any")),
        ("Smiling=+1.5", AttributeEdit("Smiling", "step", 1.5)),
        ("Smiling=+1", AttributeEdit("Smiling", "step", 1.0)),
        ("Smiling=-1.0", AttributeEdit("Smiling", "step", -1.0)),
        ("Smiling=-2", AttributeEdit("Smiling", "step", -2.0)),
        ("Smiling=@2", AttributeEdit("Smiling", "absolute", 2.0)),
        ("Smiling=@-0.5", AttributeEdit("Smiling", "absolute", -0.5)),
        ("Smiling=p0.8", AttributeEdit("Smiling", "probability", 0.8)),
        ("Smiling=-2:3:6", AttributeEdit("Smiling", "range", -2.0, 3.0, 6)),
        ("happy", AttributeEdit("happy", "set", 1.0, is_class=True)),
        ("happy=0.7", AttributeEdit("happy", "amount", 0.7, is_class=True)),
        ("happy=1", AttributeEdit("happy", "set", 1.0, is_class=True)),
        ("happiness", AttributeEdit("happy", "set", 1.0, is_class=True)),
        ("Anger=0.5", AttributeEdit("angry", "amount", 0.5, is_class=True)),
        ("smiling=1", AttributeEdit("Smiling", "set", 1.0)),
        ("no-beard=1", AttributeEdit("No_Beard", "set", 1.0)),
        ("smile=1", AttributeEdit("Smiling", "set", 1.0)),
        ("Glasses=flip", AttributeEdit("Eyeglasses", "flip")),
        # words that mean the opposite
        ("Beard=1", AttributeEdit("No_Beard", "set", 0.0)),
        ("Beard=0.25", AttributeEdit("No_Beard", "amount", 0.75)),
        ("Beard=flip", AttributeEdit("No_Beard", "flip")),
        ("Beard=+1.5", AttributeEdit("No_Beard", "step", -1.5)),
        ("Beard=@2", AttributeEdit("No_Beard", "absolute", -2.0)),
        ("Old=p0.75", AttributeEdit("Young", "probability", 0.25)),
        ("Female=-2:3:6", AttributeEdit("Male", "range", 2.0, -3.0, 6)),
    ],
)
def test_parse_every_form(text, move):
    assert one(text) == move


@pytest.mark.parametrize("text", ["Smiling=1 Male=0 sad=0.7", "Smiling=1,Male=0,sad=0.7", "Smiling=1; Male=0;sad=0.7"])
def test_separators(text):
    assert str(parse(text)) == "Smiling=1;Male=0;sad=0.7"
    assert parse(text.split(" ")) == parse(text)  # as argparse gives it


def test_a_request_is_parsed_from_its_own_text():
    forms = "Smiling=1 Male=0.25 No_Beard=flip Young=any Eyeglasses=-1.0 Black_Hair=@-2 Bald=p0.8"
    request = parse(forms + " Wavy_Hair=-2:3:6 sad=0.5")
    assert parse(str(request)) == request
    assert {move.form for move in request} == set(FORMS)
    assert request.names[:2] == ["Smiling", "Male"] and "Bald" in request and request["Bald"].value == 0.8
    assert [m.name for m in request.classes] == ["sad"] and len(request.attributes) == len(request) - 1


def test_a_range_includes_both_ends():
    assert one("Smiling=-2:3:6").values() == [-2, -1, 0, 1, 2, 3]
    assert one("Smiling=0.7").values() == [0.7] and one("Smiling=flip").values() == []


def test_hair_colours_exclude_each_other():
    request = parse("hair=blond")
    assert {m.name: m.value for m in request} == {"Blond_Hair": 1, "Black_Hair": 0, "Brown_Hair": 0, "Gray_Hair": 0}
    assert [m.name for m in request if not m.implied] == ["Blond_Hair"]
    assert {m.name: m.value for m in parse("hair=wavy")} == {"Wavy_Hair": 1, "Straight_Hair": 0}
    assert parse("hair=bald").names == ["Bald"]
    assert parse_request("hair=grey", (), ["Gray_Hair"]).names == ["Gray_Hair"]
    stated = {m.name: m.value for m in parse("hair=blond Black_Hair=0.5")}  # what is stated wins over what is implied
    assert stated["Black_Hair"] == 0.5
    with pytest.raises(UserError, match="hair=green: expected one of black"):
        parse("hair=green")
    with pytest.raises(UserError, match="knows no hair"):
        parse_request("hair=blond", CLASSES, ["Smiling"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Smiling=-1", "Smiling=0 .* Smiling=-1.0"),
        ("Smilling=1", "'Smilling' is unknown.*Smiling"),
        ("hapy", "'hapy' is unknown.*happy"),
        ("Smiling=2", r"in 0 .. 1.*Smiling=\+2"),
        ("Smiling", "Smiling=1 or Smiling=0"),
        ("Smiling=", "not a valid value; expected one of Smiling=1 or 0"),
        ("Smiling=yes", "'yes' is not a valid value"),
        ("Smiling=nan", "'nan' is not a valid value"),
        ("Smiling=p1", "probability between 0 and 1"),
        ("Smiling=-2:3:1", "2 to 1000"),
        ("Smiling=-2:3", "not a valid value"),
        ("Smiling=1 smile=0", "Smiling is given twice"),
        ("No_Beard=1 Beard=1", "No_Beard is given twice"),
        ("happy sad", "happy=1, sad=1: a face has one expression"),
        ("happy=0.6 sad=0.6", "at most 1"),
        ("", "the request is empty"),
        (" , ", "the request is empty"),
    ],
)
def test_error_messages(text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_mixtures_of_expressions_are_allowed():
    assert str(parse("happiness=0.6,surprise=0.4")) == "happy=0.6;surprise=0.4"


def test_three_nearest_names():
    with pytest.raises(UserError) as error:
        parse("Blond_Hare=1")
    names = str(error.value).split("are ")[1].split(", ")
    assert names[0] == "Blond_Hair" and len(names) == 3
    with pytest.raises(UserError, match="nearest names are No_Beard"):
        parse("beards=1")  # near to a word that stands for it


def test_names_of_the_model_are_used():
    assert parse_request("happy", ["happiness", "anger"], []).names == ["happiness"]
    with pytest.raises(UserError, match="unknown"):
        parse_request("Beard=1", CLASSES, ["Smiling"])  # the alias of an attribute that the model lacks
    with pytest.raises(UserError, match="no expressions and no attributes"):
        parse_request("Smiling=1")


def test_unsupported_forms_are_an_error():
    request = parse("Smiling=1 Male=+1.5")
    assert request.require("set", "step", method="vae") is request
    with pytest.raises(UserError, match=r"Male=\+1.5: stargan cannot do this; it supports Name=1 or 0, Name=flip"):
        request.require("set", "flip", method="stargan")


def test_bare_names():
    assert parse_names(["Smiling", "glasses,Beard"], CLASSES, ATTRIBUTES) == ["Smiling", "Eyeglasses", "No_Beard"]
    assert parse_names("all", CLASSES, ATTRIBUTES) == CLASSES + ATTRIBUTES
    assert parse_names("happiness happy", CLASSES, ATTRIBUTES) == ["happy"]
    with pytest.raises(UserError, match="nearest"):
        parse_names("Smilin", CLASSES, ATTRIBUTES)


def test_a_smile_is_an_expression_or_an_attribute():
    classes, attributes = ["neutral", "happy"], ["Male", "Smiling"]
    assert parse_request("Smiling=1", classes) == parse_request("happy", classes)
    assert parse_request("smile=0", classes) == parse_request("neutral", classes)
    assert parse_request("happy Male=1", [], attributes) == parse_request("Smiling=1 Male=1", [], attributes)
    assert parse_request("neutral", [], attributes) == parse_request("Smiling=0", [], attributes)
    assert parse_request("Smiling=1", classes, attributes).names == ["Smiling"]
    with pytest.raises(UserError, match="unknown here"):
        parse_request("Smiling=1", ["sad", "fear"])
