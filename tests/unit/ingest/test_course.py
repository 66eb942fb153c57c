"""States between the commits of one fold."""

from __future__ import annotations

import numpy as np

from featureflow.ingest.course import Course


def test_after_a_commit_that_comes_behind_all_of_its_own_everything_is_as_its_last_one_left_it() -> None:
    """As of a slab of cells, where the batch's last commits change rows only."""
    course = Course(
        slots=np.array([0, 1]), positions=np.array([0, 0]), earlier=np.array([[1], [2]], np.uint8), fresh=np.array([False, False]),
        first=np.array([0, 2]), commits=np.array([0, 1, 0]), table=np.array([[10], [11], [20]], np.uint8),
    )  # fmt: skip
    for commit, left in ((0, [10, 20]), (1, [11, 20]), (2, [11, 20]), (7, [11, 20])):
        table = np.array([[11], [20]], np.uint8)
        assert course.rewind(commit, np.array([0, 1]), np.array([1, 1]), table).all()
        assert table[:, 0].tolist() == left, f"after commit {commit}"
