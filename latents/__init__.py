"""What one does with codes, whoever made them: `directions` (which way is a smile), `local` (which way
it is for this face), `boundaries` (the hyperplane between smiling and not), `steps` (the shortest way across it) and
`paths` (how to walk there).

Arithmetic only: no network, no image, no file, nothing else of this repository. Codes are rows (N, Z).
"""
