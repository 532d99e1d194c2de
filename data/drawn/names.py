"""Names that users see: expression classes, attributes, the identities where each split begins."""

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")

# Those of CelebA's 40 names whose truth follows from a drawn face's factors, in CelebA's order.
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose", "Black_Hair",
    "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Eyeglasses", "Goatee", "Gray_Hair", "Male",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Young",
)  # fmt: skip

STYLES = ("bald", "buzz", "part", "quiff", "curly", "mop", "bob", "long", "wavy", "bun")
HAIR_COLOURS = ("black", "dark brown", "brown", "red", "blond", "platinum", "gray", "white")
BEARDS = ("none", "stubble", "goatee", "moustache", "full")

# First identity of each split: enlarging one split never changes a face of another.
SPLIT_OFFSET = {"train": 0, "val": 10**6, "test": 2 * 10**6}

# Mean eye centres (image-left, image-right) of the drawn faces, in [-1, 1] from edge to edge.
EYES = ((-0.262, -0.06), (0.262, -0.06))
