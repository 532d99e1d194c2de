"""Face data: readers of data sets, packs of prepared pictures, and batches. `data/README.md` describes them."""

from data.celeba import CelebA
from data.config import DataConfig
from data.drawn_reader import DrawnFaces
from data.faces import Faces, FaceSet, build_faces
from data.fer2013 import FER2013
from data.folder import Folder
from data.raw import RawFaces
from data.tfd import TFD

READERS: dict[str, type[RawFaces]] = {
    "synthetic": DrawnFaces,
    "celeba": CelebA,
    "fer2013": FER2013,
    "tfd": TFD,
    "folder": Folder,
}

__all__ = ["READERS", "DataConfig", "FaceSet", "Faces", "RawFaces", "build_faces"]
