"""Old place of mixtures.diagnosis.matrix, for one release."""

from mixtures.diagnosis.matrix import *  # noqa: F403
