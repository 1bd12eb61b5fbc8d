"""What graded responses come to: counts, votes, intervals, scores, the choice and the verdict."""
