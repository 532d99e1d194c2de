"""Drawn faces: factors, their shapes, the layers that paint them. The public face is `data.synthetic`.

names       the classes and attributes
hashing     random numbers by place: (seed, stream, item, k)
factors     a person's and a picture's factors
expression  factors -> action units
shape       action units and factors -> control points and curves (shared by the painter and the landmarks)
palette     factors -> colours
scene       the canvas, its windows and its painting blocks
backdrop, hair, skin, nose, eyes, mouth, worn, lens     the layers
draw        layers in order: factors -> uint8 pictures
marks       68 and 5 landmarks
labels      factors -> 33 attributes
edits       the oracle: one thing changed, all else kept
"""
