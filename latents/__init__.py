"""Operations on codes (N, Z) of any model. They use no network, image or file, and no other package of this repository.

directions.py    attribute directions, scores and step sizes
local.py         directions that differ for each code (optimal transport)
boundaries.py    the hyperplane between codes with and without an attribute
steps.py         the smallest step that changes some readings and keeps others
paths.py         interpolation
roc_auc.py       area under the ROC curve
"""
