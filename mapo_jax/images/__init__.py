"""stub"""

import numpy as np


def patches(picture, patch=14, merge=2):
    h, w, _ = picture.shape
    rows, columns = h // patch, w // patch
    x = picture.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    return x.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, -1)
