"""Old place of mixtures.samples.scores, for one release."""

from mixtures.samples.scores import *  # noqa: F403
